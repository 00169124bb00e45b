"""The `extractive` generator engine: the set of the original's sentences with the least loss.

It never invents. The glossary puts the original's sentences in plainer words, and sets of them, in
their order, are searched for the least loss within a word budget. Readability of a set is exact;
relevance is estimated during the search and measured for the best sets at its end;
factuality is that of each sentence against the chunk it came from (docs/extractive.md).

Deterministic: temperature, top_p and repeat_penalty change nothing. Further candidates (`variant`
above 0) are drawn, by the seed, from the other sets that the search has found. A text is measured
and searched once for all of them.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from serve_app.generation.extractive.passages import Passage, split_passages
from serve_app.generation.protocol import (
    GenerationParams,
    PieceIterator,
    Summary,
    SummarySentence,
)
from serve_app.metrics.loss import LossFunction, check_weights
from serve_app.metrics.readability import ReadabilityCounts
from serve_app.metrics.suite import MetricSuite
from serve_app.text.glossary import Glossary
from serve_app.text.validation import require_text

MOST_PASSAGES = 60
"""Sentences considered; of a longer original, the first half and the last half of these."""

PREPARED_TEXTS = 16
"""Texts whose measurements are cached for further candidates."""

KEPT_SETS = 256
"""Best sets of a search that further candidates are drawn from."""

TEMPERATURE = 0.002
"""Sampling temperature of further candidates, in units of the loss (benchmarks/best_of_n.py)."""

_REFERS_BACK = re.compile(
    r"(?:th(?:is|ese|ose|ey|e (?:former|latter|other|same|remaining|two))|it|its|their|such|both|"
    r"neither|however|moreover|furthermore|therefore|thus|hence|similarly|likewise|otherwise|"
    r"conversely|in (?:addition|contrast)|by contrast|also|additionally|consequently|nevertheless|"
    r"nonetheless|instead|one of (?:these|them)|of (?:these|those)|again|another)\b",
    re.IGNORECASE,
)


Floats = NDArray[np.float64]

_LOST_REFERENCE = 0.01  # cost of a sentence that refers back to one left out

# BERTScore F1 of a set, from the share of the original its sentences match one by one: a
# straight line fitted on the training part of the Cochrane pairs (benchmarks/extractive.py).
_F1_AT_NONE, _F1_PER_SHARE = 0.251, 0.700


@dataclass(frozen=True, slots=True)
class Sentence:
    """A usable passage in plain words, with what the search needs to know about it."""

    passage: Passage
    text: str
    replacements: tuple[tuple[str, str], ...]
    words: int
    counts: ReadabilityCounts
    refers_back: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """A set of sentences: `chosen` are positions among the sentences, ascending.

    `matched` is, for each passage of the original, the share of it that the set matches.
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


@dataclass(frozen=True, slots=True)
class Space:
    """The search space: the sentences, and the cost of a set of them.

    `matches[p, s]` is the share of passage p that sentence s matches (BERTScore recall), and
    `importance[p]` the passage's share of the original's words.
    """

    sentences: list[Sentence]
    factuality: list[float]
    matches: Floats
    importance: Floats
    limit: int
    loss: LossFunction
    weights: list[float]
    coverage: float

    def empty(self) -> Choice:
        """The set of no sentence."""
        return Choice((), 0, ReadabilityCounts(), 0.0, np.zeros(len(self.importance)))

    def plus(self, choice: Choice, at: int) -> Choice:
        """The set and one more sentence, without its cost."""
        sentence = self.sentences[at]
        return Choice(
            tuple(sorted((*choice.chosen, at))),
            choice.words + sentence.words,
            choice.counts + sentence.counts,
            choice.factuality_sum + self.factuality[at],
            np.maximum(choice.matched, self.matches[:, at]),
        )

    def without(self, choice: Choice, left_out: int) -> Choice:
        """The set less one of its sentences, without its cost."""
        smaller = self.empty()
        for at in choice.chosen:
            if at != left_out:
                smaller = self.plus(smaller, at)
        return smaller

    def grown(self, choice: Choice) -> list[Choice]:
        """The sets with one more sentence that are within the limit, with their costs."""
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

    def extra_cost(self, choice: Choice) -> float:
        """The cost of a set beside its loss: content left out, and lost references."""
        indexes = {self.sentences[at].passage.index for at in choice.chosen}
        lost = sum(
            self.sentences[at].refers_back and self.sentences[at].passage.index - 1 not in indexes
            for at in choice.chosen
        )
        left_out = 1.0 - float(choice.matched @ self.importance)
        return self.coverage * left_out + _LOST_REFERENCE * lost


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A searched text, for all its candidates: its sentences, the best set and other sets."""

    truncated: bool
    sentences: list[Sentence]
    best: Choice
    others: list[Choice]


@dataclass(eq=False)
class ExtractiveGenerator:
    """Summaries made of the original's own sentences; an engine of the `Generator` protocol.

    Args:
        suite: the metrics of the loss.
        loss: the loss to minimise.
        glossary: plain words for medical terms; None copies sentences as they are.
        max_words: longest summary, in words, >= 1.
        beam_width: sets kept at each step of the search, >= 1.
        rescore: best sets measured with the real metrics, >= 1.
        coverage: cost of leaving everything out, in units of the loss, >= 0.
        weights: of the loss; None: equal.

    Raises:
        InvalidInput: bad weights.
        ValueError: another argument is out of range.
    """

    suite: MetricSuite
    loss: LossFunction
    glossary: Glossary | None
    _: KW_ONLY
    max_words: int = 220
    beam_width: int = 16
    rescore: int = 6
    coverage: float = 0.3
    weights: Sequence[float] | None = None

    name = "extractive"
    batch_size = 1
    """Texts are searched one after the other: a batch would only delay the first."""
    candidates_together = True

    def __post_init__(self) -> None:
        if min(self.max_words, self.beam_width, self.rescore) < 1:
            raise ValueError("max_words, beam_width and rescore must be at least 1")
        if not self.coverage >= 0:
            raise ValueError(f"coverage must not be negative, but is {self.coverage}")
        self.device = self.suite.relevance.device
        self._weights = check_weights(self.weights).tolist()
        # One at a time: candidates that arrive together wait for the first and reuse its work.
        self._preparing = threading.Lock()
        self._cached = lru_cache(PREPARED_TEXTS)(self._prepare)

    def validate(self, text: str, params: GenerationParams) -> None:
        """As the protocol says."""
        require_text(text, "text")
        params.check()

    def generate(
        self,
        texts: Sequence[str],
        params: Sequence[GenerationParams],
        *,
        cancelled: Callable[[int], bool] | None = None,
        tenant: str | None = None,
    ) -> list[Summary]:
        """As the protocol says; `max_new_tokens` counts words, and of the other options only `seed`
        and `variant` matter. A text cancelled before its turn has an empty summary.
        """
        # Texts without a seed share one for the whole call, so that their candidates differ too.
        fresh = int(np.random.default_rng().integers(2**63))
        return [
            self._cancelled
            if cancelled is not None and cancelled(at)
            else self._summarise(text, one, fresh if one.seed is None else one.seed)
            for at, (text, one) in enumerate(zip(texts, params, strict=True))
        ]

    def stream(
        self,
        text: str,
        params: GenerationParams,
        *,
        cancelled: Callable[[], bool] | None = None,
        tenant: str | None = None,
    ) -> PieceIterator:
        """As the protocol says; a piece is a sentence."""
        self.validate(text, params)
        return self._stream(text, params, cancelled)

    def _stream(
        self, text: str, params: GenerationParams, cancelled: Callable[[], bool] | None
    ) -> PieceIterator:
        if cancelled is not None and cancelled():
            yield self._cancelled
            return
        summary = self._summarise(text, params, params.seed)
        start = 0
        for sentence in summary.sentences:
            end = summary.text.index(sentence.text, start) + len(sentence.text)
            yield summary.text[start:end]
            start = end
        yield summary

    def _summarise(
        self, original: str, params: GenerationParams, seed: int | None = None
    ) -> Summary:
        self.validate(original, params)
        with self._preparing:
            prepared = self._cached(original, min(self.max_words, params.max_new_tokens))
        if isinstance(prepared, Summary):
            return prepared
        best, others = prepared.best, prepared.others
        # A text of few sentences has few sets; candidates beyond them repeat the best.
        if 0 < params.variant <= len(others):
            # One draw for all variants of a seed, so that they differ.
            rng = np.random.default_rng(seed)
            best = in_drawn_order(others, TEMPERATURE, rng)[params.variant - 1]
        chosen = [prepared.sentences[at] for at in best.chosen]
        return self.summary(chosen, original, prepared.truncated)

    def _prepare(self, original: str, limit: int) -> _Prepared | Summary:
        """Searches a text for all its candidates; the summary itself if there is no choice."""
        passages = split_passages(original)
        truncated = len(passages) > MOST_PASSAGES
        if truncated:
            half = MOST_PASSAGES // 2
            ends = passages[:half] + passages[-half:]
            # Both ends may hold nothing but fragments; then the sentences between them.
            usable = [passage for passage in passages if passage.usable]
            passages = ends if any(one.usable for one in ends) else usable[:MOST_PASSAGES]
        sentences = self.candidates(original, passages)
        fitting = [sentence for sentence in sentences if sentence.words <= limit]
        if not fitting:
            shortest = min(sentences, key=lambda sentence: sentence.words)
            return _cut(shortest, limit, self.summary([shortest], original, truncated))
        read = " ".join(passage.text for passage in passages) if truncated else original
        space = self.space(read, passages, fitting, limit)
        found = search(space, self.beam_width, max(self.rescore, KEPT_SETS))
        best = self._measured_best(read, space, found[: self.rescore])
        others = [one for one in found if one.chosen != best.chosen]
        return _Prepared(truncated, fitting, best, others)

    def candidates(self, original: str, passages: list[Passage]) -> list[Sentence]:
        """The sentences to choose from; at least one."""
        return self.sentences(passages)

    def sentences(self, passages: list[Passage]) -> list[Sentence]:
        """The usable passages in plain words."""
        usable = (passage for passage in passages if passage.usable)
        return [_in_plain_words(passage, self.glossary) for passage in usable]

    def _factuality(self, original: str, sentences: list[Sentence]) -> list[float]:
        """Factuality of each sentence against the chunk of the original it came from.

        With few exceptions that chunk supports a copied sentence best; scoring it against every
        chunk would take most of the time.
        """
        scorer = self.suite.factuality
        chunks = [" ".join(one.split()) for one in scorer.chunks(original)]
        homes = [home_of(sentence.passage.text, chunks) for sentence in sentences]
        return scorer.score_pieces(homes, [sentence.text for sentence in sentences])

    def space(
        self, original: str, passages: list[Passage], sentences: list[Sentence], limit: int
    ) -> Space:
        """The search space of summaries of at most `limit` words."""
        pairs = [(passage.text, sentence.text) for passage in passages for sentence in sentences]
        scores = self.suite.relevance.score(*map(list, zip(*pairs, strict=True)))
        recall = np.array([score.recall for score in scores])
        lengths = np.array([len(passage.text.split()) for passage in passages], dtype=np.float64)
        return Space(
            sentences=sentences,
            factuality=self._factuality(original, sentences),
            matches=recall.reshape(len(passages), len(sentences)),
            importance=lengths / lengths.sum(),
            limit=limit,
            loss=self.loss,
            weights=self._weights,
            coverage=self.coverage,
        )

    def _measured_best(self, original: str, space: Space, choices: list[Choice]) -> Choice:
        """The best of the choices by relevance and readability measured on the whole text."""
        texts = [
            self.summary([space.sentences[at] for at in one.chosen], original, False).text
            for one in choices
        ]
        relevance = self.suite.relevance.score([original] * len(texts), texts)
        values = [
            (score.f1, one.mean_factuality, *ReadabilityCounts.of(text).scores())
            for score, one, text in zip(relevance, choices, texts, strict=True)
        ]
        costs = self.loss(values, self._weights)
        costs += np.array([space.extra_cost(one) for one in choices])
        return choices[int(costs.argmin())]

    def summary(self, chosen: Sequence[Sentence], original: str, truncated: bool) -> Summary:
        """The summary of these sentences, which are in the order of the original."""
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
            model=self.name,
            sentences=sentences,
            truncated=truncated,
        )

    @property
    def _cancelled(self) -> Summary:
        return Summary("", self.name, finish_reason="cancelled")


def home_of(text: str, chunks: list[str]) -> str:
    """The chunk that holds the text; two chunks if the border between them runs through it."""

    def bare(text: str) -> str:  # a passage has no tags, and no space after a broken hyphen
        return re.sub(r"<[^<>]*>|\s", "", text)

    places = [*chunks, *(f"{first} {second}" for first, second in pairwise(chunks))]
    return next((place for place in places if bare(text) in bare(place)), " ".join(chunks))


def _in_plain_words(passage: Passage, glossary: Glossary | None) -> Sentence:
    text = passage.text
    replacements: tuple[tuple[str, str], ...] = ()
    if glossary is not None:
        text, done = glossary.simplify(text)
        replacements = tuple((one.term, one.plain) for one in done)
    first = text.split()[0]
    if first.isalpha() and first.islower():
        # It followed a heading. Names such as "mRNA" or "p53" stay as they are.
        text = text[0].upper() + text[1:]
    return Sentence(
        passage=passage,
        text=text,
        replacements=replacements,
        words=len(text.split()),
        counts=ReadabilityCounts.of(text),
        refers_back=passage.index > 0 and _REFERS_BACK.match(text) is not None,
    )


def _cut(sentence: Sentence, limit: int, whole: Summary) -> Summary:
    """The first `limit` words of a sentence, where every sentence is longer."""
    text = " ".join(sentence.text.split()[:limit])
    return replace(
        whole,
        text=text,
        sentences=(replace(whole.sentences[0], text=text),),
        finish_reason="length",
    )


def search(space: Space, beam_width: int, wanted: int) -> list[Choice]:
    """The best sets found, at most `wanted`, cheapest first.

    A beam search adds sentences one at a time; exchanging single sentences of the best set then
    corrects the beam's early steps, which could not know the grade level of the whole.
    """
    found: dict[tuple[int, ...], Choice] = {}
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


def in_drawn_order(
    found: list[Choice], temperature: float, rng: np.random.Generator
) -> list[Choice]:
    """The sets in random order, cheap ones likely first.

    Drawn without replacement, with a probability that falls by a factor of e for each `temperature`
    of cost (the Gumbel-max trick), so that no set comes twice and the first few are good.

    Args:
        found: sets with their costs.
        temperature: in units of the loss, > 0.
        rng: random generator.
    """
    noise = rng.gumbel(size=len(found))
    costs = np.array([one.cost for one in found])
    return [found[at] for at in np.argsort(costs / temperature - noise, kind="stable")]


def _best(choices: dict[tuple[int, ...], Choice], count: int) -> list[Choice]:
    # By position among equals, so that the same text always has the same summary.
    return sorted(choices.values(), key=lambda one: (one.cost, one.chosen))[:count]
