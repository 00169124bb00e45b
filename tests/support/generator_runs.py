"""What the tests of generator training share: a small corpus, a tiny base, quick options."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch

from serve_app.training.generator.options import TrainOptions
from tests.support.tiny_models import CHAT_TEMPLATE, make_llama, make_tokenizer

PAIRS = [
    ("The trial included 120 adults with diabetes.", "The study had 120 adults.", "train"),
    ("Headache and nausea were rare in both groups.", "Side effects were rare.", "train"),
    ("We found no clear difference in pain.", "Pain was much the same.", "test"),
]


def save_corpus(path: Path, rows: list[tuple[str, str, str]] | None = None) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["source_text", "target_text", "split"])
        writer.writerows(PAIRS if rows is None else rows)
    return path


def save_base(folder: Path) -> Path:
    """A tiny base that can learn to end: `make_llama` writes no special token by itself."""
    tokenizer = make_tokenizer(CHAT_TEMPLATE)
    model = make_llama(tokenizer, context=512)
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id].normal_(0.0, 0.25)
    base = folder / "org__base"
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    return base


def options(folder: Path, **changed: Any) -> TrainOptions:
    """A run of a second or two; the corpus and the base are in `folder`."""
    usual: dict[str, Any] = {
        "data": str(folder / "pairs.csv"),
        "base": str(folder / "org__base"),
        "out": folder / "org__base-run",
        "rank": 8,
        "alpha": 16,
        "sft_epochs": 2.0,
        "sft_learning_rate": 1e-2,
        "sft_batch": 2,
        "grpo_steps": 2,
        "grpo_learning_rate": 1e-6,
        "grpo_batch": 4,
        "num_generations": 2,
        "accumulation": 1,
        "max_length": 512,
        "max_new_tokens": 24,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_steps": 5,
        "bf16": False,
    }
    return TrainOptions(**(usual | changed))
