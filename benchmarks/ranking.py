"""What bfloat16 changes: deviations, and whether it orders published summaries differently."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks import peers, texts
from serve_app.metrics.alignscore import AlignScorer
from serve_app.metrics.bertscore import BertScorer

# Factuality of one abstract of 1,000 tokens is some 20,000 tokens of encoder work.
COUNTS = {"relevance": 400, "factuality": 60}


def kendall_tau(left: list[float], right: list[float]) -> float:
    """Kendall's tau-b of two orders of the same items, in [-1, 1].

    >>> kendall_tau([1.0, 2.0, 3.0], [1.0, 3.0, 2.0])
    0.3333333333333333
    """
    a, b = np.asarray(left), np.asarray(right)
    upper = np.triu_indices(len(a), 1)
    first = np.sign(a[:, None] - a[None, :])[upper]
    second = np.sign(b[:, None] - b[None, :])[upper]
    return float((first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum()))


def compare(found: texts.Texts) -> Iterator[dict[str, Any]]:
    """One row a metric: the last pairs of the texts, which are the published summaries."""
    console = Console(stderr=True)
    loaders: dict[str, tuple[Any, str]] = {
        "relevance": (BertScorer, peers.ENCODER),
        "factuality": (AlignScorer, peers.ALIGNSCORE),
    }
    for metric, (kind, model) in loaders.items():
        pairs = found.pairs[-400:]
        pairs = pairs[:: len(pairs) // COUNTS[metric]][: COUNTS[metric]]
        scores = {}
        for dtype in ("float32", "bfloat16"):
            scorer = kind.from_reference(model, device="cpu", dtype=dtype)
            results = scorer.score([original for original, _ in pairs], [s for _, s in pairs])
            scores[dtype] = [r.f1 if metric == "relevance" else r.score for r in results]
        exact, rounded = np.array(scores["float32"]), np.array(scores["bfloat16"])
        row = {
            "metric": metric,
            "pairs": len(pairs),
            "kendall_tau": kendall_tau(scores["float32"], scores["bfloat16"]),
            "mean_change": float((rounded - exact).mean()),
            "largest_deviation": float(abs(rounded - exact).max()),
            "spread": float(exact.std()),
        }
        console.print(row)
        yield row
