"""Puts plain words in the place of medical terms, without touching what a sentence says.

Knows a table of terms (resources/glossary.csv, written for this project), and enough grammar
to put a plain form where a term stood: casing, plurals, possessives, a/an. Knows no model, no
loss and no engine. Where a replacement could turn out ungrammatical or change a name, it
leaves the term alone: a text half simplified is better than a text made wrong.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from serve_app.core.documents import read_text
from serve_app.core.errors import ConfigError
from serve_app.core.resources import RESOURCES
from serve_app.text.glossary_table import (
    Form,
    Token,
    is_abbreviation,
    key_of,
    read_forms,
    tokens_of,
    words,
)

_CONTEXT = 160  # characters before a term that decide whether and how it is replaced
_LONGEST_TERM = 80  # characters
_JOINERS = frozenset("-‐‑–/@_&+")
_APOSTROPHES = frozenset("'’")

_WORD = re.compile(r"[^\W_]+")
_ARTICLE = re.compile(r"(?<![^\W_])(an?|An?|AN)(\s+)\Z")
_BEFORE_A_SENTENCE = frozenset(" \t\r\n\"'“‘([*–—-")
_OPENING_QUOTE = re.compile(r"(?<!\w)['‘](?=\w)")
_PARENTHESIS = re.compile(r"\s*[(\[]([^()\[\]]{1,200})[)\]]")
_LINK = re.compile(
    r"(?:[\s,;:(\[–—-]|(?<![^\W_])(?:and|or|also|called|known|as|named|i\.e\.|that is))*\Z",
    re.IGNORECASE,
)
# `double-blind, randomised trial`: an adjective and a comma want a noun next, not a clause.
_STACKED_ADJECTIVE = re.compile(
    r"(?:[-‐‑](?:blind|blinded|controlled|label|group|cent(?:re|er)|designed|masked)"
    r"|multicent(?:re|er)|prospective|randomi[sz]ed|parallel|large|small),\s*\Z",
    re.IGNORECASE,
)
# An adjective and `and` before a term.
_COORDINATED = re.compile(
    r"([a-z]+)-?\s+(?:and|or|to)\s+\Z",
    re.IGNORECASE,
)
_ADJECTIVE = re.compile(
    r"\w+(?:al|ic|ive|ous|ary|ory|lar|ed)|pre|post|non|multiple|early|late|mild", re.IGNORECASE
)
# `3 RCT`: a slip of the pen, but `3 study` would be ours.
_COUNTED = re.compile(
    r"(?<![\w.,-])(?!0*1\s)(?:\d[\d,]*|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|"
    r"several|many|few|both|these|those)\s+\Z",
    re.IGNORECASE,
)
_PREFIXES = words("non quasi pseudo anti pre post sub semi")

# What may follow a form that carries its head first (`removal of the womb`): anything that
# cannot be the noun it would then modify.
_FOLLOWERS = words(
    "of in with for to from by on at as than and or but nor if when where while whilst whereas "
    "who which that was were is are be been being has have had do does did may might can could "
    "should would will must not also after before during between among amongst within without "
    "across compared versus vs through until because although however then so yet only both "
    "either neither over under about around using due per alone regarding owing prior "
    "subsequent subsequently furthermore moreover mainly later often frequently predominantly "
    "primarily approximately underwent comparing involving including evaluating assessing "
    "testing checking investigating looking increased decreased reduced improved showed "
    "occurred remained appeared seemed caused led fell rose enhanced undergo undergoes "
    "utilising utilizing orally subcutaneously concomitantly prophylactically"
)


@dataclass(frozen=True, slots=True)
class Replacement:
    """One term and what stands in its place.

    Attributes:
        term: as written, `text[start:end]` of the original text.
        plain: as inserted: cased, and plural or possessive where the term was.
        start: offset of the term's first character in the original text.
        end: offset after its last.
    """

    term: str
    plain: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Place:
    """A term found in a text, as `tokens[index:stop]`.

    `before` is what has been written up to it, replacements included: judging by that, and
    not by the original, a second pass over the result judges alike.
    """

    form: Form
    text: str
    before: str
    tokens: list[Token]
    index: int
    stop: int

    @property
    def first(self) -> Token:
        return self.tokens[self.index]

    @property
    def last(self) -> Token:
        return self.tokens[self.stop - 1]


@dataclass(slots=True)
class _Node:
    form: Form | None = None
    next: dict[str, _Node] = field(default_factory=dict)


class Glossary:
    """Medical terms and their plain forms. Immutable once built, so safe in threads."""

    def __init__(self, forms: Mapping[str, Form]) -> None:
        self._forms = {key: form for key, form in forms.items() if form.kind != "keep"}
        adjectives = (form.plain for form in forms.values() if form.kind == "adjective")
        self._attributes = frozenset(plain.rpartition(" ")[2] for plain in adjectives)
        self._root = _Node()
        for key, form in forms.items():
            node = self._root
            for token in tokens_of(key):
                node = node.next.setdefault(token.key, _Node())
            node.form = form

    @classmethod
    def load(cls, path: Path | None = None) -> Glossary:
        """Reads a glossary file; the packaged one by default.

        The file is UTF-8 CSV with the columns `term`, `plain`, `kind` (noun, verb, adjective,
        adverb, phrase, or keep: a phrase never to be touched, its own plain form) and,
        optionally, `plural_term` and `plural_plain` for nouns that can be counted. A noun
        without them stands for a mass and is left alone after `a` or `an`. A term written with
        a capital letter (`RCT`) is matched with exactly those capitals.

        Raises:
            ConfigError: the file cannot be read, or a row is wrong; names line and column.
        """
        source = RESOURCES / "glossary.csv" if path is None else path
        try:
            forms = dict(read_forms(io.StringIO(read_text(source), newline=""), source))
        except ConfigError:
            raise
        except (OSError, ValueError, csv.Error) as error:
            raise ConfigError(f"cannot read the glossary {source}: {error}") from error
        glossary = cls(forms)
        for form in glossary._forms.values():
            for inner in glossary.find(form.plain):
                raise ConfigError(
                    f"{source}: column plain of term {form.term!r} contains the term "
                    f"{inner.term!r}; a plain form must hold none"
                )
        return glossary

    def __len__(self) -> int:
        """The number of forms: each spelling, singular and plural, counts."""
        return len(self._forms)

    def __iter__(self) -> Iterator[str]:
        return (form.term for form in self._forms.values())

    def lookup(self, term: str) -> str | None:
        """The plain form of exactly this term, or None. Case matters for abbreviations only."""
        form = self._forms.get(key_of(term))
        if form is None or (is_abbreviation(form.term) and form.term != term):
            return None
        return form.plain

    def find(self, text: str) -> list[Replacement]:
        """The replacements `simplify` would make, in order; linear in the text's length."""
        return list(self.simplify(text)[1])

    def simplify(self, text: str) -> tuple[str, tuple[Replacement, ...]]:
        """Replaces terms by plain forms, the longest first; never fails.

        Left alone: terms inside hyphenated words, capitalised names (`Cochrane Hypertension
        Group`), terms explained in a parenthesis beside them, and places where the plain
        form would not be grammatical. `a` and `an` before a replacement are put right.

        >>> glossary = Glossary.load()
        >>> glossary.simplify("An RCT of hypertension.")[0]
        'A study with groups chosen by chance of high blood pressure.'
        """
        tokens = tokens_of(text)
        pieces: list[str] = []
        done: list[Replacement] = []
        last = index = 0
        while index < len(tokens):
            match = self._longest(text, tokens, index)
            if match is None:
                index += 1
                continue
            form, count = match
            start = tokens[index].start
            gap = text[max(last, start - _CONTEXT) : start]
            before = ("".join([*pieces[-4:], gap]))[-_CONTEXT:] if len(gap) < _CONTEXT else gap
            place = _Place(form, text, before, tokens, index, index + count)
            # A term that cannot be replaced is left whole: its parts mean less than it does.
            index += count
            found = self._replacement(place)
            if found is not None:
                pieces += [_with_article(text[last:start], found.plain), found.plain]
                done.append(found)
                last = found.end
        return "".join([*pieces, text[last:]]), tuple(done)

    def _replacement(self, place: _Place) -> Replacement | None:
        """What to write in place of a term, or None where it has to stay."""
        form, text, start, end = place.form, place.text, place.first.start, place.last.end
        if form.kind == "keep" or not _is_whole_word(place) or not _is_grammatical(place):
            return None
        if form.kind == "noun" and self._shares_noun(place):
            return None
        plain = _cased(form, text, start, end)
        if plain is None or _is_explained_after(form, text, end):
            return None
        if _is_explained_before(form, place.before):
            return None
        before, after = place.before[-_LONGEST_TERM:], text[end : end + _LONGEST_TERM]
        if self._makes_term(before, plain, after):
            return None
        if text[end : end + 1] in _APOSTROPHES and _wants_s(place, plain):
            # participants' -> people's
            plain, end = f"{plain}{text[end]}s", end + 1
        return Replacement(text[start:end], plain, start, end)

    def _shares_noun(self, place: _Place) -> bool:
        """`medical and surgical interventions`: the noun belongs to both, so it has to stay."""
        if place.stop - place.index == 1:
            return False
        match = _COORDINATED.search(place.before[-_LONGEST_TERM:])
        if match is None:
            return False
        is_adjective = match[1].lower() in self._attributes or _ADJECTIVE.fullmatch(match[1])
        return bool(is_adjective) and place.last.key != key_of(place.form.plain).split(" ")[-1]

    def _makes_term(self, before: str, plain: str, after: str) -> bool:
        """Whether the plain form and a neighbour make a new term: `contraception` + ` group`.

        That term would not mean what it says, and a second pass would replace it.
        """
        window = f"{before}{plain}{after}"
        tokens = tokens_of(window)
        borders = (len(before), len(before) + len(plain))
        for index, token in enumerate(tokens):
            match = self._longest(window, tokens, index)
            if match is not None and match[0].kind != "keep":
                end = tokens[index + match[1] - 1].end
                if any(token.start < border < end for border in borders):
                    return True
        return False

    def _longest(self, text: str, tokens: list[Token], index: int) -> tuple[Form, int] | None:
        """The longest form that begins at a token, and how many tokens it spans."""
        node, longest = self._root, None
        for position in range(index, len(tokens)):
            token = tokens[position]
            if position > index:
                gap = text[tokens[position - 1].end : token.start]
                if tokens[position - 1].possessive or not gap.isspace() or gap.count("\n") > 1:
                    break
            following = node.next.get(token.key)
            if following is None:
                break
            node = following
            if node.form is not None:
                longest = (node.form, position - index + 1)
        return longest


def _is_whole_word(place: _Place) -> bool:
    """Whether the term is no part of a hyphenated or prefixed word."""
    after = place.text[place.last.end : place.last.end + 1]
    if place.before[-1:] in _JOINERS or (after in _JOINERS and not place.last.possessive):
        return False
    previous = place.tokens[place.index - 1].key if place.index else ""
    return not (place.before[-1:].isspace() and previous in _PREFIXES)


def _is_grammatical(place: _Place) -> bool:
    """Whether the plain form can stand between the words around the term."""
    form, text, last = place.form, place.text, place.last
    if form.kind == "noun" and not form.countable and _ARTICLE.search(place.before):
        return False
    if form.kind == "noun" and form.countable and not form.plural:
        alone = place.stop == len(place.tokens) or place.tokens[place.stop].key in _FOLLOWERS
        if alone and is_abbreviation(form.term) and _COUNTED.search(place.before):
            return False
    if form.kind not in ("noun", "adverb") or not form.head_first:
        return True
    after = text[last.end : last.end + 1]
    if last.possessive or after in _APOSTROPHES or _STACKED_ADJECTIVE.search(place.before):
        return False
    if form.plural or place.stop == len(place.tokens):
        return True
    following = place.tokens[place.stop]
    gap = text[last.end : following.start]
    if not gap.isspace() or ("\n" in gap and text[following.start].isupper()):
        return True
    return following.key in _FOLLOWERS or following.key[0].isdigit()


def _wants_s(place: _Place, plain: str) -> bool:
    """Whether an apostrophe after a plural in -s is a possessive that `plain` needs an s for."""
    start, end = place.first.start, place.last.end
    ends_bare = place.text[end - 1] in "sS" and plain[-1] not in "sS"
    quoted = _OPENING_QUOTE.search(place.text[max(0, start - 300) : start + 1]) is not None
    return ends_bare and not place.last.possessive and not quoted


def _cased(form: Form, text: str, start: int, end: int) -> str | None:
    """The plain form cased as the term was, or None if the capitals make the term a name."""
    written, plain = text[start:end], form.plain
    capitalised = plain[0].upper() + plain[1:]
    if is_abbreviation(form.term):
        if written != form.term:
            return None
        return capitalised if _at_sentence_start(text, start) else plain
    if written.islower():
        return plain
    if written.isupper() and len(written) > 1:
        return plain.upper()
    if not written[0].isupper() or not _at_sentence_start(text, start):
        return None
    following = _WORD.match(text, end + 1)
    is_heading = text[end : end + 1] in ("", "\n", ":")
    is_title = not written[1:].islower() or (following is not None and following[0].istitle())
    return None if is_title and not is_heading else capitalised


def _at_sentence_start(text: str, position: int) -> bool:
    while position and text[position - 1] in _BEFORE_A_SENTENCE:
        if text[position - 1] == "\n":
            return True
        position -= 1
    return position == 0 or text[position - 1] in ".!?:•"


def _is_explained_after(form: Form, text: str, end: int) -> bool:
    """`hypertension (high blood pressure)`: the writer has said it already."""
    parenthesis = _PARENTHESIS.match(text, end)
    return parenthesis is not None and form.plain.lower() in parenthesis[1].lower()


def _is_explained_before(form: Form, before: str) -> bool:
    """`high blood pressure (hypertension)`: replacing would say it twice."""
    tail = before.lower()
    link = _LINK.search(tail)
    return link is not None and tail[: link.start()].endswith(form.plain.lower())


def _with_article(gap: str, plain: str) -> str:
    """Text before a replacement, with a final `a` or `an` agreeing with what now follows."""
    match = _ARTICLE.search(gap[-40:])
    if match is None:
        return gap
    written = match[1]
    vowel = plain[0].lower() in "aeiou" and not plain.lower().startswith(("use", "usual", "uni"))
    article = written[0] + ("n" if vowel else "")
    article = article.upper() if written == "AN" else article
    return gap[: len(gap) - len(match[0])] + article + match[2]
