"""The files of the BioLaySumm shared task: predictions a line each, articles and references.

A system is a folder with `elife.txt` and `plos.txt` (either may be missing); beside them, or in
another folder, is one `.jsonl` for each, whose name begins alike (`eLife_val.jsonl`), with
`article` and `lay_summary`. Predictions are scored here, block by block; no article stays in
memory.
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
from serve_app.offline.corpus.reader import Corpus, Row, read_rows, scan
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
from serve_app.offline.report.rouge import MEASURES, SuiteScore, SuiteScores, rouge, rouge_scorer
from serve_app.offline.report.systems import TRUNCATIONS, Floats, System, Texts

DATASETS = ("elife", "plos")
KEY = "data set and line"

_TASK = Task("article", "prediction", batch_size=16)
_REFERENCE = Task("lay_summary", "prediction", batch_size=16)

OnRows = Callable[[int], None]


@dataclass(frozen=True)
class Dataset:
    """Predictions for one data set, and where their articles are.

    `article_words` says how many words each article has.
    """

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
        folders: each with predictions.
        names: one a folder; none: the folders' names.
        references: the folder of the `.jsonl`; None: each system's own.

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
    for name, count in Counter(one.name for one in found).items():
        if count > 1:
            raise InvalidInput(f"{count} systems would be called {name!r}; give --name for each")
    return found


def _submission(folder: Path, name: str, references: Path) -> Submission:
    there = {path.name.lower(): path for path in sorted(folder.iterdir())}
    known = [(one, there[f"{one}.txt"]) for one in DATASETS if f"{one}.txt" in there]
    if not known:
        raise InvalidInput(f"{folder} has neither elife.txt nor plos.txt")
    digest = hashlib.sha256()
    datasets = []
    for dataset, path in known:
        digest.update(path.read_bytes())
        datasets.append(_dataset(dataset, path, _beside(references, dataset)))
    return Submission(name, digest.hexdigest(), tuple(datasets))


def _beside(folder: Path, dataset: str) -> Path:
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
    """What was measured of one data set; NaN in rows without numbers."""

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
    """RowScores all predictions.

    Args:
        submissions: the systems.
        suite: the models; None: only what needs none, and no `System`.
        on_rows: called with how many rows were finished.

    Raises:
        ConfigError: the package of ROUGE is not installed.
    """
    rouges = rouge_scorer()
    scorer = None if suite is None else SuiteScorer(suite, None)
    against = (
        None
        if suite is None or scorer is None
        else _ReferenceScorer(suite.relevance, scorer.models)
    )
    systems: list[System] = []
    scores: list[SuiteScore] = []
    failures: dict[str, dict[str, int]] = {}
    for submission in submissions:
        measured = [_measure(one, rouges, scorer, against, on_rows) for one in submission.datasets]
        scores += _means(submission, measured)
        failed = sum((one.failures for one in measured), Counter[str]())
        failures[submission.name] = dict(failed)
        if suite is not None:
            systems.append(_system(submission, measured))
    return systems, SuiteScores("BioLaySumm", tuple(scores), failures)


def _measure(
    dataset: Dataset,
    rouges: Any,
    scorer: Scorer | None,
    against: Scorer | None,
    on_rows: OnRows,
) -> _Measured:
    count = len(dataset.predictions)
    found = _Measured(
        np.full((count, len(MEASURES)), math.nan), np.full((count, len(METRICS)), math.nan)
    )
    for block in dataset.corpus.blocks(_TASK.batch_size):
        predictions = [dataset.predictions[at] for at in block.rows]
        references = [dataset.references[at] for at in block.rows]
        metrics = _metrics(dataset, block.rows, predictions, scorer)
        nearness = _nearness(references, predictions, against)
        for at, row, near in zip(block.rows, metrics, nearness, strict=True):
            error = next((one for one in (row, near) if isinstance(one, RowError)), None)
            if error is not None:
                found.failures[error.code] += 1
                continue
            prediction, reference = dataset.predictions[at], dataset.references[at]
            values = dict.fromkeys(MEASURES, math.nan) | rouge(rouges, prediction, reference)
            read = readability(prediction)
            values |= {"fkgl": read.fkgl, "dcrs": read.dale_chall, "cli": coleman_liau(prediction)}
            if isinstance(row, RowScores) and isinstance(near, RowScores):
                found.metrics[at] = row.values
                values |= {"alignscore": row.values[1], "bertscore": near.values[0]}
            found.table[at] = [values[name] for name in MEASURES]
        on_rows(block.count)
    return found


def _metrics(
    dataset: Dataset, rows: Sequence[int], predictions: Sequence[str], scorer: Scorer | None
) -> Sequence[RowResult | None]:
    if scorer is None:
        return [_readable(text) for text in predictions]
    articles = dataset.articles(rows)
    pairs = [(articles[at], text) for at, text in zip(rows, predictions, strict=True)]
    return score_block(scorer, _TASK, 0, pairs).rows


def _readable(text: str) -> RowError | None:
    try:
        readability(text)
    except InvalidInput as error:
        return RowError(error.code, error.message)
    return None


def _nearness(
    references: Sequence[str], predictions: Sequence[str], against: Scorer | None
) -> Sequence[RowResult | None]:
    if against is None:
        return [None] * len(predictions)
    pairs = list(zip(references, predictions, strict=True))
    return score_block(against, _REFERENCE, 0, pairs).rows


def _means(submission: Submission, measured: Sequence[_Measured]) -> list[SuiteScore]:
    found = []
    for dataset, one in zip(submission.datasets, measured, strict=True):
        scored = np.isfinite(one.table[:, 0])
        means = one.table[scored].mean(axis=0) if scored.any() else np.full(len(MEASURES), math.nan)
        found.append(
            SuiteScore(
                submission.name,
                dataset.name,
                len(scored),
                int(scored.sum()),
                {
                    name: None if math.isnan(value) else value
                    for name, value in zip(MEASURES, means.tolist(), strict=True)
                },
            )
        )
    if len(found) == len(DATASETS):
        # The mean of the two, however many rows each has: so the task ranks.
        average: dict[str, float | None] = {}
        for name in MEASURES:
            values = [one.means[name] for one in found]
            known = [value for value in values if value is not None]
            average[name] = sum(known) / len(known) if len(known) == len(values) else None
        found.append(SuiteScore(submission.name, "average", None, None, average))
    return found


def _system(submission: Submission, measured: Sequence[_Measured]) -> System:
    places = [
        (dataset, line)
        for dataset in submission.datasets
        for line in range(len(dataset.predictions))
    ]
    values = np.vstack([one.metrics for one in measured])
    nothing = np.full(len(places), math.nan)

    def texts(wanted: Sequence[int]) -> list[Texts]:
        found = []
        for at in wanted:
            dataset, line = places[at]
            found.append(Texts(dataset.articles([line])[line], dataset.predictions[line] or None))
        return found

    failures = sum((one.failures for one in measured), Counter[str]())
    return System(
        name=submission.name,
        file=", ".join(f"{one.name}.txt" for one in submission.datasets),
        sha256=submission.sha256,
        numbers=np.arange(len(places), dtype=np.int64),
        values=values,
        file_loss=nothing,
        keys={KEY: [f"{dataset.name} {line + 1}" for dataset, line in places]},
        failures=dict(failures),
        words=np.array(
            [
                [dataset.article_words[line], len(dataset.predictions[line].split()) or math.nan]
                for dataset, line in places
            ],
            dtype=np.float64,
        ),
        truncated=dict.fromkeys(TRUNCATIONS, nothing),
        texts=texts,
    )
