"""Reads the training files, splits them without leaks, and groups their text into passages.

Knows files, hashes and sentences; not what a claim or a label is. `qags_cnndm.jsonl` is read
by the evaluation alone.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import punkt
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from serve_app.core.errors import ConfigError
from serve_app.models.encoder_runtime import Batch, EncoderRuntime, TokenSequence
from serve_app.storage.artifacts import resolve

BASE = "embedded:all-MiniLM-L6-v2"
PARTS = ("train", "dev", "test")
# Images' captions have no document around them; the others are sentences of longer texts.
DOCUMENT_SOURCES = ("mnli", "rte", "scitail", "healthver")
_HEADINGS = re.compile(
    r"^(?:background|objectives?|search methods|selection criteria|data collection and analysis|"
    r"main results|authors.? conclusions|results|methods|conclusions?)\s*$",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True)
class NliRow:
    """One pair of `nli_train.jsonl`."""

    premise: str
    hypothesis: str
    label: str
    source: str


@dataclass
class Passage:
    """Consecutive sentences of one text. `summary` holds a human summary's sentences, if any;
    `anchor` is the sentence `rows` are about, where the passage is built around an NLI premise."""

    sentences: list[str]
    source: str
    summary: list[str] = field(default_factory=list)
    anchor: int | None = None
    rows: list[NliRow] = field(default_factory=list)


def sentences_of(text: str) -> list[str]:
    """Punkt sentences with at least one word; section headings standing alone are dropped."""
    tidy = re.sub(r"\s+", " ", _HEADINGS.sub(" ", text)).strip()
    return [part for part in punkt.sent_tokenize(tidy) if len(part.split()) > 2]


def normalised(text: str) -> str:
    """Lower-case letters and digits only: the key texts are compared by."""
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


@cache
def part_of(key: str) -> str:
    """`test` for a tenth of all keys, `dev` for 3 %, else `train`; by hash, so for good."""
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100
    return "test" if bucket < 10 else "dev" if bucket < 13 else "train"


def read_jsonl(path: Path, columns: Iterable[str]) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file.

    Raises:
        ConfigError: the file is missing, or a row lacks one of `columns`.
    """
    if not path.is_file():
        raise ConfigError(f"no file {path}; give the folder that holds it")
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    for number, row in enumerate(rows, start=1):
        if missing := [column for column in columns if column not in row]:
            raise ConfigError(f"{path.name} row {number} has no {missing[0]!r}")
    return rows


def load_nli(folder: Path) -> dict[str, list[NliRow]]:
    """The NLI pairs by part; all pairs of one premise fall in the same part."""
    rows = read_jsonl(folder / "nli_train.jsonl", ("premise", "hypothesis", "label", "source"))
    parts: dict[str, list[NliRow]] = {part: [] for part in PARTS}
    for row in rows:
        pair = NliRow(row["premise"], row["hypothesis"], row["label"], row["source"])
        parts[part_of(normalised(pair.premise))].append(pair)
    return parts


def load_cochrane(folder: Path) -> dict[str, list[Passage]]:
    """Cochrane abstracts with their summaries: `test` is the file's own test split; `dev` an
    eighth of its train split, by hash.

    Raises:
        ConfigError: the file is missing or lacks a column.
    """
    path = folder / "cochrane_pls.csv"
    if not path.is_file():
        raise ConfigError(f"no file {path}; give the folder that holds it")
    parts: dict[str, list[Passage]] = {part: [] for part in PARTS}
    with path.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            if missing := {"source_text", "target_text", "split"} - row.keys():
                raise ConfigError(f"{path.name} has no column {sorted(missing)[0]!r}")
            passage = Passage(
                sentences_of(row["source_text"]), "cochrane", sentences_of(row["target_text"])
            )
            part = "test"
            if row["split"] == "train":
                digest = hashlib.sha256(normalised(row["source_text"]).encode()).digest()
                part = "dev" if digest[0] < 32 else "train"
            parts[part].append(passage)
    return parts


def load_abstracts(folder: Path, exclude: Sequence[Passage]) -> list[Passage]:
    """Further Cochrane abstracts (`original` of reference_metrics.jsonl) as plain passages,
    less every one that shares a sentence of five words or more with one of `exclude`."""
    taken = {
        normalised(text)
        for passage in exclude
        for text in (*passage.sentences, *passage.summary)
        if len(text.split()) >= 5
    }
    rows = read_jsonl(folder / "reference_metrics.jsonl", ("original",))
    texts = sorted({row["original"] for row in rows})
    passages = (Passage(sentences_of(text), "abstract") for text in texts)
    return [
        passage
        for passage in passages
        if not any(normalised(text) in taken for text in passage.sentences)
    ]


def documents(rows: Sequence[NliRow]) -> list[Passage]:
    """Premises of several sentences, which are little documents of their own."""
    premises: dict[str, list[NliRow]] = {}
    for row in rows:
        if row.source in DOCUMENT_SOURCES:
            premises.setdefault(row.premise, []).append(row)
    found = []
    for premise, about in premises.items():
        sentences = sentences_of(premise)
        if len(sentences) >= 3:
            found.append(Passage(sentences, about[0].source, rows=about))
    return found


def embed(texts: Sequence[str], *, max_length: int = 64) -> NDArray[np.float32]:
    """Unit-length mean-pooled MiniLM embeddings, (n, 384)."""
    directory = resolve(BASE)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModel.from_pretrained(directory, attn_implementation="sdpa")
    runtime = EncoderRuntime(model, pad_token_id=tokenizer.pad_token_id, dtype="bfloat16")

    def pool(output: Any, batch: Batch) -> list[torch.Tensor]:
        rows = torch.split(batch.token_states(output).float(), batch.lengths)
        means = torch.stack([row.mean(0) for row in rows])
        return list(torch.nn.functional.normalize(means, dim=-1).cpu())

    ids = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    return torch.stack(runtime.run([TokenSequence(row) for row in ids], pool)).numpy()


def word_vectors(texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit-length means of the encoder's word embeddings, rare words counting more, (n, 384): near
    in meaning as far as words go, a hundred times as fast as `embed`."""
    directory = resolve(BASE)
    ids = AutoTokenizer.from_pretrained(directory)(list(texts), add_special_tokens=False).input_ids
    embeddings = AutoModel.from_pretrained(directory).embeddings.word_embeddings.weight
    seen = np.bincount(np.concatenate([np.unique(row) for row in ids]), minlength=len(embeddings))
    weighted = embeddings.detach() * torch.from_numpy(np.log(len(ids) / (1 + seen)))[:, None]
    means = torch.stack([weighted[row].mean(0) for row in ids])
    vectors: NDArray[np.float32] = torch.nn.functional.normalize(means, dim=-1).float().numpy()
    return vectors


class PseudoDocuments:
    """Builds passages around single premises out of premises of the same source that are
    near in meaning, so that the words alone do not give the evidence away."""

    def __init__(self, rows: Sequence[NliRow], *, neighbours: int = 60) -> None:
        self.rows: dict[str, list[NliRow]] = {}
        for row in rows:
            if row.source in DOCUMENT_SOURCES and 4 <= len(row.premise.split()) <= 90:
                self.rows.setdefault(row.premise, []).append(row)
        self.premises = list(self.rows)
        self._near: list[list[int]] = [[] for _ in self.premises]
        vectors = word_vectors(self.premises)
        sources = np.array([self.rows[text][0].source for text in self.premises])
        for source in sorted(set(sources)):
            members = np.flatnonzero(sources == source)
            similar = vectors[members] @ vectors[members].T
            np.fill_diagonal(similar, -1.0)
            # Nearly equal premises would support each other's claims.
            similar[similar > 0.9] = -1.0
            count = min(neighbours, len(members) - 1)
            nearest = np.argsort(-similar, axis=1, kind="stable")[:, :count]
            for member, row in zip(members, nearest, strict=True):
                self._near[member] = [int(members[column]) for column in row]

    def build(self, rng: Random, words: int) -> Passage:
        """A passage of about `words` words around a random premise, at a random place in it."""
        index = rng.randrange(len(self.premises))
        seed = self.premises[index]
        total = len(seed.split())
        others: list[str] = []
        for other in rng.sample(self._near[index], len(self._near[index])):
            if total >= words:
                break
            others.append(self.premises[other])
            total += len(self.premises[other].split())
        at = rng.randint(0, len(others))
        pieces = [*others[:at], seed, *others[at:]]
        finished = [text if text[-1] in ".!?\"'" else text + "." for text in pieces]
        return Passage(finished, "pseudo", anchor=at, rows=self.rows[seed])
