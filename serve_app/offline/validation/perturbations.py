"""Edits of a whole summary, each of one kind: what a good metric should notice, or let pass.

After APPLS (Guo et al., "APPLS: Evaluating Evaluation Metrics for Plain Language Summarization",
EMNLP 2024): informativeness, simplification, coherence, faithfulness. Rules know words and
punctuation, not grammar, so an edit does what it says nearly always rather than always. Each edit
leaves the sentences that it does not touch, and the space between sentences, as they are. Knows
texts; no metric and no model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from random import Random
from typing import Literal

from serve_app.evidence import Source
from serve_app.evidence.alignment import Sentence
from serve_app.evidence.claims import is_direction
from serve_app.evidence.entities import NameKind, kind_of, named
from serve_app.text.edits import corruptions, trial_edits
from serve_app.text.glossary import Glossary, is_abbreviation
from serve_app.text.sentences import sentence_spans

Aspect = Literal["informativeness", "simplification", "coherence", "faithfulness"]
Wanted = Literal["worse", "better", "same"]

DEFINITIONS = 3  # at most, in a summary
_GROUPS = frozenset(
    {"women", "men", "children", "babies", "infants", "adolescents", "boys", "girls"}
)
_DATE = re.compile(
    r"\b(?:19|20)\d\d\b|\d \d{3}\b|\b\d{1,2} (?:Jan|Feb|Mar|Apr|May|Ju[nl]|Aug|Sep|Oct|Nov|Dec)"
)


@dataclass(frozen=True)
class Material:
    """A summary, its source, and what other texts of the corpus lend.

    Attributes:
        source, summary: the texts.
        strangers: sentences of other summaries.
        names: what other texts name and this source does not, as `names_in` gives it.
        share: of the sentences to which an edit applies, how many it changes, in (0, 1]; at least
            one.
    """

    source: str
    summary: str
    strangers: Sequence[str] = ()
    names: Mapping[str, NameKind] = field(default_factory=dict)
    share: float = 0.5

    @cached_property
    def read(self) -> Source:
        """The source, read for evidence."""
        return Source(self.source)

    @cached_property
    def sentences(self) -> list[str]:
        """Of the summary, in order."""
        return [self.summary[start:end] for start, end in sentence_spans(self.summary)]

    @cached_property
    def gaps(self) -> list[str]:
        """What stands before each sentence, and after the last."""
        spans = sentence_spans(self.summary)
        ends = [0, *(end for _, end in spans)]
        starts = [*(start for start, _ in spans), len(self.summary)]
        return [self.summary[end:start] for end, start in zip(ends, starts, strict=True)]

    def joined(self, sentences: Sequence[str]) -> str:
        """As many sentences as before, with the space between them as it was."""
        return "".join(
            part for pair in zip(self.gaps, [*sentences, ""], strict=True) for part in pair
        )

    def some(self, places: Sequence[int], rng: Random) -> list[int]:
        """The share of the places to edit, ascending."""
        count = math.ceil(self.share * len(places))
        return sorted(rng.sample(list(places), count))


Edit = Callable[[Material, Random], str | None]


@dataclass(frozen=True)
class Perturbation:
    """A kind of edit.

    Attributes:
        name: what was done to the summary, for a table.
        aspect: the criterion of APPLS to which it belongs.
        wanted: what it does to the summary: a metric of that aspect should say so.
        edit: gives the edited summary, or None where it does not apply.
    """

    name: str
    aspect: Aspect
    wanted: Wanted
    edit: Edit

    def __call__(self, material: Material, seed: str) -> str | None:
        """The edited summary, the same for the same seed; None where the edit does not apply."""
        edited = self.edit(material, Random(f"{seed}/{self.name}"))  # noqa: S311 - no secret
        return None if edited is None or edited == material.summary else edited


# --- edits of the whole ---------------------------------------------------------------------


def _delete(material: Material, rng: Random) -> str | None:
    count = len(material.sentences)
    if count < 2:
        return None
    gone = {*material.some(range(count), rng)[: count - 1]}
    kept = [
        f"{gap}{one}"
        for at, (gap, one) in enumerate(zip(material.gaps, material.sentences, strict=False))
        if at not in gone
    ]
    return "".join([*kept, material.gaps[-1]])


def _inserted(material: Material, new: Sequence[str], rng: Random) -> str:
    """The summary with sentences after some of its own."""
    after: dict[int, list[str]] = {}
    for one in new:
        after.setdefault(rng.randrange(len(material.sentences)), []).append(one)
    return material.joined(
        [" ".join([one, *after.get(at, ())]) for at, one in enumerate(material.sentences)]
    )


def _add_strangers(material: Material, rng: Random) -> str | None:
    count = min(len(material.some(range(len(material.sentences)), rng)), len(material.strangers))
    return _inserted(material, rng.sample(list(material.strangers), count), rng) if count else None


def _add_definitions(material: Material, rng: Random) -> str | None:
    meanings = {
        one.term: one.plain
        for one in _glossary().find(material.source)
        if one.term in _nouns() and one.term.islower()  # no name
    }
    terms = sorted(meanings)
    chosen = rng.sample(terms, min(DEFINITIONS, len(terms)))
    new = [f"The term “{term}” means “{meanings[term]}”." for term in chosen]
    return _inserted(material, new, rng) if new else None


def _repeat(material: Material, rng: Random) -> str:
    again = {*material.some(range(len(material.sentences)), rng)}
    return material.joined(
        [f"{one} {one}" if at in again else one for at, one in enumerate(material.sentences)]
    )


def _shuffle(material: Material, rng: Random) -> str | None:
    if len({*material.sentences}) < 2:
        return None
    order = list(material.sentences)
    while order == material.sentences:
        rng.shuffle(order)
    return material.joined(order)


def _break_off(material: Material, rng: Random) -> str | None:
    words = material.sentences[-1].split()
    if len(words) < 4:
        return None
    return material.joined([*material.sentences[:-1], " ".join(words[: len(words) // 2])])


def _join(material: Material, rng: Random) -> str | None:
    sentences, gaps = material.sentences, material.gaps
    pairs = [
        at
        for at in range(0, len(sentences) - 1, 2)
        # A line break is a new paragraph or a bullet.
        if "\n" not in gaps[at + 1] and sentences[at].endswith(".")
    ]
    if not pairs:
        return None
    at_once = {*material.some(pairs, rng)}
    parts = []
    for at, (gap, sentence) in enumerate(zip(gaps, sentences, strict=False)):
        parts += [gap, f"{sentence[:-1]};" if at in at_once else sentence]
    return "".join([*parts, gaps[-1]])


# --- edits of single sentences --------------------------------------------------------------


def _each(change: Callable[[str, Material, Random], str | None]) -> Edit:
    """Makes a summary's edit of a sentence's: of a share of the sentences to which it applies."""

    def edit(material: Material, rng: Random) -> str | None:
        new = {
            at: made
            for at, one in enumerate(material.sentences)
            if (made := change(one, material, rng)) is not None and made != one
        }
        if not new:
            return None
        chosen = {*material.some(sorted(new), rng)}
        return material.joined(
            [new[at] if at in chosen else one for at, one in enumerate(material.sentences)]
        )

    return edit


def _rule(rule: corruptions.Edit) -> Edit:
    return _each(lambda sentence, material, rng: rule(sentence, (), rng))


def _simplify(sentence: str, material: Material, rng: Random) -> str:
    return _glossary().simplify(sentence)[0]


def _technical(sentence: str, material: Material, rng: Random) -> str | None:
    """Medical terms for plain words, wherever the glossary would turn them back."""
    pattern, terms = _technical_terms()
    plain = _glossary().simplify(sentence)[0]
    made = sentence
    for found in reversed(list(pattern.finditer(sentence))):
        term = rng.choice(terms[found[0].lower()])
        cased = term[0].upper() + term[1:] if found[0][0].isupper() else term
        tried = f"{made[: found.start()]}{cased}{made[found.end() :]}"
        if _glossary().simplify(tried)[0] == plain:
            made = tried
    return made


@cache
def _glossary() -> Glossary:
    return Glossary.load()


@cache
def _nouns() -> frozenset[str]:
    return frozenset(form.term for form in _glossary().forms if form.kind == "noun")


@cache
def _technical_terms() -> tuple[re.Pattern[str], Mapping[str, Sequence[str]]]:
    """The glossary's plain forms, and the terms of each."""
    terms: dict[str, list[str]] = {}
    for form in _glossary().forms:
        # A plain adjective is often another word too ("varied", "blood" pressure).
        if form.kind == "noun" and not is_abbreviation(form.term):
            terms.setdefault(form.plain.lower(), []).append(form.term)
    longest = sorted(terms, key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, longest))})\b", re.I), terms


def _copy(sentence: str, material: Material, rng: Random) -> str | None:
    """The sentence of the source that says most of it."""
    evidence = material.read.align(Sentence(sentence, 0, len(sentence)))
    return evidence.sentences[0].said if evidence.sentences else None


def _exchange_name(sentence: str, material: Material, rng: Random) -> str | None:
    """One name of the sentence for one of another text, of the same kind."""
    own = names_in(sentence)
    foreign = {name: kind for name, kind in material.names.items() if kind in own.values()}
    left = sorted(name for name, kind in own.items() if kind in foreign.values())
    if not left:
        return None
    name = rng.choice(left)
    alike = sorted(one for one, kind in foreign.items() if kind == own[name])
    return corruptions.exchange_term(sentence, [name, rng.choice(alike)], rng)


def names_in(text: str) -> dict[str, NameKind]:
    """What a text names, in lower case: drugs, conditions and groups of people."""
    found = {text[start:end].lower() for start, end, _ in named(text, 0, len(text))}
    kinds = {name: kind_of(name) for name in sorted(found)}
    return {
        name: kind
        for name, kind in kinds.items()
        if kind is not None and (kind != "group" or name in _GROUPS)
    }


def _exchange_numbers(sentence: str, passage: Sequence[str], rng: Random) -> str | None:
    """Two numbers in each other's place; no date, where that says nothing."""
    dated = _DATE.search(sentence) is not None
    return None if dated else trial_edits.exchange_numbers(sentence, passage, rng)


def _turn(sentence: str, passage: Sequence[str], rng: Random) -> str | None:
    return corruptions.flip_direction(sentence, passage, rng, only=is_direction)


PERTURBATIONS = (
    Perturbation("sentences deleted", "informativeness", "worse", _delete),
    Perturbation("foreign sentences added", "informativeness", "worse", _add_strangers),
    Perturbation("definitions added", "informativeness", "same", _add_definitions),
    Perturbation("technical words put in", "simplification", "worse", _each(_technical)),
    Perturbation("plain words put in", "simplification", "better", _each(_simplify)),
    Perturbation("copied from the source", "simplification", "worse", _each(_copy)),
    Perturbation("sentences joined", "simplification", "worse", _join),
    Perturbation("sentences shuffled", "coherence", "worse", _shuffle),
    Perturbation("sentences repeated", "coherence", "worse", _repeat),
    Perturbation("end broken off", "coherence", "worse", _break_off),
    Perturbation("number changed", "faithfulness", "worse", _rule(corruptions.change_number)),
    Perturbation("numbers exchanged", "faithfulness", "worse", _rule(_exchange_numbers)),
    Perturbation("direction turned", "faithfulness", "worse", _rule(_turn)),
    Perturbation("negation turned", "faithfulness", "worse", _rule(corruptions.flip_negation)),
    Perturbation("drug or group exchanged", "faithfulness", "worse", _each(_exchange_name)),
    Perturbation("sides exchanged", "faithfulness", "worse", _rule(trial_edits.exchange_arms)),
    Perturbation("hedge made certain", "faithfulness", "worse", _rule(trial_edits.make_certain)),
    Perturbation("equal words put in", "faithfulness", "same", _rule(corruptions.reword)),
)
"""All kinds, by aspect. Those that are wanted to stay the same are the controls."""
