"""The `extractive` generator engine: sentences of the original, chosen so that the loss is least.

It never invents. The original's sentences are put in plainer words by the glossary, and sets
of them, kept in their order, are searched for the least loss within a word budget
(`selection`). Readability of a set is exact throughout; relevance is estimated during the
search and measured for the best sets at its end; factuality is that of each sentence
against the chunk it came from. docs/extractive.md has how well that works.

Deterministic: temperature, top_p and repeat_penalty change nothing. Further candidates (`variant`
above 0) are drawn, with the seed, from the other sets that the same search has met, of which cheap
ones are likelier. A text is measured and searched once for all of them.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import cast

import numpy as np

from serve_app.generation.extractive.passages import Passage, split_passages
from serve_app.generation.extractive.selection import (
    Choice,
    Sentence,
    Space,
    in_drawn_order,
    search,
)
from serve_app.generation.params import require_params
from serve_app.generation.protocol import (
    GenerationParams,
    PieceIterator,
    Summary,
    SummarySentence,
)
from serve_app.metrics.alignscore import EvalMode, context_chunks
from serve_app.metrics.loss import LossFunction, check_weights
from serve_app.metrics.readability import ReadabilityCounts
from serve_app.metrics.suite import MetricSuite
from serve_app.text.glossary import Glossary
from serve_app.text.validation import require_text

MOST_PASSAGES = 60
"""Sentences considered; of a longer original, the first half and the last half of these."""

PREPARED_TEXTS = 16
"""Texts whose measurements are kept for their further candidates."""

KEPT_SETS = 256
"""Best sets of a search that further candidates are drawn from."""

TEMPERATURE = 0.002
"""How far from the best they stray, in units of the loss (benchmarks/best_of_n.py)."""

_POINTS_BACK = re.compile(
    r"(?:th(?:is|ese|ose|ey|e (?:former|latter|other|same|remaining|two))|it|its|their|such|both|"
    r"neither|however|moreover|furthermore|therefore|thus|hence|similarly|likewise|otherwise|"
    r"conversely|in (?:addition|contrast)|by contrast|also|additionally|consequently|nevertheless|"
    r"nonetheless|instead|one of (?:these|them)|of (?:these|those)|again|another)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What the candidates of one text share: its sentences, the best set of them, and others."""

    original: str
    truncated: bool
    sentences: list[Sentence]
    best: Choice
    others: list[Choice]

    def summary_of(self, choice: Choice) -> Summary:
        chosen = [self.sentences[at] for at in choice.chosen]
        return _summary(chosen, self.original, self.truncated)


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
    candidates_together = True

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
        # One at a time: candidates that arrive together wait for the first one's work.
        self._preparing = threading.Lock()
        self._recent = lru_cache(PREPARED_TEXTS)(self._prepare)

    def validate(self, text: str, params: GenerationParams) -> None:
        """As the protocol says."""
        require_text(text, "text")
        require_params(params)

    def generate(
        self,
        texts: Sequence[str],
        params: Sequence[GenerationParams],
        *,
        cancelled: Callable[[int], bool] | None = None,
        tenant: str | None = None,
    ) -> list[Summary]:
        """As the protocol says; of `params`, `max_new_tokens` counts words, and only `seed` and
        `variant` count beside it.

        A text that is cancelled before its turn gets an empty summary that says so.
        """
        # For those without a seed, one for the whole call: so their candidates differ too.
        fresh = int(np.random.default_rng().integers(2**63))
        return [
            _nothing()
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
            yield _nothing()
            return
        summary = self._summarise(text, params, params.seed)
        for index, sentence in enumerate(summary.sentences):
            yield sentence.text if index == 0 else " " + sentence.text
        yield summary

    def _summarise(
        self, original: str, params: GenerationParams, seed: int | None = None
    ) -> Summary:
        self.validate(original, params)
        prepared = self._prepared(original, min(self.max_words, params.max_new_tokens))
        if isinstance(prepared, Summary):
            return prepared
        best, others = prepared.best, prepared.others
        # A text with few sentences has few sets; what is asked for beyond them is the best again.
        if 0 < params.variant <= len(others):
            # One draw for all variants of a seed, so that no two of them are alike.
            rng = np.random.default_rng(seed)
            best = in_drawn_order(others, TEMPERATURE, rng)[params.variant - 1]
        return prepared.summary_of(best)

    def _prepared(self, original: str, limit: int) -> _Prepared | Summary:
        with self._preparing:
            return self._recent(original, limit)

    def _prepare(self, original: str, limit: int) -> _Prepared | Summary:
        """What all candidates share; the summary itself where there is nothing to choose."""
        passages = split_passages(original)
        truncated = len(passages) > MOST_PASSAGES
        if truncated:
            half = MOST_PASSAGES // 2
            passages = passages[:half] + passages[-half:]
        sentences = self.sentences(passages)
        fitting = [sentence for sentence in sentences if sentence.words <= limit]
        if not fitting:
            shortest = min(sentences, key=lambda sentence: sentence.words)
            return _cut(shortest, original, limit, truncated)
        read = " ".join(passage.text for passage in passages) if truncated else original
        space = self.space(read, passages, fitting, limit)
        found = search(space, self.beam_width, max(self.rescore, KEPT_SETS))
        best = self._measured_best(read, space, found[: self.rescore])
        others = [one for one in found if one.chosen != best.chosen]
        return _Prepared(original, truncated, fitting, best, others)

    def sentences(self, passages: list[Passage]) -> list[Sentence]:
        """The usable passages in plain words; all of them where none is usable."""
        # Of a long original, what is read may hold nothing but fragments.
        usable = [passage for passage in passages if passage.usable] or passages
        return [_in_plain_words(passage, self._glossary) for passage in usable]

    def _factuality(self, original: str, sentences: list[Sentence]) -> list[float]:
        """AlignScore of each sentence against the chunk of the original it came from.

        That is the chunk which supports a copied sentence best, with few exceptions; scoring
        it against every chunk would take most of the time there is.
        """
        scorer = self._suite.factuality
        chunks = [" ".join(one.split()) for one in context_chunks(original, scorer.chunk_words)]
        homes = [_home(sentence.passage.text, chunks) for sentence in sentences]
        # One chunk and one sentence a score, so there is nothing for an `_sp` mode to split.
        mode = cast(EvalMode, scorer.eval_mode.removesuffix("_sp"))
        texts = [sentence.text for sentence in sentences]
        return [result.score for result in scorer.score(homes, texts, eval_mode=mode)]

    def space(
        self, original: str, passages: list[Passage], sentences: list[Sentence], limit: int
    ) -> Space:
        """What is searched for a summary of the original in at most `limit` words."""
        pairs = [(passage.text, sentence.text) for passage in passages for sentence in sentences]
        scores = self._suite.relevance.score(*map(list, zip(*pairs, strict=True)))
        recall = np.array([score.recall for score in scores])
        lengths = np.array([len(passage.text.split()) for passage in passages], dtype=np.float64)
        return Space(
            sentences=sentences,
            factuality=self._factuality(original, sentences),
            matches=recall.reshape(len(passages), len(sentences)),
            importance=lengths / lengths.sum(),
            limit=limit,
            loss=self._loss,
            weights=self._weights,
            coverage=self.coverage,
        )

    def _measured_best(self, original: str, space: Space, choices: list[Choice]) -> Choice:
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


def _home(text: str, chunks: list[str]) -> str:
    """The chunk that holds the text; where a border runs through it, the two around that."""
    for chunk in chunks:
        if text in chunk:
            return chunk
    pairs = (f"{first} {second}" for first, second in pairwise(chunks))
    return next((pair for pair in pairs if text in pair), " ".join(chunks))


def _in_plain_words(passage: Passage, glossary: Glossary | None) -> Sentence:
    text = passage.text
    replacements: tuple[tuple[str, str], ...] = ()
    if glossary is not None:
        text, done = glossary.simplify(text)
        replacements = tuple((one.term, one.plain) for one in done)
    first = text.split()[0]
    if first.isalpha() and first.islower():
        # It stood after a heading. Names such as "mRNA" or "p53" stay as they are.
        text = text[0].upper() + text[1:]
    return Sentence(
        passage=passage,
        text=text,
        replacements=replacements,
        words=len(text.split()),
        counts=ReadabilityCounts.of(text),
        points_back=passage.index > 0 and _POINTS_BACK.match(text) is not None,
    )


def _summary(chosen: list[Sentence], original: str, truncated: bool) -> Summary:
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


def _nothing() -> Summary:
    """The answer to a caller who no longer waits for one."""
    return Summary("", ExtractiveGenerator.name, finish_reason="cancelled")


def _cut(sentence: Sentence, original: str, limit: int, truncated: bool) -> Summary:
    """The first `limit` words of a sentence, for a limit that no sentence is within."""
    text = " ".join(sentence.text.split()[:limit])
    whole = _summary([sentence], original, truncated)
    return replace(
        whole,
        text=text,
        sentences=(replace(whole.sentences[0], text=text),),
        finish_reason="length",
    )
