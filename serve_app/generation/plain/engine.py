"""The `plain` generator engine: sentences of the original, rewritten for a reader without training.

Every sentence goes through the rules (`rules`), and is left out where they drop it or where the
findings of `serve_app.evidence` would call it false. The extractive engine's search then chooses
among what is left, with a loss that wants easy words and a cost for parts of the story that are
missing. What is chosen is put in the order of reading, with abbreviations explained at their first
use. Deterministic; invents nothing (docs/plain.md).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields

import numpy as np

from serve_app.core.settings import Settings
from serve_app.evidence.alignment import Source, sentences_of
from serve_app.evidence.findings import find
from serve_app.generation.extractive.engine import (
    Choice,
    ExtractiveGenerator,
    Sentence,
    Space,
    home_of,
)
from serve_app.generation.extractive.passages import Passage
from serve_app.generation.plain.abbreviations import explained
from serve_app.generation.plain.certainty import said_together
from serve_app.generation.plain.facts import Facts
from serve_app.generation.plain.grammar import capitalised, doubled
from serve_app.generation.plain.order import HEADINGS, PARTS_WANTED, Part, part_of, sections
from serve_app.generation.plain.pointers import points_back
from serve_app.generation.plain.rules import changes, check_names, parted, rewritten
from serve_app.generation.plain.terms import in_plain_words, said_once
from serve_app.generation.protocol import Summary, SummarySentence
from serve_app.metrics.loss import LossFunction, Targets
from serve_app.metrics.readability import ReadabilityCounts
from serve_app.metrics.suite import MetricSuite
from serve_app.text.glossary import Glossary
from serve_app.text.jargon import STATISTIC, unexplained

# What a reader needs; better costs nothing. The spreads are those of human summaries.
_LOSS = LossFunction(
    Targets((0.82, 0.82, 8.0, 10.5, 8.5), (0.06, 0.15, 2.3, 3.2, 1.0)), direction="one_sided"
)
_WEIGHTS = (0.5, 0.5, 0.0, 0.0, 0.0)  # the grade has a cost of its own: below
_COVERAGE = 0.6
_GRADE = 8.0  # FKGL: easier is worth nothing more
_MAIN_RESULT = 0.04  # what the authors put first
_LOST_REFERENCE = 1.0  # more than any sentence can gain


@dataclass(frozen=True, slots=True)
class PlainSentence(Sentence):
    """A passage rewritten.

    Attributes:
        written: its sentences with abbreviations and terms as they are: what is first is not known
            yet.
        part: of the story.
        facts: of its source.
    """

    written: tuple[str, ...]
    part: Part
    facts: Facts


@dataclass(frozen=True, slots=True)
class PlainSpace(Space):
    """The search space with a reader's needs: easy words, the parts of the story, no lost
    references.
    """

    per_grade: float

    def extra_cost(self, choice: Choice) -> float:
        """As in `Space`, and a cost for each part of the story that the text has and the set
        lacks.
        """
        chosen = [self.sentences[at] for at in choice.chosen]
        indexes = {one.passage.index for one in chosen}
        cost = self.coverage * (1.0 - float(choice.matched @ self.importance))
        cost += _LOST_REFERENCE * sum(
            one.refers_back and one.passage.index - 1 not in indexes for one in chosen
        )
        grade = choice.counts.scores()[0] if choice.chosen else 0.0
        cost += self.per_grade * max(0.0, grade - _GRADE)
        main = next((one for one in self.sentences if _part(one) is Part.FINDING), None)
        if main is not None and main.passage.index not in indexes:
            cost += _MAIN_RESULT
        missing = {_part(one) for one in self.sentences} - {_part(one) for one in chosen}
        return cost + sum(PARTS_WANTED[part] for part in missing)


def _part(sentence: Sentence) -> Part:
    return sentence.part if isinstance(sentence, PlainSentence) else Part.METHOD


class PlainGenerator(ExtractiveGenerator):
    """Summaries for laypersons; an engine of the `Generator` protocol.

    Args:
        suite: the metrics of the search.
        glossary: plain words for medical terms.
        max_words: longest summary, in words, >= 1.
        headings: whether headings as in Cochrane's guidance stand between the parts.
        off: names of rules that are left out (`rules.NAMES`).
        per_grade: what each grade of FKGL above 8 costs in the search, in units of the loss, >= 0.

    Raises:
        ConfigError: `off` has a name that is no rule's.
        ValueError: max_words or per_grade is out of range.
    """

    name = "plain"

    def __init__(
        self,
        suite: MetricSuite,
        glossary: Glossary,
        *,
        max_words: int = 220,
        headings: bool = False,
        off: Collection[str] = (),
        per_grade: float = 0.07,
    ) -> None:
        if not per_grade >= 0:
            raise ValueError(f"per_grade must not be negative, but is {per_grade}")
        self.headings, self.off, self.per_grade = headings, check_names(off), per_grade
        super().__init__(
            suite, _LOSS, glossary, max_words=max_words, coverage=_COVERAGE, weights=_WEIGHTS
        )

    @classmethod
    def from_settings(cls, settings: Settings) -> PlainGenerator:
        """The engine that the settings describe.

        Raises:
            ConfigError: a model or a setting is wrong.
        """
        off = check_names(settings.plain_rules_off.split())  # before the models load
        return cls(
            MetricSuite.from_settings(settings),
            Glossary.load(),
            max_words=settings.extractive_max_words,
            headings=settings.plain_headings,
            off=off,
        )

    def candidates(self, original: str, passages: list[Passage]) -> list[Sentence]:
        """The passages that can be said plainly, rewritten; where there is none, in plain words
        only.
        """
        facts = Facts(" ".join(one.text for one in passages))
        sources = (
            Source(facts.text),
            Source(" ".join(parted(one.text, facts) for one in passages)),
        )
        found: list[PlainSentence] = []
        seen = set[str]()
        before: PlainSentence | None = None
        for passage, section in zip(passages, sections(original, passages), strict=True):
            one = self._rewritten(passage, section, facts, sources, passages[-1].index, before)
            before = one
            if one is None:
                continue
            bare = re.sub(r"\W+", " ", one.text).lower()
            if bare not in seen:
                seen.add(bare)
                found.append(one)
        told = [one for one in found if one.part is not Part.METHOD]
        return list(told or found or self.sentences(passages))

    def _rewritten(
        self, passage: Passage, section: str, facts: Facts, sources: tuple[Source, Source],
        last: int, before: PlainSentence | None,
    ) -> PlainSentence | None:  # fmt: skip
        said = self._said(passage.text, facts, sources) if passage.usable else None
        if said is None:
            return None
        written, text = said
        refers_back = points_back(written[0], facts) and passage.index > 0
        if (
            refers_back
            and "pointers" not in self.off
            and (before is None or before.passage.index != passage.index - 1)
        ):
            return None
        part = part_of(passage.text, text, section, passage.index / max(1, last))
        if refers_back and before is not None:
            part = before.part
        return PlainSentence(
            passage, text, changes(passage.text, text), len(text.split()),
            ReadabilityCounts.of(text), refers_back, written, part, facts,
        )  # fmt: skip

    def _said(
        self, sentence: str, facts: Facts, sources: tuple[Source, Source]
    ) -> tuple[tuple[str, ...], str] | None:
        """A sentence by all rules, as the findings allow: parted, else whole, else, where they take
        a part for a denial of the other, parted as they pass it against the source in the same
        parts.
        """
        whole, cut = sources
        for off, source in (
            (self.off, whole), (self.off | {"splitting"}, whole), (self.off, cut),
        ):  # fmt: skip
            done = rewritten(sentence, facts, off)
            if done is None:
                return None
            text = " ".join(self._finished([tuple(done[0])], facts)[0])
            if self._is_readable(text) and self._is_true(text, source):
                return tuple(done[0]), text
        return None

    def _is_readable(self, text: str) -> bool:
        """Whether nothing stands in it that the rules promise to keep out."""
        statistic = "statistics" not in self.off and STATISTIC.search(text) is not None
        short = "abbreviations" not in self.off and unexplained(text)
        return not (statistic or short or doubled(text))

    @staticmethod
    def _is_true(text: str, source: Source) -> bool:
        """Whether the findings see nothing false in it."""
        return all(one.severity != "severe" for one in find(source, sentences_of(text)))

    def _finished(self, drafts: Sequence[tuple[str, ...]], facts: Facts) -> list[list[str]]:
        """The sentences of each draft with abbreviations explained and terms in plain words."""
        ends = np.cumsum([len(draft) for draft in drafts]).tolist()
        texts = [text for draft in drafts for text in draft]
        if "certainty" not in self.off:
            texts = said_together(texts)
        if "abbreviations" not in self.off:
            texts = explained(texts, facts)
        if "terms" not in self.off and self.glossary is not None:
            texts = said_once(in_plain_words(texts, self.glossary))
        texts = [capitalised(text) for text in texts]
        return [
            [text for text in texts[start:end] if text]
            for start, end in zip([0, *ends], ends, strict=False)
        ]

    def _factuality(self, original: str, sentences: list[Sentence]) -> list[float]:
        """As in the extractive engine; of a passage of several sentences, their mean."""
        scorer = self.suite.factuality
        chunks = [" ".join(one.split()) for one in scorer.chunks(original)]
        pieces = [sentences_of(one.text) for one in sentences]
        homes = [home_of(one.passage.text, chunks) for one in sentences]
        scores = scorer.score_pieces(
            [home for home, said in zip(homes, pieces, strict=True) for _ in said],
            [one.said for said in pieces for one in said],
        )
        ends = np.cumsum([len(said) for said in pieces]).tolist()
        return [
            float(np.mean(scores[start:end])) for start, end in zip([0, *ends], ends, strict=False)
        ]

    def space(
        self, original: str, passages: list[Passage], sentences: list[Sentence], limit: int
    ) -> Space:
        """As in the extractive engine, with the costs of `PlainSpace`."""
        space = super().space(original, passages, sentences, limit)
        given = {one.name: getattr(space, one.name) for one in fields(space)}
        return PlainSpace(**given, per_grade=self.per_grade)

    def summary(self, chosen: Sequence[Sentence], original: str, truncated: bool) -> Summary:
        """The summary of these sentences, in the order of reading and finished as a whole."""
        drafts = [one for one in chosen if isinstance(one, PlainSentence)]
        if len(drafts) < len(chosen):  # nothing could be said plainly
            return super().summary(chosen, original, truncated)
        indexes = {one.passage.index for one in drafts}
        kept = [
            one
            for one in drafts
            if "pointers" in self.off
            or not one.refers_back
            or one.passage.index - 1 in indexes
            or len(drafts) == 1
        ]
        if "order" not in self.off:
            kept.sort(key=lambda one: (one.part, one.passage.index))
        finished = self._finished([one.written for one in kept], drafts[0].facts)
        sentences = tuple(
            SummarySentence(
                text=" ".join(said),
                source=original[one.passage.start : one.passage.end],
                source_index=one.passage.index,
                replacements=changes(one.passage.text, " ".join(said)),
            )
            for one, said in zip(kept, finished, strict=True)
        )
        text = self._joined(kept, [one.text for one in sentences])
        return Summary(text=text, model=self.name, sentences=sentences, truncated=truncated)

    def _joined(self, kept: Sequence[PlainSentence], texts: Sequence[str]) -> str:
        """The sentences as one text, under headings where they are wanted."""
        if not self.headings or "order" in self.off:
            return " ".join(texts)
        text = heading = ""
        for one, said in zip(kept, texts, strict=True):
            wanted = HEADINGS[one.part]
            if wanted != heading:
                text += f"{chr(10) * 2 if text else ''}{wanted}\n{said}"
                heading = wanted
            else:
                text += f" {said}"
        return text
