"""The metric cases: relevance, factuality and readability beside their peers, and the encoder.

Each function gives rows of the table. The peer runs in float32, as it does for its users; ours
runs in float32 and in bfloat16, in turns with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from transformers import AutoModel

from benchmarks import machine, peers, texts
from benchmarks.measure import Row, interleave
from serve_app.metrics.alignscore import AlignScorer
from serve_app.metrics.bertscore import BertScorer
from serve_app.metrics.readability import readability_batch
from serve_app.models.encoder_runtime import Batch, EncoderRuntime, TokenSequence
from serve_app.storage.artifacts import resolve

DTYPES = ("float32", "bfloat16")
ROUNDS_OF_TRAINING = 8
CACHE = 256 * 2**20
Pairs = list[tuple[str, str]]


def _difference(left: list[float], right: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(left, right, strict=True))


def _rows(
    case: str,
    peer: str,
    sides: dict[str, Callable[[], list[float]]],
    targets: tuple[float, float],
    rounds: int,
    note: str = "",
) -> Iterator[Row]:
    timings = interleave(sides, rounds)
    base = timings["peer"]
    for dtype, target in zip(DTYPES, targets, strict=True):
        own = timings[dtype]
        off = _difference(base.result, own.result)
        yield Row(case, peer, dtype, base.median, own.median, target, off, note)


def relevance(found: texts.Texts, rounds: int) -> Iterator[Row]:
    """BERTScore on the embedded encoder at its embedded layer."""
    layer = BertScorer.from_reference(peers.ENCODER, device="cpu").layer
    peer = peers.BertScorePeer(layer)
    own = {d: BertScorer.from_reference(peers.ENCODER, device="cpu", dtype=d) for d in DTYPES}

    def sides(pairs: Pairs) -> dict[str, Callable[[], list[float]]]:
        originals, generated = [list(side) for side in zip(*pairs, strict=True)]
        made: dict[str, Callable[[], list[float]]] = {
            "peer": lambda: peer.score(originals, generated)
        }
        for dtype, scorer in own.items():
            made[dtype] = partial(_f1, scorer, originals, generated)
        return made

    note = f"layer {layer}"
    pairs = texts.mixed_pairs(found, 64)
    yield from _rows("relevance, 64 pairs of mixed length", "bert-score", sides(pairs),
                     (2.5, 4.5), rounds, note)  # fmt: skip
    pairs = texts.long_pairs(found, 64)
    yield from _rows("relevance, 64 pairs of about 400 words", "bert-score", sides(pairs),
                     (1.4, 2.5), rounds, note)  # fmt: skip
    yield from _training(found, peer, layer, rounds, note)


def _f1(scorer: BertScorer, originals: list[str], generated: list[str]) -> list[float]:
    return [result.f1 for result in scorer.score(originals, generated)]


def _indices(_: Any, batch: Batch) -> list[int]:
    return batch.indices


def _training(
    found: texts.Texts, peer: peers.BertScorePeer, layer: int, rounds: int, note: str
) -> Iterator[Row]:
    """The same originals against new candidates, call after call, as a training loop does."""
    originals = [original for original, _ in texts.long_pairs(found, 32)]
    summaries = [summary for _, summary in found.pairs]
    calls = [summaries[32 * n : 32 * (n + 1)] for n in range(ROUNDS_OF_TRAINING)]

    def with_peer() -> list[float]:
        return [value for call in calls for value in peer.score(originals, call)]

    def with_ours(dtype: str) -> Callable[[], list[float]]:
        # Its weights are loaded once; its cache is empty at the start of each measurement.
        scorer = BertScorer.from_reference(
            peers.ENCODER, device="cpu", dtype=dtype, cache_bytes=CACHE
        )

        def run() -> list[float]:
            scorer.cache.clear()
            return [value for call in calls for value in _f1(scorer, originals, call)]

        return run

    sides: dict[str, Callable[[], list[float]]] = {"peer": with_peer}
    sides |= {dtype: with_ours(dtype) for dtype in DTYPES}
    case = f"relevance, 32 originals scored {ROUNDS_OF_TRAINING} times"
    yield from _rows(case, "bert-score", sides, (5.0, 9.0), rounds, note)


def factuality(found: texts.Texts, rounds: int) -> Iterator[Row]:
    """AlignScore on the weights of alignscore-mini, in the published mode and chunk size."""
    reference = peers.AlignScoreReference()
    own = {d: AlignScorer.from_reference(peers.ALIGNSCORE, device="cpu", dtype=d) for d in DTYPES}

    def sides(pairs: Pairs, words: int, mode: Any) -> dict[str, Callable[[], list[float]]]:
        contexts, claims = [list(side) for side in zip(*pairs, strict=True)]
        made: dict[str, Callable[[], list[float]]] = {
            "peer": lambda: reference.score(contexts, claims, chunk_words=words, mode=mode)
        }
        for dtype, scorer in own.items():

            def run(scorer: AlignScorer = scorer) -> list[float]:
                scorer.chunk_words = words
                return [r.score for r in scorer.score(contexts, claims, eval_mode=mode)]

            made[dtype] = run
        return made

    peer = "AlignScore's published inference"
    published = (350, "nli_sp")
    pairs = texts.sentence_pairs(found, 64)
    yield from _rows("factuality, 64 one-sentence pairs", peer, sides(pairs, *published),
                     (15.0, 30.0), rounds)  # fmt: skip
    documents = texts.documents(found, 8)
    yield from _rows("factuality, 8 documents of 700 words x 15 sentences", peer,
                     sides(documents, *published), (3.2, 6.0), rounds,
                     "350-word chunks")  # fmt: skip
    [(original, _), *_] = documents
    candidates = [(original, claim) for _, claim in texts.documents(found, 4, claims=8)]
    yield from _rows("factuality, 4 candidate summaries of one original", peer,
                     sides(candidates, *published), (3.5, 6.5), rounds,
                     "700 words, 8 sentences each, 350-word chunks")  # fmt: skip


def readability(found: texts.Texts, rounds: int) -> Iterator[Row]:
    """All three formulas of 400 summaries."""
    summaries = [summary for _, summary in found.pairs][-400:]
    timings = interleave(
        {
            "peer": lambda: peers.textstat_scores(summaries),
            "ours": lambda: [(r.fkgl, r.smog, r.dale_chall) for r in readability_batch(summaries)],
        },
        rounds,
    )
    peer, own = timings["peer"], timings["ours"]
    off = max(_difference([*a], [*b]) for a, b in zip(peer.result, own.result, strict=True))
    yield Row(f"readability, {len(summaries)} texts", "textstat called three times", "float64",
              peer.median, own.median, 3.0, off, "caches of words warm on both sides")  # fmt: skip


def encoder(rounds: int) -> Iterator[dict[str, Any]]:
    """The share of the measured dense-GEMM peak a 512-token batch reaches."""
    generator = torch.Generator().manual_seed(0)
    rows = [
        TokenSequence(torch.randint(1000, 20000, (512,), generator=generator).tolist())
        for _ in range(8)
    ]
    sides: dict[str, Callable[[], Any]] = {}
    config = None
    for dtype in DTYPES:
        model = AutoModel.from_pretrained(resolve(peers.ENCODER), attn_implementation="sdpa")
        config = model.config
        runtime = EncoderRuntime(model, pad_token_id=0, device="cpu", dtype=dtype)
        sides[dtype] = partial(runtime.run, rows, _indices)
        plain = AutoModel.from_pretrained(resolve(peers.ENCODER), attn_implementation="sdpa")
        padded = EncoderRuntime(plain, pad_token_id=0, device="cpu", dtype=dtype, packed=False)
        sides[f"{dtype} module"] = partial(padded.run, rows, _indices)
        sides[f"{dtype} peak"] = partial(machine.gemm_peak, getattr(torch, dtype))
    timings = interleave(sides, rounds)
    flops = machine.encoder_flops(config, [512] * len(rows), 6)
    for dtype, target in zip(DTYPES, (0.6, 0.5), strict=True):
        peak = timings[f"{dtype} peak"].result
        reached = flops / timings[dtype].median
        module = flops / timings[f"{dtype} module"].median
        yield {
            "dtype": dtype,
            "peak_gflops": peak / 1e9,
            "encoder_gflops": reached / 1e9,
            "module_gflops": module / 1e9,
            "share": reached / peak,
            "target": target,
        }
