"""Texts and pairs that BERTScore is tested on, and the scorer of the tiny RoBERTa."""

from __future__ import annotations

import random
from pathlib import Path

from serve_app.metrics.bertscore import BertScorer
from serve_app.text.validation import has_word

EMBEDDED = "embedded:all-MiniLM-L6-v2"
VOCABULARY = """the of and in to with for was were not patients trial placebo treatment randomised
risk ratio evidence low-certainty children adults pain blood pressure 95% CI 0.81 1,204 mortality
hospital weeks adverse events vitamin D3 β-blocker insulin naïve surgery, reviewed; (RCT) people's
Crohn’s COVID-19 antibiotics quality-of-life µg/mL double-blind study heart"""
WORDS = VOCABULARY.split()
# What the sampler does not say: accents, other scripts, emoji, special tokens, newlines.
ODD = [
    "Ménière’s disease — naïve café",
    "血压 下降 10 mmHg",
    "Patients 😷 recovered 👍",
    "a [SEP] b [CLS] c [PAD] d [MASK] e",
    "a </s> b <s> c <mask> d",
    "  leading and trailing \n\n newlines\t ",
    "x",
    "Results\nNo   difference\u00a0was found.",
]


def sample_text(rng: random.Random, words: int) -> str:
    text = " ".join(rng.choice(WORDS) for _ in range(words)).capitalize() + "."
    return text if has_word(text) else sample_text(rng, words)


def sample_pairs(count: int, longest: int, seed: int) -> tuple[list[str], list[str]]:
    """Pairs of lengths from one word to `longest`, mostly short, some sharing texts."""
    rng = random.Random(seed)
    references, candidates = [], []
    for index in range(count):
        reference = sample_text(rng, 1 + int(longest * rng.random() ** 5))
        candidate = sample_text(rng, 1 + int(longest * rng.random() ** 5))
        if index % 7 == 3:
            reference = references[-1]
        if index % 11 == 5:
            candidate = reference
        references.append(reference)
        candidates.append(candidate)
    return references + ODD, candidates + ODD[::-1]


def load_roberta(directory: Path, **options: object) -> BertScorer:
    return BertScorer.from_reference(str(directory), device="cpu", **{"layer": 3, **options})  # type: ignore[arg-type]
