"""Measures the pairs of a corpus and makes targets of them, resuming where a killed run was.

How rows are read, measured and kept is in `serve_app.offline.corpus`; no model is known here, and
texts are held no longer than a block.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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
from serve_app.core.errors import ConfigError, InvalidInput, MetricFailed
from serve_app.core.settings import load_settings
from serve_app.metrics.loss import METRICS, Targets
from serve_app.offline.bootstrap import Floats
from serve_app.offline.calibration.pairs import SOURCE, TARGET, Selection, select
from serve_app.offline.calibration.plot import draw
from serve_app.offline.calibration.targets_writer import make_targets
from serve_app.offline.corpus.job import RAY_ROWS, Engine, keep_results, rows_of_a_block
from serve_app.offline.corpus.journal import SUFFIX, Journal, alone
from serve_app.offline.corpus.reader import Block
from serve_app.offline.corpus.scoring import BlockResult, RowError, Task
from serve_app.storage.base import File
from serve_app.storage.locate import locate

if TYPE_CHECKING:
    from serve_app.metrics.suite import MetricSuite

EngineName = Literal["auto", "local", "ray"]


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
    engine: EngineName = "local",
    address: str | None = None,
    workers: int | None = None,
    restart: bool = False,
    plot: str | Path | None = None,
) -> Targets:
    """Measures human summaries against their originals and returns the targets.

    With `save_to`, what is finished is kept in the folder `SAVE_TO.parts` until the end, and the
    same call goes on where a killed one was. Rows in memory are those under way; what grows with
    the corpus is where its rows are and five numbers a row.

    Args:
        path: CSV, JSON lines or Parquet, a path or `s3://BUCKET/KEY`, with the columns
            `source_text`, `target_text` and `split`. A name without a known suffix is CSV.
        save_to: where to write the targets file, complete or not at all; None: nowhere.
        subset: share of the rows to use, in (0, 1]; at least two rows are taken. Which ones
            depends on `seed` alone.
        chunk_size: pairs measured at once, >= 1; more is faster and takes more memory.
        suite: the models; None: those of the settings, as they would be served.
        seed: >= 0, of the random subset and of the bootstrap.
        progress: show a progress bar on standard error.
        split: use rows with this value in `split` only; None: all rows, no such column needed.
        engine: `local` measures in this process; `ray` on Ray Data, with the models of the
            settings in each of its workers; `auto` on Ray from `RAY_ROWS` pairs on.
        address: of a running Ray cluster; None: a Ray of our own. Gives `ray`.
        workers: most sets of models on Ray; None: as many as it has room for. Gives `ray`.
        restart: forget what a killed run has finished.
        plot: where to write a chart (SVG) of each metric's distribution; None: nowhere.

    Raises:
        ConfigError: an argument is out of range, the file is wrong (the message names the file,
            and the column and row where there is one), or a killed run of other texts, settings
            or models is there.
        MetricFailed: a model gave a value that is not a number.
        Unavailable: the Ray cluster failed again and again.
    """
    on_ray = engine == "ray" or address is not None or workers is not None
    if not 0 < subset <= 1:
        raise ConfigError(f"subset must be a share above 0 and at most 1, not {subset}")
    if chunk_size < 1:
        raise ConfigError(f"chunk_size must be at least 1, not {chunk_size}")
    if seed < 0:
        raise ConfigError(f"seed must not be negative, not {seed}")
    if on_ray and suite is not None:
        raise ConfigError("workers on Ray load the models of the settings; leave suite out")
    if restart and save_to is None:
        raise ConfigError("nothing is kept without save_to, so there is nothing to restart")
    with _as_config_errors(), ExitStack() as stack:
        out, picture = _places(save_to, plot)
        selection = select(path, split, subset, seed)
        if engine == "auto" and suite is None and len(selection.rows) >= RAY_ROWS:
            on_ray = True
        measurer = _on_settings(on_ray, address, workers) if suite is None else _with(suite)
        if out is None:
            # Blocks go through a journal here too, which is gone at the end.
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="plainmed-"))
            out = locate(Path(folder) / "targets.json")
        stack.enter_context(alone(out))
        if restart:
            out.beside(SUFFIX).clear()
        run = {
            "version": __version__,
            "input": {"sha256": selection.corpus.sha256, "rows": selection.corpus.rows},
            "split": split,
            "subset": subset,
            "seed": seed,
            "chunk_size": chunk_size,
            "scoring": measurer.describe,
        }
        journal = Journal(out, run)
        table = _measure(measurer, selection, chunk_size, journal, progress)
        how = {"split": split, "subset": subset, "settings": measurer.described_settings}
        try:
            targets = make_targets(table, selection, journal.models, seed, how)
        except ConfigError:
            # Never targets, however often it is continued; and it would stand in a new run's way.
            journal.remove()
            raise
        if save_to is not None:
            targets.save(Path(save_to).expanduser())
        if picture is not None:
            with picture.written() as file:
                file.write(draw(table, targets).encode())
        journal.remove()
    return targets


# --- who measures -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Measurer:
    """Makes the engine where there is anything left to measure.

    Attributes:
        make: loads the models, or connects to Ray.
        describe: what the numbers depend on, as JSON data.
    """

    make: Callable[[], Engine]
    describe: dict[str, Any]

    @property
    def described_settings(self) -> dict[str, Any] | None:
        """The settings behind the numbers, but for where models are: that is no one's else."""
        found = self.describe.get("settings")
        if found is None:
            return None
        return {name: value for name, value in found.items() if name not in _WHERE_MODELS_ARE}


_WHERE_MODELS_ARE = ("bertscore_model", "alignscore_model", "alignscore_ckpt")


def _on_settings(on_ray: bool, address: str | None, workers: int | None) -> _Measurer:
    """The models of the settings, here or on Ray."""
    # torch takes seconds to import, and comparing targets needs none of it.
    from serve_app.offline.corpus.scorer import SuiteRecipe

    settings = load_settings()
    recipe = SuiteRecipe(settings)

    def make() -> Engine:
        if on_ray:
            from serve_app.offline.corpus.ray_engine import RayEngine, RayOptions

            return RayEngine(recipe, RayOptions.of(settings, address, workers))
        from serve_app.offline.corpus.local_engine import LocalEngine

        return LocalEngine(recipe())

    return _Measurer(make, recipe.describe())


def _with(suite: MetricSuite) -> _Measurer:
    """The caller's own models."""
    from serve_app.offline.corpus.local_engine import LocalEngine
    from serve_app.offline.corpus.scorer import SuiteScorer

    return _Measurer(
        lambda: LocalEngine(SuiteScorer(suite, None)),
        {
            "suite": suite.models,
            "eval_mode": suite.factuality.eval_mode,
            "chunk_words": suite.factuality.chunk_words,
            "long_text": suite.relevance.long_text,
        },
    )


# --- measuring --------------------------------------------------------------------------


class _Blocks(Sequence[Block]):
    """Blocks made when they are asked for: a random subset has a span for nearly every row."""

    def __init__(self, selection: Selection, size: int, numbers: Sequence[int]) -> None:
        self._selection = selection
        self._size = size
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return _Blocks(self._selection, self._size, self._numbers[at])
        number = self._numbers[at]
        start = number * self._size
        rows = self._selection.rows[start : start + self._size].tolist()
        (block,) = self._selection.corpus.blocks(self._size, rows)
        return Block(number, block.spans)


def _measure(
    measurer: _Measurer, selection: Selection, chunk_size: int, journal: Journal, progress: bool
) -> Floats:
    """The metrics of all chosen rows, in order: those of an earlier run and the rest."""
    count = len(selection.rows)
    size = rows_of_a_block(count, chunk_size)
    numbers = range(-(-count // size))
    journal.begin()
    waiting = [number for number in numbers if number not in journal.finished]
    blocks = _Blocks(selection, size, waiting)
    done = count - sum(min(size, count - number * size) for number in waiting)
    with _bar(progress, done, count) as advance:
        if waiting:
            engine = measurer.make()
            results = engine.run(selection.corpus.source, blocks, Task(SOURCE, TARGET, chunk_size))
            keep_results(_whole(results, selection, size), set(waiting), journal, advance)
    table = np.empty((count, len(METRICS)))
    at = 0
    for rows in journal.results(numbers):
        for row in rows:
            if at == count or isinstance(row, RowError) or len(row.values) != len(METRICS):
                raise InvalidInput(f"{journal.name} is damaged; remove it and run again")
            table[at] = row.values
            at += 1
    if at != count or not np.isfinite(table).all():
        raise InvalidInput(f"{journal.name} is damaged; remove it and run again")
    return table


def _whole(
    results: Generator[BlockResult, None, None], selection: Selection, size: int
) -> Generator[BlockResult, None, None]:
    """The blocks, until one has a row without numbers: there are no targets without it.

    Such a block is not kept, so that the same command tries it again.

    Raises:
        ConfigError, MetricFailed: a row has none.
    """
    with closing(results):
        for result in results:
            for at, row in enumerate(result.rows):
                if isinstance(row, RowError):
                    number = int(selection.rows[result.number * size + at]) + 1
                    kind = MetricFailed if row.code == MetricFailed.code else ConfigError
                    name = selection.corpus.source.name
                    raise kind(f"{name}: row {number} cannot be measured: {row.message}")
            yield result


# --- around it --------------------------------------------------------------------------


def _places(save_to: str | Path | None, plot: str | Path | None) -> tuple[File | None, File | None]:
    """Where the results go, known to be writable: before the minutes of work, not after.

    Raises:
        ConfigError, InvalidInput: one cannot be written.
    """
    found = []
    for name in (save_to, plot):
        where = None if name is None else locate(name)
        if where is not None:
            if not where.local:
                raise ConfigError(f"cannot write {where.name}: give a path, and copy it from there")
            where.check_writable()
        found.append(where)
    if None not in (save_to, plot) and Path(str(save_to)).resolve() == Path(str(plot)).resolve():
        raise ConfigError(f"the targets and the plot cannot both be {plot}")
    return found[0], found[1]


@contextmanager
def _as_config_errors() -> Iterator[None]:
    """What is wrong with an input, a folder or an earlier run is wrong with the configuration."""
    try:
        yield
    except InvalidInput as error:
        raise ConfigError(error.message) from error


@contextmanager
def _bar(shown: bool, done: int, total: int) -> Iterator[Callable[[int], None]]:
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
        if shown and done:
            bar.console.print(f"{done} of {total} pairs were finished by an earlier run")
        task = bar.add_task("pairs", total=total, completed=done)
        yield lambda count: bar.advance(task, count)
