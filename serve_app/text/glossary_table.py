"""The glossary's table: its file format, its rows as forms, and how text is cut to match them.

Knows the CSV and what makes a row wrong; knows nothing of the text a term stands in (see
glossary.py).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from serve_app.core.errors import ConfigError

_REQUIRED = ("term", "plain", "kind")
_OPTIONAL = ("plural_term", "plural_plain")
_KINDS = ("noun", "verb", "adjective", "adverb", "phrase", "keep")

# A hyphen, slash, dot or apostrophe inside a word makes one token of it, so that no term is
# found inside `placebo-controlled`, `pain/nausea` or `www.hypertension.org`.
_TOKEN = re.compile(r"[^\W_]+(?:[-‐‑–'’/.@&+_]+[^\W_]+)*")
_SPELLING = str.maketrans({"‐": "-", "‑": "-", "’": "'"})


def words(listing: str) -> frozenset[str]:
    """The words of a space-separated listing."""
    return frozenset(listing.split())


# Words that show a plain form to carry its head first: `removal of the womb`.
_HEAD_FIRST = words(
    "of in with that to for from by on at about after before who which during between "
    "around inside outside born up under"
)
_GERUND_FIRST = words("trouble feeling stopping choosing coughing taking waking")


@dataclass(frozen=True, slots=True)
class Form:
    """One spelling and number of a term.

    Attributes:
        term: as the table has it; with a capital letter, an abbreviation.
        plain: what takes its place.
        kind: noun, verb, adjective, adverb, phrase, or keep (never replaced).
        plural: True for the plural of a noun.
        countable: True for a noun that has a plural.
        head_first: the plain form's main word comes before what describes it, so that it can
            neither stand before another noun nor take a possessive.
    """

    term: str
    plain: str
    kind: str
    plural: bool
    countable: bool
    head_first: bool


@dataclass(frozen=True, slots=True)
class Token:
    """One word of a text.

    Attributes:
        key: in lower case with plain hyphens and apostrophes, without a possessive `'s`.
        start: offset of its first character.
        end: offset after the last character of what `key` holds.
        possessive: True if `'s` follows.
    """

    key: str
    start: int
    end: int
    possessive: bool


def key_of(term: str) -> str:
    """What two spellings of one term have in common: case, spacing and hyphen characters."""
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


def read_forms(file: Iterable[str], source: Path) -> Iterator[tuple[str, Form]]:
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
    for name in _REQUIRED:
        if not cells[name]:
            raise ConfigError(f"{where}: column {name} is empty")
    term, plain, kind = (cells[name] for name in _REQUIRED)
    plural_term, plural_plain = (cells[name] for name in _OPTIONAL)
    if kind not in _KINDS:
        raise ConfigError(f"{where}: column kind: {kind!r} is none of {', '.join(_KINDS)}")
    if kind == "keep" and plain != term:
        raise ConfigError(f"{where}: column plain: a kept phrase is its own plain form")
    for name, cell, other in (
        ("plural_term", plural_term, "plural_plain"),
        ("plural_plain", plural_plain, "plural_term"),
    ):
        if cell and kind != "noun":
            raise ConfigError(f"{where}: column {name}: only nouns have a plural")
        if not cell and cells[other]:
            raise ConfigError(f"{where}: column {name} is empty and {other} is not")
    for name, cell in (("term", term), ("plural_term", plural_term)):
        if cell and " ".join(token.key for token in tokens_of(cell)) != key_of(cell):
            raise ConfigError(f"{where}: column {name}: {cell!r} has signs beside words")
    yield Form(term, plain, kind, False, bool(plural_term), _is_head_first(plain))
    if plural_term:
        yield Form(plural_term, plural_plain, kind, True, True, _is_head_first(plural_plain))
