"""A whole run: reads, scores what is not finished yet, writes. Knows no metric and no model."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from serve_app import __version__
from serve_app.core.errors import InvalidInput, Unavailable
from serve_app.offline.corpus.journal import SUFFIX, Journal, exclusive
from serve_app.offline.corpus.reader import (
    GENERATED_COLUMNS,
    ORIGINAL_COLUMNS,
    Block,
    Blocks,
    Corpus,
    Source,
    file_format,
    read_rows,
    scan,
)
from serve_app.offline.corpus.scoring import (
    BlockResult,
    ModelNames,
    Scorer,
    Task,
    score_block,
    texts,
)
from serve_app.offline.corpus.writer import RESULT_COLUMNS, write_scored
from serve_app.storage.base import File
from serve_app.storage.locate import locate

MOST_BLOCKS = 4096  # each is a file while a run is unfinished

# From about here on a start of Ray, and a copy of the models for each core, pay; an estimate.
RAY_ROWS = 2000


def rows_of_a_block(rows: int, batch_size: int) -> int:
    """Rows finished at once: a batch, and more where there would be over `MOST_BLOCKS` blocks."""
    return max(batch_size, math.ceil(rows / MOST_BLOCKS))


class Engine(Protocol):
    """Scores blocks somewhere."""

    name: str

    def run(
        self, source: Source, blocks: Sequence[Block], task: Task
    ) -> Generator[BlockResult, None, None]:
        """Each block once, as it is finished, in any order; closing the generator ends the work."""
        ...


class LocalEngine:
    """An `Engine` of one scorer in this process, whose models may be here or on a server."""

    name = "local"

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    def run(
        self, source: Source, blocks: Sequence[Block], task: Task
    ) -> Generator[BlockResult, None, None]:
        """Each block as it is finished, in order."""
        for block in blocks:
            rows = read_rows(source, block, (task.original, task.generated))
            yield score_block(self._scorer, task, block.number, texts(rows, task))


@dataclass(frozen=True)
class Outcome:
    """How many rows a run scored, and how many of them have no numbers."""

    rows: int
    failed: int


@dataclass(frozen=True)
class ScoreJob:
    """A file to score, with every question about files and columns already settled."""

    corpus: Corpus
    task: Task
    out: File
    prefix: str
    blocks: Blocks

    @classmethod
    def prepare(
        cls,
        source: str | Path,
        out: str | Path,
        *,
        original: str | None = None,
        generated: str | None = None,
        prefix: str = "",
        batch_size: int = 16,
        block_rows: int | None = None,
    ) -> ScoreJob:
        """Reads the input once and checks all that can fail before models are loaded.

        Args:
            source: path or `s3://BUCKET/KEY` of a .csv, .jsonl or .parquet file.
            out: the same, for the output.
            original: the column of originals; None: the first of `ORIGINAL_COLUMNS` there is.
            generated: the column of summaries; None: the first of `GENERATED_COLUMNS` there is.
            prefix: put before the names of the new columns.
            batch_size: pairs scored at once, >= 1.
            block_rows: rows finished at once; None: see `rows_of_a_block`.

        Raises:
            InvalidInput: a file, row or column is wrong; it is named.
        """
        target = locate(out)
        file_format(target)
        target.check_writable()
        corpus = scan(source)
        name = corpus.source.name
        if not corpus.rows:
            raise InvalidInput(f"{name}: there are no rows")
        for column in RESULT_COLUMNS:
            if prefix + column in corpus.source.columns:
                raise InvalidInput(
                    f"{name}: there is already a column {prefix + column!r}; "
                    "name the new ones with --prefix, such as --prefix new_"
                )
        task = Task(
            corpus.column(original, ORIGINAL_COLUMNS, "--original-column"),
            corpus.column(generated, GENERATED_COLUMNS, "--generated-column"),
            batch_size,
        )
        size = block_rows or rows_of_a_block(corpus.rows, batch_size)
        return cls(corpus, task, target, prefix, corpus.blocks(size))

    def describe(self, scoring: Mapping[str, Any]) -> dict[str, Any]:
        """Everything the numbers of this run depend on; `scoring` is the engine's share."""
        return {
            "version": __version__,
            "input": {"sha256": self.corpus.sha256, "rows": self.corpus.rows},
            "columns": {"original": self.task.original, "generated": self.task.generated},
            "batch_size": self.task.batch_size,
            "block_rows": min(self.blocks.size, self.corpus.rows),
            "scoring": dict(scoring),
        }

    def run(
        self,
        make_engine: Callable[[], Engine],
        scoring: Mapping[str, Any],
        *,
        restart: bool = False,
        on_start: Callable[[int, int], None] = lambda done, total: None,
        on_rows: Callable[[int], None] = lambda count: None,
        on_models: Callable[[ModelNames], None] = lambda models: None,
    ) -> Outcome:
        """Scores every row that no earlier run has finished, and writes the output.

        Args:
            make_engine: makes the engine; not called where every block is finished already.
            scoring: settings, targets and weights, as JSON data. A run with others is not
                continued.
            restart: discard what an earlier run has finished.
            on_start: called with the number of finished rows, and of all rows.
            on_rows: called with the number of rows in each block that is finished since.
            on_models: called once, when the models are known.

        Raises:
            InvalidInput: an earlier run does not fit, or a file cannot be read or written.
            PlainMedError: the engine gave up; finished blocks are kept.
        """
        run = self.describe(scoring)
        events = (on_start, on_rows, on_models)
        with scored_blocks(
            self.out, run, self.blocks, self.task, make_engine, *events, restart=restart
        ) as journal:
            results = journal.results(self.blocks.numbers)
            failed = write_scored(self.out, self.corpus, self.blocks, results, self.prefix)
        return Outcome(self.corpus.rows, failed)


@contextmanager
def scored_blocks(
    out: File,
    run: Mapping[str, Any],
    blocks: Blocks,
    task: Task,
    make_engine: Callable[[], Engine],
    on_start: Callable[[int, int], None],
    on_rows: Callable[[int], None],
    on_models: Callable[[ModelNames], None] = lambda models: None,
    *,
    restart: bool = False,
) -> Iterator[Journal]:
    """Scores the blocks that no earlier run finished; yields the journal with all of them.

    The journal is removed at the end of the `with` block, unless that raises.

    Args:
        out: the file to write inside the `with` block; no second run may write it.
        run: everything the numbers depend on, as JSON data.
        make_engine, on_start, on_rows, on_models, restart: as in `ScoreJob.run`.

    Raises:
        InvalidInput: an earlier run does not fit, blocks are made by different models, or one
            cannot be written.
        Unavailable: not every block came back.
        PlainMedError: the engine gave up; finished blocks are kept.
    """
    with exclusive(out):
        if restart:
            out.beside(SUFFIX).clear()
        journal = Journal(out, run)
        journal.begin()
        waiting = blocks.without(journal.finished)
        on_start(blocks.row_count - waiting.row_count, blocks.row_count)
        if waiting:
            known = False
            # Closed, not left to the garbage collector: a Ray of ours stops before anything else.
            with closing(make_engine().run(blocks.corpus.source, waiting, task)) as results:
                for result in results:
                    if not known and result.models.names:
                        on_models(result.models)
                        known = True
                    journal.add(result)
                    on_rows(len(result.rows))
        missing = blocks.without(journal.finished)
        if missing:
            raise Unavailable(
                f"{len(missing)} blocks came back from no worker; what is finished is kept in "
                f"{journal.name}, so run it again"
            )
        yield journal
        journal.remove()
