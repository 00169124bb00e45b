"""Targets from a corpus of human pairs: what human-written summaries score.

Reads originals and human summaries, measures every pair with the models that will serve, and
keeps each metric's mean and sample standard deviation (divided by n - 1). Reading and measuring
are those of `serve_app.corpus`; no model is known here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from serve_app import __version__
from serve_app.corpus.distributed import RayEngine, RayOptions
from serve_app.corpus.job import Engine
from serve_app.corpus.local import LocalEngine
from serve_app.corpus.reading import Corpus, Row, scan
from serve_app.corpus.scoring import BlockResult, RowError, Task
from serve_app.corpus.suite_scorer import SuiteRecipe, SuiteScorer
from serve_app.errors import ConfigError, InvalidInput, MetricFailed
from serve_app.loss import Targets
from serve_app.metrics.suite import MetricSuite
from serve_app.metrics.text import require_text
from serve_app.settings import load_settings

SOURCE, TARGET, SPLIT = "source_text", "target_text", "split"

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Pair:
    """A medical original and its human summary; `row` counts data rows from 1."""

    row: int
    source: str
    target: str


def calibrate_targets(
    path: str | Path,
    save_to: str | Path | None = None,
    subset: float = 1.0,
    chunk_size: int = 16,
    *,
    suite: MetricSuite | None = None,
    seed: int = 0,
    progress: bool = True,
    split: str | None = "train",
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    workers: int | None = None,
) -> Targets:
    """Measures human summaries against their originals and returns the targets.

    Args:
        path: CSV, JSON lines or Parquet, a path or `s3://BUCKET/KEY`, with the columns
            `source_text`, `target_text` and `split`. A name without a known suffix is CSV.
        save_to: where to write the targets file, complete or not at all; None: nowhere.
        subset: share of the rows to use, in (0, 1]; at least two rows are taken. Which ones
            depends on `seed` alone.
        chunk_size: pairs measured at once, >= 1; more is faster and takes more memory.
        suite: the models; None: those of the settings, as they would be served.
        seed: of the random subset.
        progress: show a progress bar on the terminal.
        split: use rows with this value in `split` only; None: all rows, no such column needed.
        engine: `local` measures in this process; `ray` on Ray Data, with the models of the
            settings in each of its workers.
        address: of a running Ray cluster; None: a Ray of our own. Gives `ray`.
        workers: most sets of models on Ray; None: as many as it has room for. Gives `ray`.

    Raises:
        ConfigError: an argument is out of range, or the file is wrong; the message names the
            file, and the column and row where there is one.
        MetricFailed: a model gave a value that is not a number.
        Unavailable: the Ray cluster failed again and again.
    """
    on_ray = engine == "ray" or address is not None or workers is not None
    if not 0 < subset <= 1:
        raise ConfigError(f"subset must be a share above 0 and at most 1, not {subset}")
    if chunk_size < 1:
        raise ConfigError(f"chunk_size must be at least 1, not {chunk_size}")
    if on_ray and suite is not None:
        raise ConfigError("workers on Ray load the models of the settings; leave suite out")
    if save_to is not None and not Path(save_to).parent.is_dir():
        # Before the minutes of work, not after.
        raise ConfigError(f"cannot write {save_to}: there is no folder {Path(save_to).parent}")
    used: list[int] = []
    corpus = _scan(path, split, lambda row, source, target: used.append(row))
    chosen = choose(used, subset, seed)
    runner = _ray(address, workers) if on_ray else _local(suite)
    task = Task(SOURCE, TARGET, chunk_size)
    found: dict[int, BlockResult] = {}
    blocks = corpus.blocks(chunk_size, chosen)
    try:
        with (
            _bar(progress, len(chosen)) as advance,
            closing(runner.run(corpus.source, blocks, task)) as measured,
        ):
            for result in measured:
                found[result.number] = result
                advance(len(result.rows))
    except InvalidInput as error:
        raise ConfigError(error.message) from error
    results = [found[block.number] for block in blocks]
    table = np.array(_values(corpus.source.name, chosen, results))
    models = results[0].models
    for result in results:
        difference = models.differs(result.models)
        if difference is not None:
            raise ConfigError(f"not every worker has the same models: {difference}")
    try:
        targets = Targets(
            mean=tuple(table.mean(axis=0).tolist()),
            sigma=tuple(table.std(axis=0, ddof=1).tolist()),
            models=models.names,
            details={
                "n": len(chosen),
                "corpus": Path(corpus.source.name).name,
                "split": split,
                "subset": subset,
                "seed": seed,
                "eval_mode": models.eval_mode,
                "version": __version__,
            },
        )
    except ConfigError as error:
        raise ConfigError(
            f"{path}: these {len(chosen)} summaries do not make targets, {error.message}; "
            "calibrate on more, and more varied, texts"
        ) from error
    if save_to is not None:
        targets.save(Path(save_to))
    return targets


def _local(suite: MetricSuite | None) -> Engine:
    if suite is None:
        return LocalEngine(SuiteRecipe(load_settings())())
    return LocalEngine(SuiteScorer(suite, None))


def _ray(address: str | None, workers: int | None) -> Engine:
    settings = load_settings()
    return RayEngine(SuiteRecipe(settings), RayOptions.of(settings, address, workers))


def _values(
    name: str, chosen: Sequence[int], results: Sequence[BlockResult]
) -> list[tuple[float, ...]]:
    """The metrics of all rows.

    Raises:
        ConfigError, MetricFailed: a row has none.
    """
    values = []
    rows = (row for result in results for row in result.rows)
    for number, row in zip(chosen, rows, strict=True):
        if isinstance(row, RowError):
            kind = MetricFailed if row.code == MetricFailed.code else ConfigError
            raise kind(f"{name}: row {number + 1} cannot be measured: {row.message}")
        values.append(row.values)
    return values


def read_pairs(path: str | Path, split: str | None = "train") -> list[Pair]:
    """The pairs of a corpus whose `split` is as asked (None: all), held in memory.

    Raises:
        ConfigError: the file cannot be read, is malformed, or a used cell holds no text.
    """
    pairs: list[Pair] = []
    _scan(path, split, lambda row, source, target: pairs.append(Pair(row + 1, source, target)))
    return pairs


def choose(pairs: Sequence[Item], subset: float, seed: int) -> list[Item]:
    """A random share of the pairs, in their order; the same for the same seed.

    Raises:
        ConfigError: there are fewer than two, so there is no deviation.
    """
    if len(pairs) < 2:
        raise ConfigError(f"a standard deviation needs at least 2 pairs; there is {len(pairs)}")
    count = max(2, round(subset * len(pairs)))
    chosen = random.Random(seed).sample(range(len(pairs)), count)  # noqa: S311
    return [pairs[index] for index in sorted(chosen)]


def _scan(path: str | Path, split: str | None, on_pair: Callable[[int, str, str], None]) -> Corpus:
    """Reads the file once; `on_pair` gets the number (from 0) and texts of each row to use.

    Raises:
        ConfigError: see `read_pairs`.
    """
    columns = (SOURCE, TARGET) if split is None else (SOURCE, TARGET, SPLIT)
    used = 0
    incomplete: dict[str, int] = {}  # the first row without the column

    def check(number: int, row: Row) -> None:
        nonlocal used
        if split is not None and str(row.get(SPLIT, "")).strip() != split:
            return
        for column in (SOURCE, TARGET):
            if column not in row:
                # Whether any row has it is known at the end.
                incomplete.setdefault(column, number + 1)
                return
            value = row[column]
            try:
                if not isinstance(value, str):
                    raise InvalidInput(f"it holds no text but {type(value).__name__}")
                require_text(value, column)
            except InvalidInput as error:
                raise ConfigError(
                    f"{path}: column {column}, row {number + 1}: {error.message}"
                ) from None
        used += 1
        on_pair(number, row[SOURCE], row[TARGET])

    try:
        corpus = scan(path, check, default="csv")
    except InvalidInput as error:
        raise ConfigError(error.message) from error
    for column in columns:
        if column not in corpus.source.columns:
            hint = "; use split=None if all rows are for calibration" if column == SPLIT else ""
            there = corpus.source.columns
            found = ", ".join(ascii(name)[1:-1][:60] for name in there[:20]) or "none: it is empty"
            raise ConfigError(f"{path} has no column {column} (its columns: {found}){hint}")
    for column, number in incomplete.items():
        raise ConfigError(f"{path}: column {column}, row {number}: the row does not have it")
    if not corpus.rows:
        raise ConfigError(f"{path} has a header but no rows")
    if not used:
        raise ConfigError(
            f"{path}: column {SPLIT} is {split!r} in none of its {corpus.rows} rows; "
            "use split=None for all rows"
        )
    return corpus


@contextmanager
def _bar(shown: bool, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar; yields the function that moves it on by a number of pairs."""
    columns = (
        TextColumn("calibrating"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    # On stderr: standard output is for results.
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task("pairs", total=total)
        yield lambda count: bar.advance(task, count)
