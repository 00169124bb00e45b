"""Development claims by source and kind, and how well scores tell the supported ones apart.

Everything here is of the `dev` parts: mixtures, chunk size, head and checkpoint are chosen by it.
Knows the sets and AUC; not models.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from random import Random

import numpy as np

from serve_app.text.edits import corruptions
from serve_app.training.alignscore.consistency import load_judged, without_originals_of
from serve_app.training.alignscore.data import NliRow, Passage, load_cochrane, load_nli, normalised
from serve_app.training.alignscore.evaluation import Claims, Floats, medical_claims
from serve_app.training.alignscore.pairs import EVERYDAY, medical_terms, support

# Kinds of `direction.jsonl` that make a set of their own.
_ROLES = ("roles_swapped", "roles_swapped_true")
TURNED = "plain sentence, direction turned"
MEDICAL = "medical edits"
_PLAIN = ("plain_words", "plain_words_flipped", "plain_words_roles_swapped_true")


def development_sets(folder: Path, limit: int = 400, seed: int = 0) -> dict[str, Claims]:
    """Name -> claims with their truth, at most `limit` of each, drawn by `seed`."""
    rng = Random(seed)  # noqa: S311 - repeatable, not secret
    sets: dict[str, Claims] = {}

    def add(name: str, context: str, claim: str, truth: bool, kind: str) -> None:
        rows = sets.setdefault(name, Claims([], [], [], []))
        rows.contexts.append(context)
        rows.claims.append(claim)
        rows.truth.append(truth)
        rows.kinds.append(kind)

    for row in load_judged(folder, "dev"):
        truth = row.label == "supported"
        name = row.source
        if row.kind in _ROLES:
            name = "roles swapped"
        elif row.kind in _PLAIN:
            name = "direction, plain words"
        elif row.source == "evidence_inference":
            name = "direction"
        add(name, row.context, row.claim, truth, row.kind)
    nli = load_nli(folder)
    for pair in nli["dev"]:
        add(f"nli {pair.source}", pair.premise, pair.hypothesis, pair.label == "entailment", "nli")
    cochrane = load_cochrane(folder)["dev"]
    for context, true, false in plain_flips(cochrane, rng):
        add(TURNED, context, true, True, "as written")
        add(TURNED, context, false, False, "turned")
    for context, claim, truth in glossary_claims(cochrane, rng):
        add("glossary words", context, claim, truth, "glossary")
    everyday = [row.premise for row in nli["train"] if row.source in EVERYDAY]
    sets[MEDICAL] = medical_claims(cochrane, medical_terms(cochrane, everyday), seed)
    return {
        name: rows if name == MEDICAL else _sample(rows, limit, rng, pairs=name == TURNED)
        for name, rows in sets.items()
    }


def _sample(rows: Claims, limit: int, rng: Random, *, pairs: bool) -> Claims:
    count = len(rows.claims)
    if count <= limit:
        return rows
    if pairs:
        drawn = sorted(rng.sample(range(count // 2), limit // 2))
        picked = [index for pair in drawn for index in (2 * pair, 2 * pair + 1)]
    else:
        picked = sorted(rng.sample(range(count), limit))
    return Claims(
        *([column[index] for index in picked] for column in
          (rows.contexts, rows.claims, rows.truth, rows.kinds))  # type: ignore[arg-type]
    )  # fmt: skip


def plain_flips(passages: Iterable[Passage], rng: Random) -> Iterable[tuple[str, str, str]]:
    """(abstract, sentence of its human summary, the same with one direction turned), the sentence
    with at least 60 % of its content words in the abstract."""
    for passage in passages:
        context = " ".join(passage.sentences)
        for text in passage.summary:
            if not 6 <= len(text.split()) <= 45 or support(text, passage.sentences) < 0.6:
                continue
            turned = corruptions.flip_direction(text, passage.sentences, rng)
            if turned and normalised(turned) != normalised(text):
                yield context, text, turned


def glossary_claims(passages: Iterable[Passage], rng: Random) -> Iterable[tuple[str, str, bool]]:
    """(abstract, claim, truth): sentences of the abstract in the glossary's plain words are true;
    the same with a direction turned or negated as well are false."""
    for passage in passages:
        context = " ".join(passage.sentences)
        for text in passage.sentences:
            if not 6 <= len(text.split()) <= 45:
                continue
            plain = corruptions.plain(text, passage.sentences, rng)
            if plain is None:
                continue
            edit = rng.choice((corruptions.flip_direction, corruptions.flip_negation))
            false = edit(text, passage.sentences, rng)
            if rng.random() < 0.5:
                yield context, plain, True
            elif false and normalised(false) != normalised(text):
                yield context, corruptions.plain(false, passage.sentences, rng) or false, False


def measures(
    sets: dict[str, Claims], scores: dict[str, Floats]
) -> dict[str, tuple[Floats, Floats]]:
    """Name -> (scores, truth) of everything an AUC is given for: each set, and each medical edit
    against all true claims."""
    rows: dict[str, tuple[Floats, Floats]] = {}
    for name, claims in sets.items():
        values, truth = scores[name], np.array(claims.truth, dtype=np.float64)
        rows[name] = values, truth
        if name == MEDICAL:
            kinds = np.array(claims.kinds)
            for kind in sorted(set(kinds[truth == 0])):
                picked = (truth == 1) | (kinds == kind)
                rows[f"{MEDICAL}: {kind}"] = values[picked], truth[picked]
    return rows


def pairwise(scores: Floats) -> float:
    """Share of pairs (even index true, the next false) whose true claim scores higher."""
    return float((scores[0::2] > scores[1::2]).mean())


def interval(
    scores: Floats, truth: Floats, *, rounds: int = 400, seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of the AUC: true and false claims are drawn again apart."""
    rng = np.random.default_rng(seed)
    true, false = scores[truth == 1], scores[truth == 0]
    wins = (true[:, None] > false[None, :]) + (true[:, None] == false[None, :]) / 2
    drawn = [
        wins[rng.integers(len(true), size=len(true))][
            :, rng.integers(len(false), size=len(false))
        ].mean()
        for _ in range(rounds)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def held_out_nli(folder: Path) -> list[NliRow]:
    """The NLI test pairs, less those of which an edit is in the judged training files."""
    return without_originals_of(load_nli(folder)["test"], load_judged(folder, "train"))
