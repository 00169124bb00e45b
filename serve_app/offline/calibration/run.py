"""Measures the pairs of a corpus and makes targets of them; resumes a killed run.

`serve_app.offline.corpus` reads, measures and keeps rows; no model is known here, and no more texts
are held than those of a block.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
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
from serve_app.core.printable import printable
from serve_app.core.settings import load_settings
from serve_app.metrics.loss import METRICS, Targets
from serve_app.offline.bootstrap import Floats
from serve_app.offline.calibration.pairs import SOURCE, TARGET, Selection, select
from serve_app.offline.calibration.targets_writer import draw, make_targets
from serve_app.offline.corpus.job import (
    RAY_ROWS,
    Engine,
    LocalEngine,
    language_notes,
    rows_of_a_block,
    scored_blocks,
)
from serve_app.offline.corpus.journal import Journal
from serve_app.offline.corpus.reader import Block, Source
from serve_app.offline.corpus.scoring import BlockResult, RowError, RowScores, Task
from serve_app.storage.base import File
from serve_app.storage.locate import locate

if TYPE_CHECKING:
    from serve_app.metrics.suite import MetricSuite

logger = logging.getLogger(__name__)

EngineName = Literal["auto", "local", "ray"]

_MODEL_LOCATIONS = (
    "bertscore_model",
    "alignscore_model",
    "alignscore_ckpt",
    "factuality_model",
    "factuality_weights",
)


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
    original_column: str | None = None,
    human_column: str | None = None,
    on_note: Callable[[str], None] = logger.warning,
) -> Targets:
    """Measures human summaries against their originals and returns the targets.

    With `save_to`, finished blocks are kept in the folder `SAVE_TO.parts` until the end, and the
    same call resumes a killed run. Texts in memory are those under way; for the rest of the corpus
    it holds where its rows are, and five numbers a row.

    Args:
        path: a corpus as `plainmed score` reads it: a path or `s3://BUCKET/KEY` of a .csv, .tsv,
            .jsonl, .json or .parquet file, maybe with .gz, or a folder. A name without a known
            suffix is CSV.
        save_to: where to write the targets file, complete or not at all; None: nowhere.
        subset: share of the rows to use, in (0, 1]; at least two rows are taken. The choice
            depends on `seed` alone.
        chunk_size: pairs measured at once, >= 1; more is faster and takes more memory.
        suite: the models; None: those of the settings, as they would be served.
        seed: >= 0, of the random subset and of the bootstrap.
        progress: show a progress bar on standard error.
        split: use rows with this value in `split` only; None: all rows, no such column needed.
        engine: `local` measures in this process; `ray` on Ray Data, with the models of the
            settings in each worker; `auto` on Ray from `RAY_ROWS` pairs on.
        address: of a running Ray cluster; None: start one. Implies `ray`.
        workers: maximum number of model copies on Ray; None: as many as fit. Implies `ray`.
        restart: discard saved progress and start over.
        plot: where to write a chart (SVG) of each metric's distribution; None: nowhere.
        original_column: of originals; None: `source_text`, or the only one with another usual name.
        human_column: of human summaries; None: `target_text`, or the only one with another usual
            name.
        on_note: called with each sentence on what was chosen for the user: columns, separator, rows
            that are not English.

    Raises:
        ConfigError: an argument is out of range, the file is wrong (the message names the file,
            and the column and row where there is one), or saved progress is of other texts,
            settings or models.
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
    with ExitStack() as stack:
        stack.enter_context(_config_errors())
        out, picture = _outputs(save_to, plot)
        selection = select(path, split, subset, seed, (original_column, human_column))
        count = len(selection.rows)
        columns = [selection.source, selection.target]
        check = load_settings().language_check if suite is None else suite.language_check
        notes = () if check == "off" else language_notes(selection.corpus, columns)
        if columns != [SOURCE, TARGET]:
            notes += (f"originals are of column {columns[0]}, human summaries of {columns[1]}",)
        for note in (*selection.corpus.notes, *notes):
            on_note(printable(note))
        on_ray = on_ray or (engine == "auto" and suite is None and count >= RAY_ROWS)
        make_engine, scoring = (
            _settings_engine(on_ray, address, workers) if suite is None else _suite_engine(suite)
        )
        if out is None:
            # Blocks go through a journal here too; it is deleted at the end.
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="plainmed-"))
            out = locate(Path(folder) / "targets.json")
        run = {
            "version": __version__,
            "input": {"sha256": selection.corpus.sha256, "rows": selection.corpus.rows},
            "columns": columns,
            "split": split,
            "subset": subset,
            "seed": seed,
            "chunk_size": chunk_size,
            "scoring": scoring,
        }
        blocks = selection.corpus.blocks(rows_of_a_block(count, chunk_size), selection.rows)
        on_start, on_rows = stack.enter_context(_progress_bar(progress))
        journal = stack.enter_context(
            scored_blocks(
                out,
                run,
                blocks,
                [Task(selection.source, selection.target, chunk_size)],
                lambda: _CompleteBlocks(make_engine(), selection, blocks.size),
                on_start,
                on_rows,
                restart=restart,
            )
        )
        table = _table(journal, blocks.numbers, count)
        how = {"split": split, "subset": subset, "settings": _without_locations(scoring)}
        try:
            targets = make_targets(table, selection, journal.models, seed, how)
        except ConfigError:
            # No number of attempts makes targets of these; the journal would only be in the way.
            journal.remove()
            raise
        if save_to is not None:
            targets.save(Path(save_to).expanduser())
        if picture is not None:
            with picture.written() as file:
                file.write(draw(table, targets).encode())
    return targets


def calibrateTargets(  # noqa: N802 - the earlier system's name
    path: str | Path,
    save_to: str | Path | None = None,
    subset: float = 1.0,
    chunk_size: int = 16,
    update_globals: bool = False,
    seed: int = 0,
    progress: bool = True,
    *,
    split: str | None = "train",
) -> dict[str, Any]:
    """The earlier system's call; see `calibrate_targets`.

    Args:
        path, save_to, subset, chunk_size, seed, progress, split: as there.
        update_globals: use the new targets in this process from now on: TARGETS_FILE in its
            environment becomes the absolute path of `save_to`, for all settings read later, here
            or in a process started from here. A running server keeps its targets until it is
            restarted with that setting.

    Returns:
        The content of the targets file, by the earlier keys (`TARGET_FKGL`, `SIGMA_FKGL`, ...).

    Raises:
        ConfigError: as `calibrate_targets`; or `update_globals` without `save_to`.
    """
    if update_globals and save_to is None:
        raise ConfigError("update_globals sets TARGETS_FILE, which needs a file: give save_to")
    targets = calibrate_targets(
        path, save_to, subset, chunk_size, seed=seed, progress=progress, split=split
    )
    if update_globals and save_to is not None:
        os.environ["TARGETS_FILE"] = str(Path(save_to).expanduser().absolute())
    return targets.to_dict()


# --- engines ----------------------------------------------------------------------------

MakeEngine = tuple[Callable[[], Engine], dict[str, Any]]
"""Loads the models or connects to Ray; and what the numbers depend on, as JSON data."""


def _settings_engine(on_ray: bool, address: str | None, workers: int | None) -> MakeEngine:
    # torch takes seconds to import, and comparing targets needs none of it.
    from serve_app.offline.corpus.scorer import SuiteRecipe

    recipe = SuiteRecipe(load_settings())
    return lambda: recipe.engine(on_ray, address, workers), recipe.describe()


def _suite_engine(suite: MetricSuite) -> MakeEngine:
    from serve_app.offline.corpus.scorer import SuiteScorer

    described = {
        "suite": suite.models,
        "eval_mode": suite.factuality.eval_mode,
        "chunk_words": suite.factuality.chunk_words,
        "long_text": suite.relevance.long_text,
    }
    return lambda: LocalEngine(SuiteScorer(suite, None)), described


def _without_locations(scoring: dict[str, Any]) -> dict[str, Any] | None:
    """The settings behind the numbers without model locations, which are local."""
    settings = scoring.get("settings")
    if settings is None:
        return None
    return {name: value for name, value in settings.items() if name not in _MODEL_LOCATIONS}


class _CompleteBlocks:
    """An `Engine` that stops at the first row without numbers: targets need all of them.

    Its block is not kept, so the same command measures it again.
    """

    def __init__(self, engine: Engine, selection: Selection, size: int) -> None:
        self.name = engine.name
        self._engine, self._selection, self._size = engine, selection, size

    def run(
        self, source: Source, blocks: Sequence[Block], task: Task
    ) -> Generator[BlockResult, None, None]:
        """As `Engine.run`.

        Raises:
            ConfigError, MetricFailed: a row has no numbers.
        """
        with closing(self._engine.run(source, blocks, task)) as results:
            for result in results:
                for at, row in enumerate(result.rows):
                    if isinstance(row, RowError):
                        number = self._selection.rows[result.number * self._size + at] + 1
                        kind = MetricFailed if row.code == MetricFailed.code else ConfigError
                        raise kind(f"{source.name}: row {number} cannot be measured: {row.message}")
                yield result


def _table(journal: Journal, numbers: Sequence[int], count: int) -> Floats:
    """The metrics of all rows in order: (count, 5)."""
    damaged = InvalidInput(f"{journal.name} is damaged; remove it and run again")
    parts = []
    for rows in journal.results(numbers):
        values = [row.values for row in rows if isinstance(row, RowScores)]
        if len(values) != len(rows) or {*map(len, values)} != {len(METRICS)}:
            raise damaged
        parts.append(np.array(values))
    table = np.concatenate(parts)
    if len(table) != count or not np.isfinite(table).all():
        raise damaged
    return table


# --- around it --------------------------------------------------------------------------


def _outputs(save_to: str | Path | None, plot: str | Path | None) -> list[File | None]:
    """The outputs, checked to be writable before the minutes of work, not after.

    Raises:
        ConfigError, InvalidInput: one cannot be written.
    """
    outputs = [None if name is None else locate(name) for name in (save_to, plot)]
    for output in outputs:
        if output is not None:
            if not output.local:
                raise ConfigError(f"cannot write {output.name}: give a path, and copy the file")
            output.check_writable()
    if None not in (save_to, plot) and Path(str(save_to)).resolve() == Path(str(plot)).resolve():
        raise ConfigError(f"the targets and the plot cannot both be {plot}")
    return outputs


@contextmanager
def _config_errors() -> Iterator[None]:
    """Turns a fault of an input, a folder or an earlier run into a `ConfigError`."""
    try:
        yield
    except InvalidInput as error:
        raise ConfigError(error.message) from error


@contextmanager
def _progress_bar(
    shown: bool,
) -> Iterator[tuple[Callable[[int, int], None], Callable[[int], None]]]:
    """A progress bar; yields its functions for the start (pairs done, of all) and for each step."""
    columns = (
        TextColumn("calibrating"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    # On stderr: standard output is for results.
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task("pairs", total=None)

        def start(done: int, total: int) -> None:
            if shown and done:
                bar.console.print(f"{done} of {total} pairs were finished by an earlier run")
            bar.update(task, completed=done, total=total)

        yield start, lambda count: bar.advance(task, count)
