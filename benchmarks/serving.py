"""The loss over HTTP beside the library in one process and beside one FastAPI process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from random import Random
from typing import Any

from benchmarks import load, servers, texts
from benchmarks.measure import Row, interleave
from serve_app.core.settings import Settings
from serve_app.metrics.evaluation import evaluate
from serve_app.metrics.loss import LossFunction
from serve_app.metrics.suite import MetricSuite
from serve_app.metrics.targets import load_targets
from serve_app.text.sentences import split_sentences

CLIENTS, PAIRS = 16, 8
ORIGINAL_WORDS, SUMMARY_WORDS = 150, 60


def sample(found: texts.Texts, count: int, seed: int) -> list[tuple[str, str]]:
    """Pairs cut at sentence borders to about 150 and 60 words."""
    rng = Random(seed)

    def cut(text: str, words: int) -> str:
        taken: list[str] = []
        for sentence in split_sentences(text):
            taken.append(sentence)
            if sum(len(piece.split()) for piece in taken) >= words:
                break
        return " ".join(taken)

    return [
        (cut(original, ORIGINAL_WORDS), cut(summary, SUMMARY_WORDS))
        for original, summary in rng.sample(found.pairs, count)
    ]


def body(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    return {
        "texts_original": [original for original, _ in pairs],
        "texts_generated": [summary for _, summary in pairs],
    }


def library() -> Callable[[list[tuple[str, str]]], list[float]]:
    """Losses from our library in this process, all pairs in one call."""
    settings = Settings()
    suite = MetricSuite.from_settings(settings)
    loss = LossFunction(load_targets(settings), settings.loss_steepness, settings.loss_direction)

    def run(pairs: list[tuple[str, str]]) -> list[float]:
        originals, generated = [list(side) for side in zip(*pairs, strict=True)]
        return [item.loss for item in evaluate(suite.measure(originals, generated), loss)]

    return run


def over_http(url: str, pairs: list[tuple[str, str]], each: int) -> Callable[[], list[float]]:
    """The same losses from `len(pairs) / each` clients with one request of `each` pairs."""
    shares = [[body(pairs[at : at + each])] for at in range(0, len(pairs), each)]

    def run() -> list[float]:
        answers = load.closed_loop(f"{url}/loss", shares)
        return [
            value
            for [(_, answer)] in answers
            for value in (answer if isinstance(answer, list) else [answer])
        ]

    return run


def cases(found: texts.Texts, rounds: int) -> Iterator[Row]:
    """Throughput with 16 clients; `ratio` above 1 means that ours is faster."""
    with ExitStack() as stack:
        url = stack.enter_context(servers.plainmed())
        pairs = sample(found, CLIENTS * PAIRS, 0)
        local = library()
        timings = interleave(
            {"library": lambda: local(pairs), "http": over_http(url, pairs, PAIRS)}, rounds
        )
        yield _row(f"loss over HTTP, {CLIENTS} clients x {PAIRS} pairs",
                   "our library in one process", timings, "library", 0.85)  # fmt: skip
        singles = {
            name: stack.enter_context(servers.single(name)) for name in ("reference", "plainmed")
        }
        few = sample(found, CLIENTS, 1)
        sides = {name: over_http(single, few, 1) for name, single in singles.items()}
        timings = interleave({**sides, "http": over_http(url, few, 1)}, rounds)
        case = f"loss over HTTP, {CLIENTS} clients x 1 pair"
        yield _row(case, "one FastAPI process over bert-score, AlignScore's inference, textstat",
                   timings, "reference", 2.0)  # fmt: skip
        yield _row(case, "one FastAPI process over our library", timings, "plainmed", None)


def _row(case: str, peer: str, timings: dict[str, Any], base: str, target: float | None) -> Row:
    own = timings["http"]
    off = max(abs(a - b) for a, b in zip(timings[base].result, own.result, strict=True))
    return Row(case, peer, "float32", timings[base].median, own.median, target, off)
