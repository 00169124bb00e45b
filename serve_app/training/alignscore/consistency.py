"""Claims that people judged against a context: the files of `consistency/`, as training pairs.

Knows the files, their splits, and how a long context is cut so that a label stays right; not
models or tokens. The files for non-commercial use (`fine_nli_nc`, `readability_clear`) are not
read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from serve_app.metrics.alignscore import context_chunks
from serve_app.text.sentences import split_sentences
from serve_app.training.alignscore.data import NliRow, normalised, read_jsonl
from serve_app.training.alignscore.pairs import (
    ALIGNED,
    CONTRADICTING,
    NEUTRAL,
    NO_LABEL,
    Pair,
    support,
)

FILES = ("direction", "trials", "pubmedqa", "scifact", "summaries", "wiki_claims", "fine_nli")
LABELS = {
    "supported": ALIGNED,
    "contradicted": CONTRADICTING,
    "unsupported": NEUTRAL,
    "not_supported": NO_LABEL,
}
# Corpora made by editing SNLI, MultiNLI and RTE pairs, some of which are in nli_train.jsonl.
_EDITED_NLI = ("cad_snli", "negation_mnli", "negation_rte", "negation_snli")
_NEGATIONS = frozenset(("not", "no", "never", "none", "n", "t", "do", "does", "did"))
# Chunk sizes a training context is cut to, in words, with weights: what inference may use.
CUTS = {50: 2.0, 80: 2.0, 120: 2.0, 180: 2.0, 300: 1.0}
# A cut must keep this share of what the whole context has of a claim's words.
_KEPT = 0.9


@dataclass(frozen=True)
class Judged:
    """One row of a consistency file; `label` is a key of LABELS."""

    context: str
    claim: str
    label: str
    kind: str
    source: str

    @property
    def group(self) -> str:
        """The corpus, SummEdits' domains together."""
        return "summedits" if self.source.startswith("summedits") else self.source


def load_judged(folder: Path, part: str, files: Iterable[str] = FILES) -> list[Judged]:
    """The rows of `part` (`train` or `dev`).

    Raises:
        ConfigError: a file is missing or a row lacks a column.
    """
    columns = ("context", "claim", "label", "kind", "source", "split")
    return [
        Judged(row["context"], row["claim"], row["label"], row["kind"], row["source"])
        for name in files
        for row in read_jsonl(folder / "consistency" / f"{name}.jsonl", columns)
        if row["split"] == part
    ]


def _key(text: str) -> str:
    return " ".join(word for word in normalised(text).split() if word not in _NEGATIONS)


def without_edits_of(rows: Iterable[Judged], held: Iterable[NliRow]) -> list[Judged]:
    """`rows` less the edited NLI pairs that share a text, negation aside, with a held-out pair."""
    taken = {_key(text) for row in held for text in (row.premise, row.hypothesis)}
    return [
        row
        for row in rows
        if row.source not in _EDITED_NLI or not {_key(row.context), _key(row.claim)} & taken
    ]


def without_originals_of(rows: Iterable[NliRow], held: Iterable[Judged]) -> list[NliRow]:
    """NLI `rows` less those with a premise that a held-out edited pair has, negation aside."""
    taken = {_key(row.context) for row in held if row.source in _EDITED_NLI}
    return [row for row in rows if _key(row.premise) not in taken]


def _as_pair(context: str, claim: str, three_way: int, kind: str) -> Pair:
    aligned = int(three_way == ALIGNED)
    return Pair(context, claim, aligned, three_way, float(aligned), kind)


def focus(row: Judged, rng: Random) -> Pair:
    """The pair with its context cut, as inference cuts it, to the chunk that decides the label.

    The chunk is the one with most of the claim's words. A supported claim gets a larger chunk,
    up to the whole context, until it keeps nearly all of its words that the context has; what
    denies a claim may lie outside the chunk, so a cut contradiction is one only while the chunk
    keeps them too (else it is merely not supported).
    """
    three_way, kind = LABELS[row.label], row.source
    wanted = rng.choices(list(CUTS), list(CUTS.values()))[0]
    length = len(row.context.split())
    sentences = split_sentences(row.context)
    whole = support(row.claim, sentences)
    for size in [wanted, *(size for size in CUTS if size > wanted)]:
        if length <= size:
            break
        chunks = context_chunks(row.context, size)
        best = max(chunks, key=lambda chunk: support(row.claim, [chunk]))
        keeps = support(row.claim, [best]) >= _KEPT * whole
        if keeps:
            return _as_pair(best, row.claim, three_way, kind)
        if three_way != ALIGNED and rng.random() < 0.3:
            # Any chunk fails to support what the whole fails to support. Seldom, since a claim
            # that its chunk lacks words of would else be false for certain.
            label = three_way if three_way == NEUTRAL else NO_LABEL
            return _as_pair(best, row.claim, label, kind)
    return _as_pair(row.context, row.claim, three_way, kind)


def by_sentence(rows: Sequence[Judged]) -> list[Judged]:
    """SummEdits rows as inference reads them, a sentence at a time, where the label allows it.

    Every sentence of a supported summary is supported. An unsupported summary is kept whole,
    and gives its one sentence that no supported summary of the same text has, if it has just one.
    """
    fine: dict[str, set[str]] = {}
    for row in rows:
        if row.label == "supported":
            fine.setdefault(row.context, set()).update(map(normalised, split_sentences(row.claim)))
    made: list[Judged] = []
    for row in rows:
        sentences = split_sentences(row.claim)
        if len(sentences) < 2:
            made.append(row)
            continue
        if row.label == "supported":
            parts = sentences
            made.append(row)
        else:
            known = fine.get(row.context, set())
            parts = [text for text in sentences if normalised(text) not in known]
            if len(parts) != 1:
                made.append(row)
                continue
        made += [
            Judged(row.context, text, row.label, row.kind, row.source)
            for text in parts
            if len(text.split()) >= 5
        ]
    return made
