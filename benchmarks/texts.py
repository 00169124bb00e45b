"""Real texts for the cases: of the shared data folder, else of the abstract the project ships."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from random import Random

from serve_app.core.resources import RESOURCES
from serve_app.text.sentences import split_sentences

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@dataclass(frozen=True)
class Texts:
    """Pairs of (original, summary), where they came from, and all their sentences."""

    source: str
    pairs: list[tuple[str, str]]

    @property
    def originals(self) -> list[str]:
        return list(dict.fromkeys(original for original, _ in self.pairs))

    def sentences(self, *, low: int = 8, high: int = 40) -> list[str]:
        """Distinct sentences of `low` to `high` words of originals and summaries."""
        every = chain.from_iterable(split_sentences(text) for pair in self.pairs for text in pair)
        return list(dict.fromkeys(text for text in every if low <= len(text.split()) <= high))


def load() -> Texts:
    """Cochrane abstracts with human summaries, and with two models' summaries."""
    human, models = SHARED / "cochrane_pls.csv", SHARED / "reference_metrics.jsonl"
    if not human.is_file() or not models.is_file():
        return Texts("the abstract in serve_app/resources/demo, recombined", list(_shipped()))
    with human.open(encoding="utf-8", newline="") as lines:
        pairs = [(row["source_text"], row["target_text"]) for row in csv.DictReader(lines)]
    rows = [json.loads(line) for line in models.read_text(encoding="utf-8").splitlines()]
    pairs += [(row["original"], row["generated"]) for row in rows]
    return Texts("cochrane_pls.csv and reference_metrics.jsonl of the shared data", pairs)


def _shipped() -> Iterator[tuple[str, str]]:
    sentences = split_sentences((RESOURCES / "demo" / "abstract.txt").read_text(encoding="utf-8"))
    rng = Random(0)
    for _ in range(400):
        size = rng.randint(4, 2 * len(sentences))
        original = rng.choices(sentences, k=size)
        yield " ".join(original), " ".join(rng.sample(original, max(1, size // 3)))


def mixed_pairs(texts: Texts, count: int) -> list[tuple[str, str]]:
    """Pairs whose texts are cut to anything from one sentence to all of them."""
    rng = Random(1)
    return [
        (_cut(original, rng.random() ** 2, rng), _cut(summary, rng.random(), rng))
        for original, summary in rng.sample(texts.pairs, count)
    ]


def _cut(text: str, share: float, rng: Random) -> str:
    sentences = split_sentences(text)
    size = max(1, round(share * len(sentences)))
    start = rng.randrange(len(sentences) - size + 1)
    return " ".join(sentences[start : start + size])


def long_pairs(texts: Texts, count: int, *, words: int = 400) -> list[tuple[str, str]]:
    """Pairs of about `words` words on each side."""
    rng = Random(2)
    return [
        (_grown(original, words, texts, rng), _grown(summary, words, texts, rng))
        for original, summary in rng.sample(texts.pairs, count)
    ]


def _grown(text: str, words: int, texts: Texts, rng: Random) -> str:
    taken: list[str] = []
    pieces = chain(split_sentences(text), _stream(texts, rng))
    total = 0
    while total < words:
        piece = next(pieces)
        taken.append(piece)
        total += len(piece.split())
    return " ".join(taken)


def _stream(texts: Texts, rng: Random) -> Iterator[str]:
    while True:
        yield from split_sentences(rng.choice(texts.pairs)[0])


def sentence_pairs(texts: Texts, count: int) -> list[tuple[str, str]]:
    """One-sentence contexts and claims."""
    sentences = texts.sentences()
    return [tuple(Random(3 + n).sample(sentences, 2)) for n in range(count)]  # type: ignore[misc]


def documents(
    texts: Texts, count: int, *, words: int = 700, claims: int = 15
) -> list[tuple[str, str]]:
    """Documents of about `words` words with claims of `claims` sentences."""
    rng = Random(4)
    sentences = texts.sentences()
    return [
        (_grown(original, words, texts, rng), " ".join(rng.sample(sentences, claims)))
        for original in islice(texts.originals, count)
    ]
