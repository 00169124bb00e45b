"""Targets from a corpus of human pairs: what human-written summaries score.

Reads a CSV of originals and human summaries, measures every pair with the models that will
serve, and keeps each metric's mean and sample standard deviation (divided by n - 1). Knows no
model: a `MetricSuite` measures.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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
from serve_app.errors import ConfigError, InvalidInput
from serve_app.loss import Targets
from serve_app.metrics.suite import MetricSuite
from serve_app.metrics.text import require_text
from serve_app.settings import load_settings

SOURCE, TARGET, SPLIT = "source_text", "target_text", "split"

_LARGEST_FIELD = 2**31 - 1  # bytes; the csv module's own limit is 131,072, a long article


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
) -> Targets:
    """Measures human summaries against their originals and returns the targets.

    Args:
        path: UTF-8 CSV with the columns `source_text`, `target_text` and `split`.
        save_to: where to write the targets file, complete or not at all; None: nowhere.
        subset: share of the rows to use, in (0, 1]; at least two rows are taken. Which ones
            depends on `seed` alone.
        chunk_size: pairs measured at once, >= 1; more is faster and takes more memory.
        suite: the models; None: those of the settings, as they would be served.
        seed: of the random subset.
        progress: show a progress bar on the terminal.
        split: use rows with this value in `split` only; None: all rows, no such column needed.

    Raises:
        ConfigError: an argument is out of range, or the file is wrong; the message names the
            file, and the column and row where there is one.
        MetricFailed: a model gave a value that is not a number.
    """
    path = Path(path)
    if not 0 < subset <= 1:
        raise ConfigError(f"subset must be a share above 0 and at most 1, not {subset}")
    if chunk_size < 1:
        raise ConfigError(f"chunk_size must be at least 1, not {chunk_size}")
    if save_to is not None and not Path(save_to).parent.is_dir():
        # Before the minutes of work, not after.
        raise ConfigError(f"cannot write {save_to}: there is no folder {Path(save_to).parent}")
    pairs = choose(read_pairs(path, split), subset, seed)
    if suite is None:
        suite = MetricSuite.from_settings(load_settings())

    values: list[tuple[float, ...]] = []
    with _bar(progress, len(pairs)) as advance:
        for start in range(0, len(pairs), chunk_size):
            chunk = pairs[start : start + chunk_size]
            try:
                measured = suite.measure([p.source for p in chunk], [p.target for p in chunk])
            except InvalidInput as error:
                raise ConfigError(
                    f"{path}: rows {chunk[0].row} to {chunk[-1].row} cannot all be measured: "
                    f"{error.message} ({error.field})"
                ) from error
            values += [item.values for item in measured]
            advance(len(chunk))

    table = np.array(values)
    try:
        targets = Targets(
            mean=tuple(table.mean(axis=0).tolist()),
            sigma=tuple(table.std(axis=0, ddof=1).tolist()),
            models=suite.models,
            details={
                "n": len(pairs),
                "corpus": path.name,
                "split": split,
                "subset": subset,
                "seed": seed,
                "eval_mode": suite.factuality.eval_mode,
                "version": __version__,
            },
        )
    except ConfigError as error:
        raise ConfigError(
            f"{path}: these {len(pairs)} summaries do not make targets, {error.message}; "
            "calibrate on more, and more varied, texts"
        ) from error
    if save_to is not None:
        targets.save(Path(save_to))
    return targets


def read_pairs(path: Path, split: str | None = "train") -> list[Pair]:
    """The pairs of a CSV file whose `split` is as asked (None: all).

    Raises:
        ConfigError: the file cannot be read, is not such a CSV, or a used cell holds no text.
    """
    columns = [SOURCE, TARGET] if split is None else [SOURCE, TARGET, SPLIT]
    rows = 0
    pairs = []
    for rows, cells in enumerate(_rows(path, columns), start=1):
        if split is not None and cells[SPLIT].strip() != split:
            continue
        for column in (SOURCE, TARGET):
            try:
                require_text(cells[column], column)
            except InvalidInput as error:
                raise ConfigError(f"{path}: column {column}, row {rows}: {error.message}") from None
        pairs.append(Pair(rows, cells[SOURCE], cells[TARGET]))
    if not rows:
        raise ConfigError(f"{path} has a header but no rows")
    if not pairs:
        raise ConfigError(
            f"{path}: column {SPLIT} is {split!r} in none of its {rows} rows; "
            "use split=None for all rows"
        )
    return pairs


def choose(pairs: list[Pair], subset: float, seed: int) -> list[Pair]:
    """A random share of the pairs, in their order; the same for the same seed.

    Raises:
        ConfigError: there are fewer than two, so there is no deviation.
    """
    if len(pairs) < 2:
        raise ConfigError(f"a standard deviation needs at least 2 pairs; there is {len(pairs)}")
    count = max(2, round(subset * len(pairs)))
    chosen = random.Random(seed).sample(range(len(pairs)), count)  # noqa: S311
    return [pairs[index] for index in sorted(chosen)]


def _rows(path: Path, columns: list[str]) -> list[dict[str, str]]:
    """The named cells of each data row."""
    limit = csv.field_size_limit(_LARGEST_FIELD)
    number = 0
    rows = []
    try:
        # utf-8-sig: spreadsheets write a byte order mark, which would join the first name.
        # Bad bytes come through as lone surrogates, so that their row and column can be named.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            _check_header(path, list(reader.fieldnames or ()), columns)
            for number, row in enumerate(reader, start=1):
                rows.append({name: _cell(path, number, name, row[name]) for name in columns})
                if None in row:
                    raise ConfigError(
                        f"{path}: row {number} has more cells than the header has columns; "
                        "put quotes around texts with commas"
                    )
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except csv.Error as error:
        raise ConfigError(f"{path}: row {number + 1} is not CSV: {error}") from error
    finally:
        csv.field_size_limit(limit)
    return rows


def _check_header(path: Path, header: list[str], columns: list[str]) -> None:
    for column in columns:
        if header.count(column) == 1:
            continue
        if column in header:
            raise ConfigError(f"{path} has more than one column {column}")
        hint = "; use split=None if all rows are for calibration" if column == SPLIT else ""
        found = ", ".join(ascii(name)[1:-1][:60] for name in header[:20]) or "none: it is empty"
        raise ConfigError(f"{path} has no column {column} (its columns: {found}){hint}")


def _cell(path: Path, number: int, column: str, value: str | None) -> str:
    if value is None:
        raise ConfigError(f"{path}: column {column}, row {number}: the row ends before it")
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise ConfigError(
            f"{path}: column {column}, row {number}: bytes that are not UTF-8; save it as UTF-8"
        )
    return value


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
