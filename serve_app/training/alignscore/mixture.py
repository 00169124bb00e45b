"""Draws training pairs from every source in set shares: judged, inferred and made by rule.

Knows the sources and how often each is drawn; not how a pair is made, or what is done with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from serve_app.text.edits import corruptions
from serve_app.training.alignscore.comparisons import Finding, read_finding, say, say_false
from serve_app.training.alignscore.consistency import (
    Judged,
    by_sentence,
    focus,
    load_judged,
    without_edits_of,
    without_originals_of,
)
from serve_app.training.alignscore.data import Passage, load_nli, sentences_of
from serve_app.training.alignscore.mirrored import explanation_pair, mirrored_pair
from serve_app.training.alignscore.pairs import (
    ALIGNED,
    CONTRADICTING,
    Corpus,
    Pair,
    choose,
    nli_pair,
)
from serve_app.training.alignscore.relations import relation_pair

# Corpora that may not be used commercially.
NONCOMMERCIAL = ("sick",)
Draw = Callable[[Random], Pair | None]
# Short pairs, from which an encoder learns to compare two texts at all, and how often each source
# is drawn among them.
SHORT = {
    "nli": 9.0, "cad_snli": 2.0, "conjnli": 0.8, "med": 1.2, "negation_mnli": 0.6,
    "negation_rte": 0.6, "negation_snli": 0.6, "fool_me_twice": 1.6, "fever_symmetric": 0.9,
    "vitaminc": 0.6, "relations": 2.0, "begin_wow": 1.0,
}  # fmt: skip
# What the first rounds draw: begun on small edits, the encoder learns nothing.
EASY = {"nli": 8.0, "cad_snli": 1.0, "begin_wow": 1.0}
EASY_ROUNDS = 3
# Claims against passages.
LONG = {
    "made": 12.0, "mirrored": 7.0, "mirrored_general": 1.5, "restated": 3.5,
    "evidence_inference": 3.5, "clinifact": 1.2, "pubmedqa": 1.0, "scifact": 0.6,
    "summedits": 2.4, "factcg_doc": 1.6, "explanation": 0.3,
}  # fmt: skip


class Mixture:
    """All training text of one part (`train` or `dev`), and the endless draw of pairs from it.

    Args:
        folder: the data folder, with `consistency/` in it.
        part: `train` or `dev`.
        short, long: source -> how often it is drawn; those that the data lacks are left out.
        easy_rounds: how many rounds take their short pairs from EASY; 0 for a trained model.
    """

    def __init__(
        self,
        folder: Path,
        part: str,
        *,
        short: dict[str, float] = SHORT,
        long: dict[str, float] = LONG,
        easy_rounds: int = EASY_ROUNDS,
    ) -> None:
        self.easy_rounds = easy_rounds
        parts = load_nli(folder)
        held = [row for name, rows in parts.items() if name != part for row in rows]
        other = "dev" if part == "train" else "train"
        judged = without_edits_of(load_judged(folder, part), held)
        self.corpus = Corpus(folder, part, leave_out=NONCOMMERCIAL)
        self.corpus.nli = without_originals_of(self.corpus.nli, load_judged(folder, other))
        self.groups: dict[str, list[Judged]] = {}
        for row in judged:
            self.groups.setdefault(row.group, []).append(row)
        self.groups["summedits"] = by_sentence(self.groups.get("summedits", []))
        self.findings = _findings(self.groups.get("evidence_inference", []))
        studies = ("evidence_inference", "pubmedqa", "clinifact", "scifact")
        general = ("fool_me_twice", "factcg_doc", "summedits", "begin_wow")
        self.medical = [*self.corpus.medical, *_passages(self.groups, studies, "study")]
        self.general = [*self.corpus.documents, *_passages(self.groups, general, "general")]
        self.explained = [passage for passage in self.corpus.medical if passage.summary]
        self.draws: dict[str, Draw] = {
            "nli": lambda rng: nli_pair(rng.choice(self.corpus.nli)),
            "relations": _relation,
            "made": self.corpus.long_pair,
            "mirrored": lambda rng: mirrored_pair(rng.choice(self.medical), rng),
            "mirrored_general": lambda rng: mirrored_pair(rng.choice(self.general), rng),
            "restated": self._restated,
            "explanation": lambda rng: explanation_pair(rng.choice(self.explained), rng),
            **{group: self._judged(rows) for group, rows in self.groups.items() if rows},
        }
        self.short = {name: weight for name, weight in short.items() if name in self.draws}
        self.long = {name: weight for name, weight in long.items() if name in self.draws}

    def round(self, seed: int, number: int, size: int, nli_share: float) -> list[Pair]:
        """The `number`th block of `size` pairs, `nli_share` of them short; equal for equal
        arguments."""
        rng = Random(f"{seed}/{number}")  # noqa: S311 - repeatable, not secret
        short = round(size * nli_share)
        weights = EASY if number < self.easy_rounds else self.short
        return [self.draw(weights if n < short else self.long, rng) for n in range(size)]

    def draw(self, weights: dict[str, float], rng: Random) -> Pair:
        """One pair of a source chosen by `weights`."""
        while True:
            pair = self.draws[choose(weights, rng)](rng)
            if pair is not None and pair.claim.strip() and pair.context.strip():
                return pair

    def _judged(self, rows: Sequence[Judged]) -> Draw:
        def draw(rng: Random) -> Pair:
            pair = focus(rng.choice(rows), rng)
            if rng.random() < 0.1:
                claim = corruptions.roughen(pair.claim, rng)
                return Pair(
                    pair.context, claim, pair.binary, pair.three_way, pair.regression, pair.kind
                )
            return pair

        return draw

    def _restated(self, rng: Random) -> Pair:
        context, findings = rng.choice(self.findings)
        finding = rng.choice(findings)
        true = rng.random() < 0.5
        claim = (say if true else say_false)(finding, rng)
        row = Judged(
            context, claim, "supported" if true else "contradicted", "restated", "restated"
        )
        return focus(row, rng)


def _relation(rng: Random) -> Pair:
    context, claim, true, kind = relation_pair(rng)
    return Pair(
        context,
        claim,
        int(true),
        ALIGNED if true else CONTRADICTING,
        float(true),
        f"relation {kind}",
    )


def _findings(rows: Sequence[Judged]) -> list[tuple[str, list[Finding]]]:
    found: dict[str, list[Finding]] = {}
    for row in rows:
        if row.label == "supported" and (finding := read_finding(row.claim)):
            found.setdefault(row.context, []).append(finding)
    return list(found.items())


def _passages(groups: dict[str, list[Judged]], names: Sequence[str], source: str) -> list[Passage]:
    contexts = dict.fromkeys(row.context for name in names for row in groups.get(name, []))
    passages = (Passage(sentences_of(context), source) for context in contexts)
    return [passage for passage in passages if len(passage.sentences) >= 2]
