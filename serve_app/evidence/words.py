"""Words with their places: stems, content words, and everyday words for the same thing.

Knows spelling, no grammar. A stem is the Snowball stemmer's (Porter 2, English).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache

import snowballstemmer

from serve_app.text.glossary import Glossary

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_ABBREVIATION = re.compile(r"\(([A-Z][A-Za-z0-9-]{1,9})\)")


def listed(words: str) -> tuple[str, ...]:
    """The words of a list, written as a text."""
    return tuple(words.split())


_STOP = frozenset(
    listed("""
a about above after again against all also although am an and another any are as at away be because
been before being below between both but by can could did do does doing done down during each either
else ever every for from further get given gives had has have having he her here hers him his how
however i if in into is it its itself just made make makes many may me might more moreover most much
must my neither no nor not now of off on once one only or other others our ours out over own rather
same shall she should since so some still such than that the their theirs them then there therefore
these they this those through thus to together too toward towards under until up upon us use used
using very was we were what when where whether which while who whom whose why will with within
without would yet you your yours
""")
)
"""Words that say nothing of what a sentence is about."""

# One concept each, from its stems: what plain language says with other words than research does.
_SAME = """
death: die died deaths dead deceased fatal lethal mortal mortality
people: patient participant person individual subject volunteer adult population
child: kid paediatric pediatric children schoolchildren
baby: babies infant neonate neonatal newborn
study: studies trial rct rcts research experiment literature review
drug: medicine medication pharmacological pharmaceutical tablet pill agent
treatment: therapy therapies intervention treat manage management regimen
doctor: physician clinician practitioner
pregnancy: pregnant gestation gestational antenatal prenatal
birth: delivery labour labor born perinatal childbirth
stroke: cerebrovascular
heart: cardiac cardiovascular coronary
kidney: renal
liver: hepatic
lung: pulmonary respiratory breathing
cancer: tumour tumor neoplasm carcinoma malignancy oncology
side: adverse
effect: event reaction
hospital: inpatient admission admitted hospitalisation hospitalization
surgery: surgical operation operative postoperative preoperative
infection: infectious
bleeding: bleed haemorrhage hemorrhage haemorrhagic
placebo: dummy sham
weight: bmi obesity overweight
serious: severe major grave
smoking: smoke smoker tobacco cigarette
women: woman female mother maternal
men: man male
""".strip()


@cache
def _concepts() -> dict[str, str]:
    table: dict[str, str] = {}
    for line in _SAME.splitlines():
        concept, _, others = line.partition(": ")
        for word in (concept, *others.split()):
            table[_stemmer().stemWord(word)] = concept
    return table


@cache
def _stemmer() -> snowballstemmer.EnglishStemmer:
    return snowballstemmer.EnglishStemmer()


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """The concept of a word, or its stem.

    >>> [stem(word) for word in ("Mortality", "died", "reduced", "reduction")]
    ['death', 'death', 'reduc', 'reduct']
    """
    found = str(_stemmer().stemWord(word.lower().replace("’", "'").removesuffix("'s")))
    return _concepts().get(found, found)


@dataclass(frozen=True, slots=True)
class Word:
    """A word at `text[start:end]`."""

    text: str
    start: int
    end: int

    @property
    def lower(self) -> str:
        """As written, in small letters."""
        return self.text.lower()

    @property
    def stem(self) -> str:
        """See `stem`."""
        return stem(self.text)

    @property
    def is_content(self) -> bool:
        """Whether it says what a sentence is about."""
        return self.lower not in _STOP and len(self.text) > 1


def words_of(text: str, start: int = 0, end: int | None = None) -> list[Word]:
    """The words of `text[start:end]`, with their places in `text`; numbers are no words."""
    stop = len(text) if end is None else end
    return [Word(found[0], *found.span()) for found in _WORD.finditer(text, start, stop)]


def content_stems(text: str, start: int = 0, end: int | None = None) -> frozenset[str]:
    """The stems of the content words of `text[start:end]`."""
    return frozenset(word.stem for word in words_of(text, start, end) if word.is_content)


@cache
def _glossary() -> Glossary:
    return Glossary.load()


def said_plainly(text: str) -> frozenset[str]:
    """Stems of a text, and of the text in the glossary's plain words: what either may say."""
    plain, replaced = _glossary().simplify(text)
    stems = content_stems(text)
    return stems | content_stems(plain) if replaced else stems


def expansions(text: str) -> dict[str, frozenset[str]]:
    """What abbreviations in brackets stand for, by the initials of the words before them.

    >>> sorted(expansions("post-thrombotic syndrome (PTS) was rare")["PTS"])
    ['post', 'syndrom', 'thrombot']
    """
    return dict(_expansions(text))


def _expansions(text: str) -> Iterator[tuple[str, frozenset[str]]]:
    for found in _ABBREVIATION.finditer(text):
        letters = [letter.lower() for letter in found[1] if letter.isalpha()]
        before = words_of(text, max(0, found.start() - 120), found.start())
        chosen: list[Word] = []
        left = list(letters)
        while before and left and len(chosen) < 2 * len(letters):
            word = before.pop()
            chosen.append(word)
            if word.lower[0] == left[-1]:
                left.pop()
        if not left:
            yield found[1], frozenset(word.stem for word in chosen if word.is_content)
