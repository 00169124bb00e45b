"""The `extractive` generator engine: sentences of the original, chosen so that the loss is least.

It never invents. The original's sentences are put in plainer words by the glossary, and a
beam search over sets of them, kept in their order, looks for the least loss within a word
budget. Readability of a set is exact (counts add up); relevance and factuality are estimated
during the search and measured for the best sets at its end. Loss alone would be content
with any sentences of the right grade level, so a set also pays a little for what it leaves
out and for sentences that point back at one it leaves out (docs/extractive.md).

Deterministic: temperature, top_p, repeat_penalty and seed change nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from serve_app.generation.glossary import Glossary
from serve_app.generation.passages import Passage, split_passages
from serve_app.generation.protocol import (
    GenerationParams,
    PieceIterator,
    Summary,
    SummarySentence,
)
from serve_app.loss import LossFunction, check_weights
from serve_app.metrics.readability import ReadabilityCounts
from serve_app.metrics.suite import MetricSuite
from serve_app.metrics.text import require_text

Floats = NDArray[np.float64]

MOST_PASSAGES = 60
"""Sentences considered; of a longer original, the first half and the last half of these."""

_POINTS_BACK = re.compile(
    r"(?:th(?:is|ese|ose|ey|e (?:former|latter|other|same|remaining|two))|it|its|their|such|both|"
    r"neither|however|moreover|furthermore|therefore|thus|hence|similarly|likewise|otherwise|"
    r"conversely|in (?:addition|contrast)|by contrast|also|additionally|consequently|nevertheless|"
    r"nonetheless|instead|one of (?:these|them)|of (?:these|those)|again|another)\b",
    re.IGNORECASE,
)
_ABSENT_SOURCE = 0.01  # what a sentence costs that points back at one left out

# BERTScore F1 of a set, from the share of the original its sentences match one by one: a
# straight line fitted on the training part of the Cochrane pairs (benchmarks/extractive.py).
_F1_AT_NONE, _F1_PER_SHARE = 0.251, 0.700


@dataclass(frozen=True, slots=True)
class _Sentence:
    """A usable passage in its plain words, and what the search needs to know of it."""

    passage: Passage
    text: str
    replacements: tuple[tuple[str, str], ...]
    words: int
    counts: ReadabilityCounts
    points_back: bool


@dataclass(frozen=True, slots=True)
class _Choice:
    """A set of sentences: `chosen` are positions among the sentences, ascending.

    `matched` has, for each passage of the original, the share of it that the set matches.
    """

    chosen: tuple[int, ...]
    words: int
    counts: ReadabilityCounts
    factuality_sum: float
    matched: Floats
    cost: float = np.inf

    @property
    def mean_factuality(self) -> float:
        """As AlignScore averages over sentences."""
        return self.factuality_sum / len(self.chosen)


class ExtractiveGenerator:
    """Summaries made of the original's own sentences; an engine of the `Generator` protocol.

    Args:
        suite: the metrics the loss is made of.
        loss: the loss to make small.
        glossary: plain words for medical terms; None copies sentences as they are.
        max_words: longest summary, in words, >= 1.
        beam_width: sets kept at each step of the search, >= 1.
        rescore: best sets measured with the real metrics, >= 1.
        coverage: cost of leaving out everything, in units of the loss, >= 0.
        weights: of the loss; None: equal.

    Raises:
        InvalidInput: bad weights.
        ValueError: another argument is out of range.
    """

    name = "extractive"
    batch_size = 1
    """Texts are searched one after the other; a batch would only make the first wait."""

    def __init__(
        self,
        suite: MetricSuite,
        loss: LossFunction,
        glossary: Glossary | None,
        *,
        max_words: int = 220,
        beam_width: int = 16,
        rescore: int = 6,
        coverage: float = 0.3,
        weights: Sequence[float] | None = None,
    ) -> None:
        if min(max_words, beam_width, rescore) < 1:
            raise ValueError("max_words, beam_width and rescore must be at least 1")
        if not coverage >= 0:
            raise ValueError(f"coverage must not be negative, but is {coverage}")
        self.device = suite.relevance.device
        self.max_words = max_words
        self.beam_width = beam_width
        self.rescore = rescore
        self.coverage = coverage
        self._suite = suite
        self._loss = loss
        self._glossary = glossary
        self._weights = check_weights(weights).tolist()

    def generate(self, texts: Sequence[str], params: Sequence[GenerationParams]) -> list[Summary]:
        """One summary for each text; of `params`, only `max_new_tokens` (in words) counts.

        Raises:
            InvalidInput: a text is empty or has no word.
        """
        return [self._summarise(text, one) for text, one in zip(texts, params, strict=True)]

    def stream(self, text: str, params: GenerationParams) -> PieceIterator:
        """Yields the summary sentence by sentence, then the `Summary`.

        Raises:
            InvalidInput: as `generate`; raised here, before the first piece is asked for.
        """
        require_text(text, "text")
        return self._stream(text, params)

    def _stream(self, text: str, params: GenerationParams) -> PieceIterator:
        summary = self._summarise(text, params)
        for index, sentence in enumerate(summary.sentences):
            yield sentence.text if index == 0 else " " + sentence.text
        yield summary

    def _summarise(self, original: str, params: GenerationParams) -> Summary:
        require_text(original, "text")
        passages = split_passages(original)
        truncated = len(passages) > MOST_PASSAGES
        if truncated:
            half = MOST_PASSAGES // 2
            passages = passages[:half] + passages[-half:]
        limit = min(self.max_words, params.max_new_tokens)
        # What is left of a long original may hold nothing but fragments.
        usable = [passage for passage in passages if passage.usable] or passages
        plain = [_in_plain_words(passage, self._glossary) for passage in usable]
        fitting = [sentence for sentence in plain if sentence.words <= limit]
        if not fitting:
            shortest = min(plain, key=lambda sentence: sentence.words)
            return _cut(shortest, original, limit, truncated)
        space = self._space(passages, fitting, limit)
        read = " ".join(passage.text for passage in passages) if truncated else original
        best = self._measured_best(read, space, search(space, self.beam_width, self.rescore))
        return _summary([fitting[at] for at in best.chosen], original, truncated)

    def _factuality(self, passages: list[Passage], sentences: list[_Sentence]) -> list[float]:
        """AlignScore of each sentence against its own surroundings.

        A copied sentence is supported by where it stood: scoring it against every chunk of
        the original takes most of the time there is and changes next to nothing.
        """
        at = {passage.index: position for position, passage in enumerate(passages)}
        around = []
        for sentence in sentences:
            middle = at[sentence.passage.index]
            near = passages[max(0, middle - 1) : middle + 2]
            around.append(" ".join(passage.text for passage in near))
        scores = self._suite.factuality.score(around, [sentence.text for sentence in sentences])
        return [score.score for score in scores]

    def _space(self, passages: list[Passage], sentences: list[_Sentence], limit: int) -> _Space:
        pairs = [(passage.text, sentence.text) for passage in passages for sentence in sentences]
        scores = self._suite.relevance.score(*map(list, zip(*pairs, strict=True)))
        recall = np.array([score.recall for score in scores])
        lengths = np.array([len(passage.text.split()) for passage in passages], dtype=np.float64)
        return _Space(
            sentences=sentences,
            factuality=self._factuality(passages, sentences),
            matches=recall.reshape(len(passages), len(sentences)),
            importance=lengths / lengths.sum(),
            limit=limit,
            loss=self._loss,
            weights=self._weights,
            coverage=self.coverage,
        )

    def _measured_best(self, original: str, space: _Space, choices: list[_Choice]) -> _Choice:
        """The best of the choices with relevance and readability measured on the whole text."""
        texts = [" ".join(space.sentences[at].text for at in one.chosen) for one in choices]
        relevance = self._suite.relevance.score([original] * len(texts), texts)
        values = [
            (score.f1, one.mean_factuality, *ReadabilityCounts.of(text).scores())
            for score, one, text in zip(relevance, choices, texts, strict=True)
        ]
        costs = self._loss(values, self._weights)
        costs += np.array([space.extra_cost(one) for one in choices])
        return choices[int(costs.argmin())]


@dataclass(frozen=True, slots=True)
class _Space:
    """What is searched: the sentences, and what a set of them costs.

    `matches[p, s]` is the share of passage p that sentence s matches (BERTScore recall), and
    `importance[p]` the passage's share of the original's words.
    """

    sentences: list[_Sentence]
    factuality: list[float]
    matches: Floats
    importance: Floats
    limit: int
    loss: LossFunction
    weights: list[float]
    coverage: float

    def empty(self) -> _Choice:
        """The set of no sentence."""
        return _Choice((), 0, ReadabilityCounts(), 0.0, np.zeros(len(self.importance)))

    def plus(self, choice: _Choice, at: int) -> _Choice:
        """The set and one more sentence, with no cost worked out."""
        sentence = self.sentences[at]
        return _Choice(
            tuple(sorted((*choice.chosen, at))),
            choice.words + sentence.words,
            choice.counts + sentence.counts,
            choice.factuality_sum + self.factuality[at],
            np.maximum(choice.matched, self.matches[:, at]),
        )

    def without(self, choice: _Choice, left_out: int) -> _Choice:
        """The set less one of its sentences, with no cost worked out."""
        smaller = self.empty()
        for at in choice.chosen:
            if at != left_out:
                smaller = self.plus(smaller, at)
        return smaller

    def grown(self, choice: _Choice) -> list[_Choice]:
        """The sets of one more sentence that are within the limit, with their costs."""
        grown = [
            self.plus(choice, at)
            for at, sentence in enumerate(self.sentences)
            if at not in choice.chosen and choice.words + sentence.words <= self.limit
        ]
        if not grown:
            return []
        shares = np.array([one.matched for one in grown]) @ self.importance
        values = [
            (_F1_AT_NONE + _F1_PER_SHARE * share, one.mean_factuality, *one.counts.scores())
            for one, share in zip(grown, shares, strict=True)
        ]
        losses = self.loss(values, self.weights)
        return [
            replace(one, cost=float(loss) + self.extra_cost(one))
            for one, loss in zip(grown, losses, strict=True)
        ]

    def extra_cost(self, choice: _Choice) -> float:
        """What a set pays beside its loss: for content left out, and for lost references."""
        indexes = {self.sentences[at].passage.index for at in choice.chosen}
        lost = sum(
            self.sentences[at].points_back and self.sentences[at].passage.index - 1 not in indexes
            for at in choice.chosen
        )
        left_out = 1.0 - float(choice.matched @ self.importance)
        return self.coverage * left_out + _ABSENT_SOURCE * lost


def search(space: _Space, beam_width: int, wanted: int) -> list[_Choice]:
    """The best sets found, at most `wanted`, the one of least cost first.

    A beam adds sentences one at a time; exchanging single sentences of the best set then
    mends what the beam's early steps, blind to the grade level of the whole, got wrong.
    """
    found: dict[tuple[int, ...], _Choice] = {}
    beam = [space.empty()]
    while beam:
        grown = {one.chosen: one for choice in beam for one in space.grown(choice)}
        beam = _best(grown, beam_width)
        found.update((one.chosen, one) for one in beam)
    (best,) = _best(found, 1)
    while True:
        exchanged = {
            one.chosen: one
            for left_out in best.chosen
            for one in space.grown(space.without(best, left_out))
        }
        found.update((one.chosen, one) for one in _best(exchanged, wanted))
        (better,) = _best(found, 1)
        if better.cost >= best.cost:
            return _best(found, wanted)
        best = better


def _best(choices: dict[tuple[int, ...], _Choice], count: int) -> list[_Choice]:
    # By position among equals, so that the same text always has the same summary.
    return sorted(choices.values(), key=lambda one: (one.cost, one.chosen))[:count]


def _in_plain_words(passage: Passage, glossary: Glossary | None) -> _Sentence:
    text = passage.text
    replacements: tuple[tuple[str, str], ...] = ()
    if glossary is not None:
        text, done = glossary.simplify(text)
        replacements = tuple((one.term, one.plain) for one in done)
    first = text.split()[0]
    if first.isalpha() and first.islower():
        # It stood after a heading. Names such as "mRNA" or "p53" stay as they are.
        text = text[0].upper() + text[1:]
    return _Sentence(
        passage=passage,
        text=text,
        replacements=replacements,
        words=len(text.split()),
        counts=ReadabilityCounts.of(text),
        points_back=passage.index > 0 and _POINTS_BACK.match(text) is not None,
    )


def _summary(chosen: list[_Sentence], original: str, truncated: bool) -> Summary:
    sentences = tuple(
        SummarySentence(
            text=one.text,
            source=original[one.passage.start : one.passage.end],
            source_index=one.passage.index,
            replacements=one.replacements,
        )
        for one in chosen
    )
    return Summary(
        text=" ".join(one.text for one in sentences),
        model=ExtractiveGenerator.name,
        sentences=sentences,
        truncated=truncated,
    )


def _cut(sentence: _Sentence, original: str, limit: int, truncated: bool) -> Summary:
    """The first `limit` words of a sentence, for a limit that no sentence is within."""
    text = " ".join(sentence.text.split()[:limit])
    whole = _summary([sentence], original, truncated)
    return replace(
        whole,
        text=text,
        sentences=(replace(whole.sentences[0], text=text),),
        finish_reason="length",
    )
