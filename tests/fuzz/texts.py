"""Texts that break programs, at any length, and everything of PlainMed that reads a text.

A metric answers a text with finite numbers or refuses it by an `InvalidInput`; in time that grows
as the text does.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from functools import cache

from serve_app.core.errors import InvalidInput
from serve_app.core.resources import RESOURCES
from serve_app.core.settings import load_settings
from serve_app.evidence import check
from serve_app.generation.causal.engine import split_windows
from serve_app.generation.extractive.engine import ExtractiveGenerator
from serve_app.generation.extractive.passages import split_passages
from serve_app.generation.prompts import Prompter
from serve_app.generation.protocol import GenerationParams
from serve_app.metrics.alignscore import context_chunks
from serve_app.metrics.evaluation import AlignScoreResult, BertScoreResult, ClaimSentence, Measured
from serve_app.metrics.explanation import explain
from serve_app.metrics.loss import LossFunction, Targets
from serve_app.metrics.readability import coleman_liau, readability
from serve_app.metrics.suite import MetricSuite
from serve_app.offline.report.examples import mark
from serve_app.text.glossary import Glossary
from serve_app.text.sentences import split_sentences
from serve_app.text.validation import require_text
from tests.support.texts import ORIGINALS
from tests.support.tiny_models import CHAT_TEMPLATE, SPECIAL_TOKENS, make_tokenizer

ORIGINAL = ORIGINALS[0]


def _repeated(unit: str, start: str = "", end: str = "") -> Callable[[int], str]:
    def make(length: int) -> str:
        body = unit * (1 + length // len(unit))
        return start + body[:length] + end

    return make


TEXTS: dict[str, Callable[[int], str]] = {
    "plain prose": lambda n: (ORIGINAL + " ") * (1 + n // len(ORIGINAL)),
    "words": _repeated("pain "),
    "one word": _repeated("a"),
    "one sentence": lambda n: "Pain " + "and nausea " * (n // 11) + "fell.",
    "full stops": _repeated(".", "a"),
    "full stops with spaces": _repeated(". ", "a"),
    "question marks": _repeated("?!", "a"),
    "initials": _repeated("A. "),
    "numbers": _repeated("1.5, ", "The risk was "),
    "one number": _repeated("1,", "The risk was "),
    "spaces": _repeated(" ", "Aims", "a"),
    "spaces after a heading": _repeated(" ", "Methods", "x. We did."),
    "spaces after a full stop": _repeated(" ", "We did.", "So did he."),
    "capitals": _repeated("AAA ", "", "x"),
    "newlines": _repeated("\n", "a", "b"),
    "lines": _repeated("A b.\r\n"),
    "other line ends": _repeated("A b.\r\u2028c.\x85d.\u2029"),
    "hyphens": _repeated("-", "a", "b"),
    "hyphenated": _repeated("a-"),
    "apostrophes": _repeated("'s ", "patient"),
    "quotes": _repeated("\u201d", "He said.", " So."),
    "open brackets": _repeated("(", "a ", " b."),
    "brackets": _repeated("(a) "),
    "closed brackets": _repeated(")", "a.", " b."),
    "terms": _repeated("hypertension "),
    "terms and links": _repeated("RCT and "),
    "terms in brackets": _repeated("hypertension (" + " " * 40),
    "articles": _repeated("an RCT, a "),
    "marks on one letter": _repeated("\u0301", "a", " b"),
    "marks": _repeated("a\u0301\u0323 "),
    "joined emoji": _repeated("\U0001f469\u200d\U0001f52c ", "a "),
    "joiners": _repeated("\u200d", "a", " b"),
    "right to left": _repeated("\u202eالألم انخفض. \u202c"),
    "Chinese": _repeated("疼痛减轻了。"),
    "Thai": _repeated("อาการปวดลดลง"),
    "Devanagari": _repeated("दर्द कम हुआ। "),
    "dotted capital I": _repeated("\u0130 "),
    "controls": _repeated("\x00\x01\x1c\x1f\x7f", "a ", " b"),
    "separators": _repeated("a.\x1c\x1d b"),
    "byte order marks": _repeated("\ufeff", "a ", " b"),
    "underscores": _repeated("_", "a ", " b"),
    "control tokens": _repeated(SPECIAL_TOKENS[1], "a "),
    "special tokens": _repeated("[SEP][CLS]</s>", "a "),
    "only punctuation": _repeated("?!... - "),
}
"""By name, each a function of the length wanted, in characters."""


def measured(text: str) -> Measured:
    """What an evaluation of a text against itself could have found, without a model."""
    chunks = context_chunks(text, 40)
    sentences = tuple(
        ClaimSentence(sentence, 0.5, at % len(chunks), chunks[at % len(chunks)])
        for at, sentence in enumerate(split_sentences(text))
    )
    return Measured(
        BertScoreResult(0.5, 0.5, 0.5, False, False),
        AlignScoreResult(0.5, sentences, False),
        readability(text),
    )


@cache
def _glossary() -> Glossary:
    return Glossary.load()


@cache
def _prompter() -> Prompter:
    tokenizer = make_tokenizer(CHAT_TEMPLATE)
    return Prompter(tokenizer, system_prompt="Be plain.", user_prefix="Text: ")


def _numbers_of_readability(text: str) -> list[float]:
    found = readability(text)
    assert found.smog >= 0
    assert found.dale_chall >= 0
    for word in found.difficult_words:
        assert text[word.start : word.end].lower() == word.word or "\u0130" in text
    return [found.fkgl, found.smog, found.dale_chall]


def _spans_of_explanation(text: str) -> list[float]:
    require_text(text, "text")
    found = explain(text, text, measured(text))
    for evidence in found.sentences:
        for span in (evidence.sentence, evidence.passage, evidence.closest):
            assert span is None or 0 <= span[0] <= span[1] <= len(text)
    for word in found.plain_words:
        assert text[word.start : word.end] == word.term
    return [float(len(found.sentences)), float(len(found.plain_words))]


def _spans_of_findings(text: str) -> list[float]:
    found = check(text, text)
    spans = [one.source_span for one in found.omissions]
    for finding in found.findings:
        spans += (*finding.summary_spans, *finding.source_spans, finding.sentence_span)
    assert all(0 <= start <= end <= len(text) for start, end in spans)
    return [float(found.severe), float(len(found.omissions))]


def _marked(text: str) -> list[float]:
    found = mark(text, None)
    shown = "".join(piece.text for one in found.sentences for piece in one.pieces)
    assert text.startswith(shown)
    assert len(shown) + found.left_out == len(text)
    return [float(found.difficult)]


def _prompted(text: str) -> list[float]:
    require_text(text, "text")
    prompter = _prompter()
    ids = prompter.encode(text)
    assert len(ids) >= prompter.overhead
    return [float(len(ids))]


def _windows(text: str) -> list[float]:
    require_text(text, "text")
    windows = split_windows(text, 2000, len)
    assert all(len(one) <= 2000 for one in windows)
    return [float(len(windows))]


def _simplified(text: str) -> list[float]:
    plain, replaced = _glossary().simplify(text)
    return [float(len(plain)), float(len(replaced))]


READERS: dict[str, Callable[[str], list[float]]] = {
    "sentences": lambda text: [float(len(split_sentences(text)))],
    "readability": _numbers_of_readability,
    "Coleman-Liau": lambda text: [coleman_liau(text)],
    "glossary": _simplified,
    "passages": lambda text: [float(len(split_passages(text)))],
    "explanation": _spans_of_explanation,
    "findings": _spans_of_findings,
    "report marking": _marked,
    "prompt": _prompted,
    "windows": _windows,
}
"""What reads a text without a model, by name: numbers, all finite."""


class Models:
    """What reads a text with the embedded models."""

    def __init__(self, suite: MetricSuite) -> None:
        self._suite = suite
        targets = Targets.load(RESOURCES / "targets-embedded.json")
        self._loss = LossFunction(targets)
        self._generator = ExtractiveGenerator(suite, self._loss, _glossary())

    @classmethod
    def embedded(cls) -> Models:
        """Those of the default settings."""
        return cls(MetricSuite.from_settings(load_settings(device="cpu")))

    def readers(self) -> dict[str, Callable[[str], list[float]]]:
        """By name, as `READERS`."""
        return {
            "relevance": self.relevance,
            "factuality, as summary": lambda text: self.factuality(ORIGINAL, text),
            "factuality, as original": lambda text: self.factuality(text, "Pain fell. So it did."),
            "loss": self.loss,
            "extractive summary": self.summary,
        }

    def relevance(self, text: str) -> list[float]:
        """Of the text for an original."""
        (found,) = self._suite.relevance.score([ORIGINAL], [text])
        assert -1e-6 <= found.f1 <= 1 + 1e-6
        return [found.precision, found.recall, found.f1]

    def factuality(self, original: str, text: str) -> list[float]:
        """Of a text to an original."""
        (found,) = self._suite.factuality.score([original], [text])
        assert 0 <= found.score <= 1
        return [found.score, *(one.score for one in found.sentences)]

    def loss(self, text: str) -> list[float]:
        """Of the text for an original."""
        (found,) = self._suite.measure([ORIGINAL], [text])
        (value,) = self._loss([found.values])
        assert 0 <= value <= 1
        return [float(value), *found.values]

    def summary(self, text: str) -> list[float]:
        """How long a summary of it is."""
        (found,) = self._generator.generate([text], [GenerationParams()])
        require_text(found.text, "summary")
        return [float(len(found.text))]


def answer(reader: Callable[[str], Sequence[float]], text: str) -> list[float] | str:
    """The finite numbers, or the code of the refusal.

    Raises:
        AssertionError: a number is none, or out of its range.
    """
    try:
        found = list(reader(text))
    except InvalidInput as error:
        return error.code
    assert all(map(math.isfinite, found))
    return found


def seconds(reader: Callable[[str], Sequence[float]], text: str, times: int = 2) -> float:
    """The least time of a few, of one thread."""
    best = math.inf
    gc.disable()  # else now and then a pass over every object of torch is part of it
    try:
        for _ in range(times):
            started = time.process_time()
            answer(reader, text)
            best = min(best, time.process_time() - started)
    finally:
        gc.enable()
    return best


def enough(
    reader: Callable[[str], Sequence[float]],
    make: Callable[[int], str],
    length: int,
    least_s: float,
    most: int,
) -> int:
    """A length from `length` up at which reading takes `least_s` seconds; `most` at most."""
    while length < most and seconds(reader, make(length), times=1) < least_s:
        length = min(2 * length, most)
    return length


def growth(
    reader: Callable[[str], Sequence[float]],
    make: Callable[[int], str],
    length: int,
    times: int = 2,
) -> tuple[float, float]:
    """Seconds at `length`, and how many times more at twice it: 2 where time is linear."""
    once = seconds(reader, make(length), times)
    return once, seconds(reader, make(2 * length), times) / max(once, 1e-6)
