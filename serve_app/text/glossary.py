"""Replaces medical terms by plain words without changing what a sentence says.

Knows a table of terms (resources/glossary.csv, written for this project) and the grammar of
replacing: casing, plurals, possessives, a/an. Knows no model, loss or engine. Where a replacement
could be ungrammatical or change a name, the term stays: half simplified is better than wrong.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from serve_app.core.documents import read_text
from serve_app.core.errors import ConfigError
from serve_app.core.resources import RESOURCES

_REQUIRED = ("term", "plain", "kind")
_PLURAL = ("plural_term", "plural_plain")
_OPTIONAL = (*_PLURAL, "context")
_CONTEXTS = ("after", "not after", "before", "not before", "near", "text")
_KINDS = ("noun", "verb", "adjective", "modifier", "adverb", "phrase", "keep")

# A word with a hyphen, slash, dot or apostrophe inside is one token, so that no term is found
# inside `placebo-controlled`, `pain/nausea` or `www.hypertension.org`.
_TOKEN = re.compile(r"[^\W_]+(?:[-‐‑–'’/.@&+_]+[^\W_]+)*")
_SPELLING = str.maketrans({"‐": "-", "‑": "-", "’": "'"})
_CONTEXT = 160  # characters before a term that decide whether and how it is replaced
_LONGEST_TERM = 80  # characters
_JOINERS = frozenset("-‐‑–/@_&+")
_APOSTROPHES = frozenset("'’")

_WORD = re.compile(r"[^\W_]+")
_LAST_WORD = re.compile(r"([^\W_]+)[\s-]+\Z")
_NEXT_WORD = re.compile(r"[\s-]+([^\W_]+)")
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
_COORDINATED = re.compile(r"([a-z]+)-?\s+(?:and|or|to)\s+\Z", re.IGNORECASE)
_ADJECTIVE = re.compile(
    r"\w+(?:al|ic|ive|ous|ary|ory|lar|ed)|pre|post|non|multiple|early|late|mild", re.IGNORECASE
)
# `3 RCT`: a slip of the pen, but `3 study` would be ours.
_COUNTED = re.compile(
    r"(?<![\w.,-])(?!0*1\s)(?:\d[\d,]*|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|"
    r"several|many|few|both|these|those)\s+\Z",
    re.IGNORECASE,
)


def _words(listing: str) -> frozenset[str]:
    return frozenset(listing.split())


# Words that mark a plain form as head-first: `removal of the womb`.
_HEAD_FIRST = _words(
    "of in with that to for from by on at about after before who which during between "
    "around inside outside born up under without"
)
_GERUND_FIRST = _words("trouble feeling stopping choosing coughing taking waking")
_PREFIXES = _words("non quasi pseudo anti pre post sub semi")

# Words that may follow a head-first form: none can be a noun that it would modify.
_FOLLOWERS = _words(
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
class Form:
    """One spelling and number of a term.

    Attributes:
        term: as in the table; with a capital letter, an abbreviation.
        plain: its replacement.
        kind: noun, verb, adjective, modifier (a noun in the place of an adjective), adverb,
            phrase, or keep (never replaced).
        plural: True for the plural of a noun.
        countable: True for a noun that has a plural.
        head_first: the plain form's main word precedes its modifiers, so that it can neither
            modify another noun nor take a possessive.
        context: where the term has this sense: by `after` (the words one of which must stand
            before it), `not after`, `before`, `not before`, `near` (words that must not be within
            six words) and `text` (phrases that the text must not have anywhere).
    """

    term: str
    plain: str
    kind: str
    plural: bool
    countable: bool
    head_first: bool
    context: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Token:
    """One word of a text.

    Attributes:
        key: the word in lower case with plain hyphens and apostrophes, without possessive `'s`.
        start, end: offsets of the word, without the `'s`.
        possessive: True if `'s` follows.
    """

    key: str
    start: int
    end: int
    possessive: bool


@dataclass(frozen=True, slots=True)
class Replacement:
    """A term and its replacement.

    Attributes:
        term: as written, `text[start:end]` of the original text.
        plain: as inserted: cased, plural and possessive like the term.
        start, end: offsets in the original text.
    """

    term: str
    plain: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Hit:
    """A term found in a text, as `tokens[index:stop]`.

    `before` is the text written up to it, replacements included, so that a second pass over the
    result decides the same.
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


def key_of(term: str) -> str:
    """The term without its case, spacing and choice of hyphen characters."""
    return " ".join(term.translate(_SPELLING).lower().split())


def is_abbreviation(term: str) -> bool:
    """Whether the term is matched with exactly its capitals."""
    return term != term.lower()


def tokens_of(text: str) -> list[Token]:
    """The words of a text, in order; linear in its length."""
    return [_token(match) for match in _TOKEN.finditer(text.translate(_SPELLING))]


def _token(match: re.Match[str]) -> Token:
    key = match[0].lower()
    if key.endswith("'s"):
        return Token(key[:-2], match.start(), match.end() - 2, True)
    return Token(key, match.start(), match.end(), False)


def _is_head_first(plain: str) -> bool:
    first, *rest = plain.lower().split()
    return bool(rest) and (first in _GERUND_FIRST or not _HEAD_FIRST.isdisjoint(rest))


@dataclass(slots=True)
class _Node:
    form: Form | None = None
    next: dict[str, _Node] = field(default_factory=dict)


class Glossary:
    """Medical terms and their plain forms. Immutable once built, so safe in threads."""

    def __init__(self, forms: Mapping[str, Form]) -> None:
        forms = {key: _with_plain_context(form, forms) for key, form in forms.items()}
        self._forms = {key: form for key, form in forms.items() if form.kind != "keep"}
        adjectives = (one.plain for one in forms.values() if one.kind in ("adjective", "modifier"))
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
        modifier: a noun in the place of an adjective, adverb, phrase, or keep: a phrase never to
        be touched, its own plain form) and, optionally, `plural_term` and `plural_plain` for nouns
        that can be counted, and `context` (see `Form`). A noun without a plural stands for a mass
        and is left alone after `a` or `an`. A term written with a capital letter (`RCT`) is
        matched with exactly those capitals.

        Raises:
            ConfigError: the file cannot be read, or a row is wrong; names line and column.
        """
        source = RESOURCES / "glossary.csv" if path is None else path
        try:
            forms = dict(_read_forms(io.StringIO(read_text(source), newline=""), source))
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

    @property
    def forms(self) -> Iterable[Form]:
        """Each spelling and number of each term that is replaced."""
        return self._forms.values()

    def lookup(self, term: str) -> str | None:
        """The plain form of exactly this term, or None. Case matters for abbreviations only."""
        form = self._forms.get(key_of(term))
        if form is None or (is_abbreviation(form.term) and form.term != term):
            return None
        return form.plain

    def find(self, text: str) -> list[Replacement]:
        """The replacements `simplify` would make, in order; linear in the text's length."""
        return list(self.simplify(text)[1])

    def simplify(
        self, text: str, leave: Container[str] = ()
    ) -> tuple[str, tuple[Replacement, ...]]:
        """Replaces terms by plain forms, the longest first, but those to `leave`; never fails.

        Terms stay inside hyphenated words, in capitalised names (`Cochrane Hypertension Group`),
        where a parenthesis explains them, and where the plain form would not be grammatical. `a`
        and `an` before a replacement are corrected.

        >>> glossary = Glossary.load()
        >>> glossary.simplify("An RCT of hypertension.")[0]
        'A study with groups chosen by chance of high blood pressure.'

        Args:
            text: any text.
            leave: terms to leave as they are, each as `key_of` gives it.
        """
        tokens = tokens_of(text)
        lowered, has = text.lower(), dict[str, bool]()
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
            hit = _Hit(form, text, before, tokens, index, index + count)
            # A term that cannot be replaced stays whole: its parts mean less than it does.
            index += count
            for phrase in form.context.get("text", ()):
                if phrase not in has:
                    has[phrase] = phrase in lowered
            elsewhere = any(has[phrase] for phrase in form.context.get("text", ()))
            left = elsewhere or key_of(form.term) in leave
            found = None if left else self._replacement(hit)
            if found is not None:
                pieces += [_with_article(text[last:start], found.plain), found.plain]
                done.append(found)
                last = found.end
        return "".join([*pieces, text[last:]]), tuple(done)

    def _replacement(self, hit: _Hit) -> Replacement | None:
        """The replacement of a term, or None where it must stay."""
        form, text, start, end = hit.form, hit.text, hit.first.start, hit.last.end
        if form.kind == "keep" or not _is_whole_word(hit) or not _is_grammatical(hit):
            return None
        if not _is_in_context(hit) or (form.kind == "noun" and self._shares_noun(hit)):
            return None
        plain = _cased(form, text, start, end)
        if plain is None or _is_explained_after(form, text, end):
            return None
        if _is_explained_before(form, hit.before):
            return None
        before, after = hit.before[-_LONGEST_TERM:], text[end : end + _LONGEST_TERM]
        if _doubles_word(before, plain, after) or self._makes_term(before, plain, after):
            return None
        if text[end : end + 1] in _APOSTROPHES and _wants_s(hit, plain):
            # participants' -> people's
            plain, end = f"{plain}{text[end]}s", end + 1
        return Replacement(text[start:end], plain, start, end)

    def _shares_noun(self, hit: _Hit) -> bool:
        """`medical and surgical interventions`: the noun belongs to both, so it must stay."""
        if hit.stop - hit.index == 1:
            return False
        match = _COORDINATED.search(hit.before[-_LONGEST_TERM:])
        if match is None:
            return False
        is_adjective = match[1].lower() in self._attributes or _ADJECTIVE.fullmatch(match[1])
        return bool(is_adjective) and hit.last.key != key_of(hit.form.plain).split(" ")[-1]

    def _makes_term(self, before: str, plain: str, after: str) -> bool:
        """Whether the plain form and a neighbour form a new term: `contraception` + ` group`.

        That term would be false, and a second pass would replace it.
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
        """The longest form that begins at a token, and its length in tokens."""
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


def _is_whole_word(hit: _Hit) -> bool:
    """Whether the term is not part of a hyphenated or prefixed word."""
    after = hit.text[hit.last.end : hit.last.end + 1]
    if hit.before[-1:] in _JOINERS or (after in _JOINERS and not hit.last.possessive):
        return False
    previous = hit.tokens[hit.index - 1].key if hit.index else ""
    return not (hit.before[-1:].isspace() and previous in _PREFIXES)


def _is_in_context(hit: _Hit) -> bool:
    """Whether the words around the term say that it has the sense of its plain form."""
    context = hit.form.context
    previous = tokens_of(hit.before[-_LONGEST_TERM:])[-1:]
    following = hit.tokens[hit.stop : hit.stop + 1]
    first = previous[0].key.split("-")[-1] if previous else ""
    last = following[0].key.split("-")[0] if following else ""
    nearby = hit.tokens[max(0, hit.index - 6) : hit.index] + hit.tokens[hit.stop : hit.stop + 6]
    return (
        ("after" not in context or first in context["after"])
        and ("before" not in context or last in context["before"])
        and first not in context.get("not after", ())
        and last not in context.get("not before", ())
        and not any(token.key in context.get("near", ()) for token in nearby)
    )


def _with_plain_context(form: Form, forms: Mapping[str, Form]) -> Form:
    """The form with the plain forms of the words that keep it: a second pass meets those."""
    ends = {"not after": -1, "not before": 0}
    context = dict(form.context)
    for name, end in ends.items():
        plains = [forms[word].plain for word in context.get(name, ()) if word in forms]
        context[name] = (*context.get(name, ()), *(plain.split()[end] for plain in plains))
    return replace(form, context=context)


def _doubles_word(before: str, plain: str, after: str) -> bool:
    """Whether the plain form repeats a neighbour: `dummy treatment` + ` treatment`."""
    words = _WORD.findall(plain.lower())
    previous, following = _LAST_WORD.search(before), _NEXT_WORD.match(after)
    # A line that begins with a capital letter is another one: a text after its heading.
    return (
        previous is not None
        and previous[1].lower() == words[0]
        and not ("\n" in previous[0] and plain[0].isupper())
    ) or (
        following is not None
        and following[1].lower() == words[-1]
        and not ("\n" in following[0] and following[1][0].isupper())
    )


def _is_grammatical(hit: _Hit) -> bool:
    """Whether the plain form fits grammatically between the words around the term."""
    form, text, last = hit.form, hit.text, hit.last
    if form.kind == "noun" and not form.countable and _ARTICLE.search(hit.before):
        return False
    if form.kind == "noun" and form.countable and not form.plural:
        after = text[last.end : hit.tokens[hit.stop].start] if hit.stop < len(hit.tokens) else ""
        alone = not after.isspace() or hit.tokens[hit.stop].key in _FOLLOWERS
        if alone and is_abbreviation(form.term) and _COUNTED.search(hit.before):
            return False
    if form.kind == "modifier" and not _precedes_noun(hit):
        return False
    if form.kind not in ("noun", "adverb") or not form.head_first:
        return True
    after = text[last.end : last.end + 1]
    if last.possessive or after in _APOSTROPHES or _STACKED_ADJECTIVE.search(hit.before):
        return False
    if form.plural or hit.stop == len(hit.tokens):
        return True
    following = hit.tokens[hit.stop]
    gap = text[last.end : following.start]
    if not gap.isspace() or ("\n" in gap and text[following.start].isupper()):
        return True
    return following.key in _FOLLOWERS or following.key[0].isdigit()


def _precedes_noun(hit: _Hit) -> bool:
    """Whether a noun follows that a modifier can belong to: `was cardiac` has none."""
    following = hit.tokens[hit.stop : hit.stop + 3]
    if not following or hit.text[hit.last.end : following[0].start].strip():
        return False
    if following[0].key in ("and", "or"):
        following = following[2:]
    return bool(following) and following[0].key not in _FOLLOWERS


def _wants_s(hit: _Hit, plain: str) -> bool:
    """Whether an apostrophe after a plural in -s is a possessive for which `plain` needs an s."""
    start, end = hit.first.start, hit.last.end
    ends_bare = hit.text[end - 1] in "sS" and plain[-1] not in "sS"
    quoted = _OPENING_QUOTE.search(hit.text[max(0, start - 300) : start + 1]) is not None
    return ends_bare and not hit.last.possessive and not quoted


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
    """`hypertension (high blood pressure)`: explained already."""
    parenthesis = _PARENTHESIS.match(text, end)
    return parenthesis is not None and form.plain.lower() in parenthesis[1].lower()


def _is_explained_before(form: Form, before: str) -> bool:
    """`high blood pressure (hypertension)`: a replacement would say it twice."""
    tail = before.lower()
    link = _LINK.search(tail)
    return link is not None and tail[: link.start()].endswith(form.plain.lower())


def _with_article(gap: str, plain: str) -> str:
    """Text before a replacement, with a final `a` or `an` that agrees with it."""
    match = _ARTICLE.search(gap[-40:])
    if match is None:
        return gap
    written = match[1]
    vowel = plain[0].lower() in "aeiou" and not plain.lower().startswith(("use", "usual", "uni"))
    article = written[0] + ("n" if vowel else "")
    article = article.upper() if written == "AN" else article
    return gap[: len(gap) - len(match[0])] + article + match[2]


def _read_forms(file: Iterable[str], source: Path) -> Iterator[tuple[str, Form]]:
    """The forms of a glossary file by their `key_of`; each row gives one, or two with a plural.

    Raises:
        ConfigError: the file is not a glossary; names `source`, line and column.
    """
    rows = csv.DictReader(file, restkey="", restval="")
    columns = tuple(rows.fieldnames or ())
    for name in _REQUIRED:
        if name not in columns:
            raise ConfigError(f"{source}, line 1: column {name} is missing; there are {columns}")
    for name in columns:
        if name not in (*_REQUIRED, *_OPTIONAL):
            raise ConfigError(f"{source}, line 1: column {name!r} is not known")
    seen: dict[str, int] = {}
    for row in rows:
        line = rows.line_num
        if "" in row:
            raise ConfigError(f"{source}, line {line}: more cells than columns")
        for form in _forms_of(row, f"{source}, line {line}"):
            key = key_of(form.term)
            if key in seen:
                raise ConfigError(
                    f"{source}, line {line}: column term: {form.term!r} is already on line "
                    f"{seen[key]}"
                )
            seen[key] = line
            yield key, form


def _forms_of(row: Mapping[str, str], where: str) -> Iterator[Form]:
    cells = {name: " ".join((row.get(name) or "").split()) for name in (*_REQUIRED, *_OPTIONAL)}
    term, plain, kind, plural_term, plural_plain, _ = cells.values()
    wrong = {f"{name} is empty": name in _REQUIRED and not cell for name, cell in cells.items()}
    wrong[f"kind: {kind!r} is none of {', '.join(_KINDS)}"] = kind not in _KINDS
    wrong["plain: a kept phrase is its own plain form"] = kind == "keep" and plain != term
    for name, other in (_PLURAL, _PLURAL[::-1]):
        wrong[f"{name}: only nouns have a plural"] = bool(cells[name]) and kind != "noun"
        wrong[f"{name} is empty and {other} is not"] = bool(cells[other]) and not cells[name]
    for name in ("term", "plural_term"):
        keys = " ".join(token.key for token in tokens_of(cells[name]))
        wrong[f"{name}: {cells[name]!r} has signs beside words"] = keys != key_of(cells[name])
    for message, holds in wrong.items():
        if holds:
            raise ConfigError(f"{where}: column {message}")
    context = _context_of(cells["context"], where)
    yield Form(term, plain, kind, False, bool(plural_term), _is_head_first(plain), context)
    if plural_term:
        head_first = _is_head_first(plural_plain)
        yield Form(plural_term, plural_plain, kind, True, True, head_first, context)


def _context_of(cell: str, where: str) -> dict[str, tuple[str, ...]]:
    """The clauses `name: words` of a cell, separated by `;`; phrases of `text` by `|`."""
    context = {}
    for clause in filter(None, map(str.strip, cell.lower().split(";"))):
        name, _, listing = (part.strip() for part in clause.partition(":"))
        if name not in _CONTEXTS or not listing:
            raise ConfigError(
                f"{where}: column context: {clause!r} is no clause; write NAME: WORDS with one of "
                f"{', '.join(_CONTEXTS)}"
            )
        items = listing.split("|") if name == "text" else listing.split()
        context[name] = tuple(item.strip() for item in items)
    return context
