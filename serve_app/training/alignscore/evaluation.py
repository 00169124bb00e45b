"""Measures a model beside the baselines: NLI accuracy, QAGS, and medical corruptions by kind.

Knows the tasks and how scores become numbers in a table; not how a model is trained. A long
context is cut as the served metric cuts it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer

from serve_app.metrics.align_model import AlignLogits, AlignModel, CompactConfig
from serve_app.metrics.alignscore import context_chunks
from serve_app.models.encoder_runtime import Batch, EncoderRuntime, TokenSequence
from serve_app.storage.artifacts import resolve
from serve_app.text.edits import corruptions
from serve_app.text.sentences import split_sentences
from serve_app.training.alignscore.data import (
    BASE,
    NliRow,
    Passage,
    embed,
    load_cochrane,
    load_nli,
    normalised,
    read_jsonl,
)
from serve_app.training.alignscore.pairs import EVERYDAY, medical_terms, support
from serve_app.training.alignscore.trainer import MAX_TOKENS

Floats = NDArray[np.float64]
# A scorer gives one number a (context, claim): the higher, the better supported.
Scorer = Callable[[Sequence[str], Sequence[str]], Floats]
TRI = ("entailment", "neutral", "contradiction")


def auc(scores: Sequence[float] | Floats, truth: Sequence[bool] | Sequence[int]) -> float:
    """Area under the ROC curve: the chance that a true item outscores a false one, ties half.

    Raises:
        ValueError: all items are true, or all false.

    >>> auc([0.9, 0.4, 0.6], [True, False, False])
    1.0
    """
    values = np.asarray(scores, dtype=np.float64)
    wanted = np.asarray(truth, dtype=bool)
    positive, negative = values[wanted], values[~wanted]
    if not len(positive) or not len(negative):
        raise ValueError("AUC needs both true and false items")
    more = (positive[:, None] > negative[None, :]).mean()
    ties = (positive[:, None] == negative[None, :]).mean()
    return float(more + ties / 2)


class ModelScorer:
    """Scores with the network: probabilities for pairs, or AlignScore for long contexts."""

    def __init__(self, model: AlignModel, *, dtype: str = "float32") -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(resolve(BASE))
        self.runtime = EncoderRuntime(
            model, pad_token_id=self.tokenizer.pad_token_id, dtype=dtype, token_budget=8192
        )
        self._known: dict[tuple[str, str], torch.Tensor] = {}

    def logits(self, contexts: Sequence[str], claims: Sequence[str]) -> AlignLogits:
        """Logits of all pairs, cut to the encoder's limit."""
        wanted = list(zip(contexts, claims, strict=True))
        # A summary's sentences come again on their own: each pair is read once.
        new = [pair for pair in dict.fromkeys(wanted) if pair not in self._known]
        if new:
            encoded = self.tokenizer(
                [context for context, _ in new],
                [claim for _, claim in new],
                truncation="only_first",
                max_length=MAX_TOKENS,
            )
            rows = zip(encoded["input_ids"], encoded["token_type_ids"], strict=True)

            def take(output: AlignLogits, batch: Batch) -> list[torch.Tensor]:
                return list(torch.cat([part.float() for part in output], dim=1).cpu())

            made = self.runtime.run([TokenSequence(*row) for row in rows], take)
            self._known.update(zip(new, made, strict=True))
        stacked = torch.stack([self._known[pair] for pair in wanted])
        return AlignLogits(stacked[:, :2], stacked[:, 2:5], stacked[:, 5:])

    def forget(self) -> None:
        """Lets go of the pairs that were read."""
        self._known.clear()

    def aligned_all(
        self, contexts: Sequence[str], claims: Sequence[str], *, chunk_words: int
    ) -> dict[str, Floats]:
        """AlignScore of each (context, claim) by each head: mean over the claim's sentences of
        the maximum over the context's chunks."""
        first: list[str] = []
        second: list[str] = []
        spans: list[list[tuple[int, int]]] = []
        for context, claim in zip(contexts, claims, strict=True):
            chunks = context_chunks(context, chunk_words)
            rows = []
            for sentence in split_sentences(claim):
                rows.append((len(first), len(first) + len(chunks)))
                first += chunks
                second += [sentence] * len(chunks)
            spans.append(rows)
        logits = self.logits(first, second)
        columns = {
            "nli_sp": logits.three_way.softmax(-1)[:, 0],
            "bin_sp": logits.binary.softmax(-1)[:, 1],
            "reg_sp": logits.regression[:, 0],
        }
        return {
            mode: np.array([np.mean([float(column[a:b].max()) for a, b in rows]) for rows in spans])
            for mode, column in columns.items()
        }


# --- baselines ------------------------------------------------------------------------------


def cosine(contexts: Sequence[str], claims: Sequence[str]) -> Floats:
    """Cosine of the base encoder's mean-pooled embeddings of the two whole texts."""
    texts = sorted({*contexts, *claims})
    vectors = dict(zip(texts, embed(texts, max_length=256), strict=True))
    return np.array(
        [vectors[a] @ vectors[b] for a, b in zip(contexts, claims, strict=True)], dtype=np.float64
    )


def overlap(contexts: Sequence[str], claims: Sequence[str], *, size: int) -> Floats:
    """Share of the claim's word n-grams of length `size` that are in the context."""

    def grams(text: str) -> list[tuple[str, ...]]:
        words = normalised(text).split()
        return [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]

    scores = []
    for context, claim in zip(contexts, claims, strict=True):
        known, said = set(grams(context)), grams(claim)
        scores.append(sum(gram in known for gram in said) / len(said) if said else 0.0)
    return np.array(scores, dtype=np.float64)


BASELINES: dict[str, Scorer] = {
    "encoder cosine": cosine,
    "unigram overlap": lambda contexts, claims: overlap(contexts, claims, size=1),
    "bigram overlap": lambda contexts, claims: overlap(contexts, claims, size=2),
    "always-mean": lambda contexts, claims: np.zeros(len(claims)),
}


# --- tasks ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claims:
    """Claims against whole contexts, with the truth; `kinds` says how each was made."""

    contexts: list[str]
    claims: list[str]
    truth: list[bool]
    kinds: list[str]


def medical_claims(passages: Sequence[Passage], terms: Sequence[str], seed: int = 0) -> Claims:
    """Claims against whole abstracts: for each abstract up to four supported ones (a sentence
    copied, one shortened, one reworded, one of the human summary with at least three quarters
    of its content words in the abstract) and one of each corruption kind; the corrupted
    sentence is copied, shortened or from the summary as often as a supported one."""
    rng = Random(seed)  # noqa: S311 - repeatable, not secret
    made = Claims([], [], [], [])

    def add(context: str, claim: str, kind: str, truth: bool) -> None:
        made.contexts.append(context)
        made.claims.append(claim)
        made.kinds.append(kind)
        made.truth.append(truth)

    for number, passage in enumerate(passages):
        context = " ".join(passage.sentences)
        fair = [text for text in passage.sentences if 6 <= len(text.split()) <= 45]
        if len(fair) < 2:
            continue
        summary = [
            text
            for text in passage.summary
            if 6 <= len(text.split()) <= 45 and support(text, passage.sentences) >= 0.75
        ]
        add(context, rng.choice(fair), "copied", True)
        true_edits: dict[str, corruptions.Edit] = {
            "shortened": corruptions.shorten,
            "reworded": corruptions.reword,
        }
        for kind, edit in true_edits.items():
            if edited := _first(edit, fair, passage.sentences, rng):
                add(context, edited, kind, True)
        if summary:
            add(context, rng.choice(summary), "human summary", True)
        for kind in (*corruptions.FLIPS, "term"):
            if kind == "pronoun":
                continue
            edit = corruptions.FLIPS.get(kind) or (
                lambda claim, _, rng: corruptions.exchange_term(claim, terms, rng)
            )
            from_summary = bool(summary) and rng.random() < 0.25
            pool = summary if from_summary else fair
            if rng.random() < 0.5:
                pool = [corruptions.shorten(text, fair, rng) or text for text in pool]
            edited = _first(edit, pool, passage.sentences, rng)
            if edited and normalised(edited) not in normalised(context):
                add(context, edited, kind, False)
        other = passages[(number + rng.randrange(1, len(passages))) % len(passages)]
        add(context, rng.choice(other.summary or other.sentences), "another review", False)
    return made


def _first(
    edit: corruptions.Edit, pool: Sequence[str], passage: Sequence[str], rng: Random
) -> str | None:
    """The edit of the first sentence, in random order, that it applies to."""
    for text in rng.sample(list(pool), len(pool)):
        if edited := edit(text, passage, rng):
            return edited
    return None


def by_kind(claims: Claims, scores: Floats) -> dict[str, float]:
    """AUC of every corrupted kind against all supported claims, and of all together."""
    truth = np.array(claims.truth)
    kinds = np.array(claims.kinds)
    table = {}
    for kind in sorted(set(kinds[~truth])):
        picked = truth | (kinds == kind)
        table[str(kind)] = auc(scores[picked], list(truth[picked]))
    table["all kinds"] = auc(scores, claims.truth)
    return table


@dataclass(frozen=True)
class Qags:
    """QAGS summaries: whole ones, and each sentence of them against its article."""

    articles: list[str]
    summaries: list[str]
    consistent: list[bool]
    sentence_articles: list[str]
    sentences: list[str]
    sentence_truth: list[bool]


def load_qags(folder: Path) -> Qags:
    """`qags_cnndm.jsonl`, for reporting only."""
    rows = read_jsonl(
        folder / "qags_cnndm.jsonl",
        ("article", "summary_sentences", "sentence_consistency", "consistency"),
    )
    flat: list[tuple[str, str, Any]] = [
        (row["article"], sentence, truth)
        for row in rows
        for sentence, truth in zip(
            row["summary_sentences"], row["sentence_consistency"], strict=True
        )
    ]
    return Qags(
        [row["article"] for row in rows],
        [" ".join(row["summary_sentences"]) for row in rows],
        [row["consistency"] == 1.0 for row in rows],
        [article for article, _, _ in flat],
        [sentence for _, sentence, _ in flat],
        [bool(truth) for _, _, truth in flat],
    )


def nli_accuracy(scorer: ModelScorer, rows: Sequence[NliRow]) -> dict[str, float]:
    """Accuracy of the three-way head on rows with a three-way label, and of the binary head
    on all rows (entailment or not)."""
    logits = scorer.logits([row.premise for row in rows], [row.hypothesis for row in rows])
    known = [index for index, row in enumerate(rows) if row.label in TRI]
    guess = logits.three_way.argmax(-1).tolist()
    binary = logits.binary.argmax(-1).tolist()
    return {
        "three-way": float(np.mean([TRI[guess[i]] == rows[i].label for i in known])),
        "binary": float(
            np.mean(
                [
                    bool(b) == (row.label == "entailment")
                    for b, row in zip(binary, rows, strict=True)
                ]
            )
        ),
    }


def baseline_accuracy(
    scorer: Scorer, fit: Sequence[NliRow], rows: Sequence[NliRow]
) -> dict[str, float]:
    """The same for one baseline score, given the best it can do with one number: each twentieth
    of its range on `fit` answers with the commonest label there."""

    def score(part: Sequence[NliRow]) -> Floats:
        return scorer([row.premise for row in part], [row.hypothesis for row in part])

    def answer(labels_of: Callable[[NliRow], str | None]) -> float:
        train = [(s, labels_of(row)) for s, row in zip(fitted, fit, strict=True)]
        test = [(s, labels_of(row)) for s, row in zip(scored, rows, strict=True)]
        table: dict[int, dict[str, int]] = {}
        for value, label in train:
            if label is not None:
                slot = table.setdefault(int(np.searchsorted(edges, value)), {})
                slot[label] = slot.get(label, 0) + 1
        best = {slot: max(sorted(counts), key=counts.__getitem__) for slot, counts in table.items()}
        right = [
            best.get(int(np.searchsorted(edges, value))) == label
            for value, label in test
            if label is not None
        ]
        return float(np.mean(right))

    fitted, scored = score(fit), score(rows)
    edges = np.unique(np.quantile(fitted, np.linspace(0, 1, 21)[1:-1]))
    return {
        "three-way": answer(lambda row: row.label if row.label in TRI else None),
        "binary": answer(lambda row: str(row.label == "entailment")),
    }


def report(model: AlignModel, config: CompactConfig, folder: Path) -> dict[str, dict[str, float]]:
    """Every measure -> `{model name or baseline: value}`: accuracies, then AUCs."""
    scorer = ModelScorer(model)

    def scores(contexts: Sequence[str], claims: Sequence[str]) -> Floats:
        every = scorer.aligned_all(contexts, claims, chunk_words=config.chunk_words)
        return every[config.eval_mode]

    scorers: dict[str, Scorer] = {config.name: scores, **BASELINES}
    table: dict[str, dict[str, float]] = {}

    def note(measure: str, who: str, value: float) -> None:
        table.setdefault(measure, {})[who] = round(value, 4)

    nli = load_nli(folder)
    for head, value in nli_accuracy(scorer, nli["test"]).items():
        note(f"NLI {head} accuracy", config.name, value)
    for who, baseline in BASELINES.items():
        for head, value in baseline_accuracy(baseline, nli["dev"], nli["test"]).items():
            note(f"NLI {head} accuracy", who, value)
    qags = load_qags(folder)
    cochrane = load_cochrane(folder)
    everyday = [row.premise for row in nli["train"] if row.source in EVERYDAY]
    terms = medical_terms(cochrane["test"], everyday)
    medical = medical_claims(cochrane["test"], terms)
    for who, score in scorers.items():
        note("QAGS summary AUC", who, auc(score(qags.articles, qags.summaries), qags.consistent))
        flat = score(qags.sentence_articles, qags.sentences)
        note("QAGS sentence AUC", who, auc(flat, qags.sentence_truth))
        for kind, value in by_kind(medical, score(medical.contexts, medical.claims)).items():
            note(f"medical AUC, {kind}", who, value)
    return table
