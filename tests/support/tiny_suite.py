"""The real metrics on the embedded encoder, but with small random factuality heads.

For tests of what uses the metrics: they run without the trained model, and no test may depend
on what the random heads say.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModel

from serve_app.metrics.align_model import AlignModel, CompactConfig, save_compact
from serve_app.metrics.alignscore import AlignScorer
from serve_app.metrics.bertscore import BertScorer
from serve_app.metrics.suite import MetricSuite
from serve_app.storage.artifacts import embedded_path

ENCODER = "embedded:all-MiniLM-L6-v2"


def save_align(folder: Path) -> Path:
    """Writes a factuality model named `tiny`, with heads that nobody trained, to `folder`."""
    torch.manual_seed(0)
    model = AlignModel(AutoModel.from_pretrained(embedded_path("all-MiniLM-L6-v2")))
    save_compact(model, folder, CompactConfig("tiny", ENCODER, 4, 40, "nli_sp"))
    return folder


def make_suite(folder: Path) -> MetricSuite:
    """A suite whose factuality model, named `tiny`, is written to `folder`."""
    save_align(folder)
    return MetricSuite(
        BertScorer.from_reference(ENCODER, device="cpu"),
        AlignScorer.from_reference(str(folder), device="cpu"),
    )
