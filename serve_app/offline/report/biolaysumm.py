"""Reads and scores the files of the BioLaySumm shared task.

A system is a folder with `elife.txt` and `plos.txt` (either may be missing), a prediction per
line; beside them, or in another folder, is one `.jsonl` for each, whose name begins alike
(`eLife_val.jsonl`), with `article` and `lay_summary`. Predictions are scored block by block; no
article stays in memory.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from serve_app.core.documents import read_input
from serve_app.core.errors import InvalidInput
from serve_app.metrics.bertscore import BertScorer
from serve_app.metrics.loss import METRICS
from serve_app.metrics.readability import coleman_liau, readability
from serve_app.metrics.suite import MetricSuite
from serve_app.offline.corpus.reader import Corpus, read_rows, scan
from serve_app.offline.corpus.scorer import SuiteScorer
from serve_app.offline.corpus.scoring import (
    ModelNames,
    RowError,
    RowResult,
    RowScores,
    Scorer,
    Task,
    score_block,
)
from serve_app.offline.corpus.text_rows import Row
from serve_app.offline.report.reader import require_distinct
from serve_app.offline.report.rouge import MEASURES, SuiteScore, SuiteScores, rouge, rouge_scorer
from serve_app.offline.report.statistics import Floats
from serve_app.offline.report.systems import TRUNCATIONS, System, Texts

DATASETS = ("elife", "plos")
KEY = "data set and line"

_TASK = Task("article", "prediction", batch_size=16)
_REFERENCE = Task("lay_summary", "prediction", batch_size=16)

OnRows = Callable[[int], None]


@dataclass(frozen=True)
class Dataset:
    """Predictions for one data set, where their articles are, and how long those are."""

    name: str
    predictions: tuple[str, ...]
    references: tuple[str, ...]
    article_words: tuple[int, ...]
    corpus: Corpus

    def articles(self, lines: Sequence[int]) -> dict[int, str]:
        """The articles of these lines (from 0)."""
        found: dict[int, str] = {}
        for block in self.corpus.blocks(_TASK.batch_size, sorted(set(lines))):
            rows = read_rows(self.corpus.source, block, ["article"])
            found |= {at: row["article"] for at, row in zip(block.rows, rows, strict=True)}
        return found


@dataclass(frozen=True)
class Submission:
    """One system's predictions."""

    name: str
    sha256: str
    datasets: tuple[Dataset, ...]

    @property
    def rows(self) -> int:
        """All predictions."""
        return sum(len(one.predictions) for one in self.datasets)


def read_submissions(
    folders: Sequence[str | Path], names: Sequence[str] = (), references: Path | None = None
) -> list[Submission]:
    """The systems of the folders.

    Args:
        folders: of predictions.
        names: one per folder; none: the folders' names.
        references: the folder of the `.jsonl` files; None: each system's own.

    Raises:
        InvalidInput: a file is missing or wrong, there are not as many predictions as references,
            or names do not fit.
    """
    if names and len(names) != len(folders):
        raise InvalidInput(f"{len(names)} names for {len(folders)} folders; give --name once each")
    found = []
    for at, folder in enumerate(folders):
        path = Path(folder)
        if not path.is_dir():
            raise InvalidInput(
                f"{path} is no folder; --suite biolaysumm takes folders with elife.txt and plos.txt"
            )
        name = names[at] if names else path.resolve().name
        found.append(_submission(path, name, references or path))
    require_distinct([one.name for one in found], "folder")
    return found


def _submission(folder: Path, name: str, references: Path) -> Submission:
    there = {path.name.lower(): path for path in sorted(folder.iterdir())}
    known = [(one, there[f"{one}.txt"]) for one in DATASETS if f"{one}.txt" in there]
    if not known:
        raise InvalidInput(f"{folder} has neither elife.txt nor plos.txt")
    digest = hashlib.sha256()
    for _, path in known:
        digest.update(path.read_bytes())
    datasets = (_dataset(one, path, _reference_file(references, one)) for one, path in known)
    return Submission(name, digest.hexdigest(), tuple(datasets))


def _reference_file(folder: Path, dataset: str) -> Path:
    if not folder.is_dir():
        raise InvalidInput(
            f"{folder} is no folder; --references takes the one with the .jsonl files"
        )
    found = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() == ".jsonl" and path.name.lower().startswith(dataset)
    ]
    if len(found) != 1:
        there = ", ".join(path.name for path in found) or "none"
        raise InvalidInput(
            f"{folder}: one .jsonl whose name begins with {dataset} is needed, with article and "
            f"lay_summary; there are: {there}; name its folder with --references"
        )
    return found[0]


def _dataset(name: str, path: Path, gold: Path) -> Dataset:
    references: list[str] = []
    words: list[int] = []

    def on_row(number: int, row: Row) -> None:
        for column in ("article", "lay_summary"):
            if not isinstance(row.get(column), str) or not row[column].strip():
                raise InvalidInput(f"{gold}: row {number + 1} has no text in {column}")
        references.append(row["lay_summary"])
        words.append(len(row["article"].split()))

    corpus = scan(gold, on_row)
    # Line feeds alone end a prediction, as for the task's script: U+2028 stands in some texts.
    text = read_input(path).replace("\r\n", "\n")
    lines = text.removesuffix("\n").split("\n") if text else []
    if len(lines) != len(references):
        raise InvalidInput(
            f"{path} has {len(lines)} predictions and {gold.name} {len(references)} references; "
            "each line must be one prediction, in the order of the references"
        )
    return Dataset(name, tuple(lines), tuple(references), tuple(words), corpus)


@dataclass
class _Measured:
    """The measures and metrics of one data set; NaN in rows without numbers."""

    table: Floats
    metrics: Floats
    failures: Counter[str] = field(default_factory=Counter)


class _ReferenceScorer:
    """BERTScore against the human summary, as a `Scorer`."""

    def __init__(self, relevance: BertScorer, models: ModelNames) -> None:
        self._relevance = relevance
        self.models = models

    def __call__(self, originals: Sequence[str], generated: Sequence[str]) -> list[RowScores]:
        found = self._relevance.score(originals, generated)
        return [RowScores((one.f1,)) for one in found]


def score_submissions(
    submissions: Sequence[Submission], suite: MetricSuite | None, on_rows: OnRows = lambda _: None
) -> tuple[list[System], SuiteScores]:
    """Scores all predictions.

    Args:
        submissions: the systems.
        suite: the models; None: only what needs none, and no `System`.
        on_rows: called with how many rows were finished.

    Raises:
        ConfigError: the package of ROUGE is not installed.
    """
    rouges = rouge_scorer()
    scorer = against = None
    if suite is not None:
        scorer = SuiteScorer(suite, None)
        against = _ReferenceScorer(suite.relevance, scorer.models)
    systems: list[System] = []
    scores: list[SuiteScore] = []
    failures: dict[str, dict[str, int]] = {}
    for submission in submissions:
        measured = [_measure(one, rouges, scorer, against, on_rows) for one in submission.datasets]
        scores += _means(submission, measured)
        failures[submission.name] = dict(sum((one.failures for one in measured), Counter[str]()))
        if suite is not None:
            systems.append(_system(submission, measured, failures[submission.name]))
    return systems, SuiteScores("BioLaySumm", tuple(scores), failures)


def _measure(
    dataset: Dataset, rouges: Any, scorer: Scorer | None, against: Scorer | None, on_rows: OnRows
) -> _Measured:
    count = len(dataset.predictions)
    found = _Measured(
        np.full((count, len(MEASURES)), math.nan), np.full((count, len(METRICS)), math.nan)
    )
    for block in dataset.corpus.blocks(_TASK.batch_size):
        articles = dataset.articles(block.rows) if scorer else dict.fromkeys(block.rows, "")
        predictions = [dataset.predictions[at] for at in block.rows]
        references = [dataset.references[at] for at in block.rows]
        metrics = _score(scorer, _TASK, [*articles.values()], predictions)
        nearness = _score(against, _REFERENCE, references, predictions)
        for at, row, near in zip(block.rows, metrics, nearness, strict=True):
            error = next((one for one in (row, near) if isinstance(one, RowError)), None)
            if error is not None:
                found.failures[error.code] += 1
                continue
            prediction = dataset.predictions[at]
            values = dict.fromkeys(MEASURES, math.nan)
            values |= rouge(rouges, prediction, dataset.references[at])
            read = readability(prediction)
            values |= {"fkgl": read.fkgl, "dcrs": read.dale_chall, "cli": coleman_liau(prediction)}
            if isinstance(row, RowScores) and isinstance(near, RowScores):
                found.metrics[at] = row.values
                values |= {"alignscore": row.values[1], "bertscore": near.values[0]}
            found.table[at] = [values[name] for name in MEASURES]
        on_rows(block.count)
    return found


def _score(
    scorer: Scorer | None, task: Task, originals: Sequence[str], predictions: Sequence[str]
) -> Sequence[RowResult | None]:
    """A result per prediction; without models an error where it has no word, else None."""
    if scorer is None:
        return [_unreadable(text) for text in predictions]
    return score_block(scorer, task, 0, [*zip(originals, predictions, strict=True)]).rows


def _unreadable(text: str) -> RowError | None:
    try:
        readability(text)
    except InvalidInput as error:
        return RowError(error.code, error.message)
    return None


def _means(submission: Submission, measured: Sequence[_Measured]) -> list[SuiteScore]:
    tables = []
    found = []
    for dataset, one in zip(submission.datasets, measured, strict=True):
        scored = np.isfinite(one.table[:, 0])
        means = one.table[scored].mean(axis=0) if scored.any() else np.full(len(MEASURES), math.nan)
        tables.append(means)
        rows = (len(scored), int(scored.sum()))
        found.append(SuiteScore(submission.name, dataset.name, *rows, _known(means)))
    if len(found) == len(DATASETS):
        # The mean of the two, however many rows each has: so the task ranks.
        average = _known(np.mean(tables, axis=0))
        found.append(SuiteScore(submission.name, "average", None, None, average))
    return found


def _known(means: Floats) -> dict[str, float | None]:
    values = zip(MEASURES, means.tolist(), strict=True)
    return {name: None if math.isnan(value) else value for name, value in values}


def _system(
    submission: Submission, measured: Sequence[_Measured], failures: dict[str, int]
) -> System:
    places = [(one, line) for one in submission.datasets for line in range(len(one.predictions))]
    unknown = np.full(len(places), math.nan)

    def texts(wanted: Sequence[int]) -> list[Texts]:
        return [
            Texts(dataset.articles([line])[line], dataset.predictions[line] or None)
            for dataset, line in (places[at] for at in wanted)
        ]

    words = [
        (dataset.article_words[line], len(dataset.predictions[line].split()) or math.nan)
        for dataset, line in places
    ]
    return System(
        name=submission.name,
        file=", ".join(f"{one.name}.txt" for one in submission.datasets),
        sha256=submission.sha256,
        numbers=np.arange(len(places), dtype=np.int64),
        values=np.vstack([one.metrics for one in measured]),
        file_loss=unknown,
        keys={KEY: [f"{dataset.name} {line + 1}" for dataset, line in places]},
        failures=failures,
        words=np.array(words, dtype=np.float64),
        truncated=dict.fromkeys(TRUNCATIONS, unknown),
        texts=texts,
    )
