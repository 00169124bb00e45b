"""A whole run: read, score what is not finished yet, write. Knows no engine and no metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from serve_app import __version__
from serve_app.core.errors import InvalidInput, Unavailable
from serve_app.offline.corpus.journal import SUFFIX, Journal, alone
from serve_app.offline.corpus.reader import Block, Corpus, Source, file_format, scan
from serve_app.offline.corpus.scoring import BlockResult, ModelNames, Task
from serve_app.offline.corpus.writer import RESULT_COLUMNS, write_scored
from serve_app.storage.base import File
from serve_app.storage.locate import locate

ORIGINAL_COLUMNS = ("original", "source_text", "texts_original")
GENERATED_COLUMNS = ("generated", "target_text", "summary", "texts_generated")

MOST_BLOCKS = 4096  # each is a file while a run is unfinished

# From about here on Ray's start, and a set of models for each core, pay; an estimate.
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
        """Each block once, as it is finished, in any order; closing it ends the work."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What a run did."""

    rows: int
    failed: int


@dataclass(frozen=True)
class ScoreJob:
    """A file to score, with every question about files and columns already settled."""

    corpus: Corpus
    task: Task
    out: File
    prefix: str
    blocks: Sequence[Block]

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
            block_rows: rows finished at once; None: `batch_size`, and more where there would be
                over `MOST_BLOCKS` blocks.

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
        clash = [
            prefix + column for column in RESULT_COLUMNS if prefix + column in corpus.source.columns
        ]
        if clash:
            raise InvalidInput(
                f"{name}: there is already a column {clash[0]!r}; "
                "name the new ones with --prefix, such as --prefix new_"
            )
        task = Task(
            corpus.column(original, ORIGINAL_COLUMNS, "--original-column"),
            corpus.column(generated, GENERATED_COLUMNS, "--generated-column"),
            batch_size,
        )
        if block_rows is None:
            block_rows = rows_of_a_block(corpus.rows, batch_size)
        return cls(corpus, task, target, prefix, corpus.blocks(block_rows))

    def describe(self, scoring: Mapping[str, Any]) -> dict[str, Any]:
        """What the numbers of this run depend on; `scoring` is what the engine adds."""
        return {
            "version": __version__,
            "input": {"sha256": self.corpus.sha256, "rows": self.corpus.rows},
            "columns": {"original": self.task.original, "generated": self.task.generated},
            "batch_size": self.task.batch_size,
            "block_rows": self.blocks[0].count,
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
            restart: forget what an earlier run has finished.
            on_start: called with the rows that are finished, and all rows.
            on_rows: called with the number of rows that have been finished since.
            on_models: called once, when the models are known.

        Raises:
            InvalidInput: an earlier run does not fit, or a file cannot be read or written.
            PlainMedError: the engine gave up; what is finished is kept.
        """
        with alone(self.out):
            if restart:
                self.out.beside(SUFFIX).clear()
            journal = Journal(self.out, self.describe(scoring))
            journal.begin()
            waiting = [block for block in self.blocks if block.number not in journal.finished]
            todo = sum(block.count for block in waiting)
            on_start(self.corpus.rows - todo, self.corpus.rows)
            if waiting:
                keep_results(
                    make_engine().run(self.corpus.source, waiting, self.task),
                    {block.number for block in waiting},
                    journal,
                    on_rows,
                    on_models,
                )
            failed = write_scored(
                self.out,
                self.corpus,
                self.blocks,
                journal.results(range(len(self.blocks))),
                self.prefix,
            )
            journal.remove()
        return Outcome(self.corpus.rows, failed)


def keep_results(
    results: Generator[BlockResult, None, None],
    numbers: AbstractSet[int],
    journal: Journal,
    on_rows: Callable[[int], None],
    on_models: Callable[[ModelNames], None] = lambda models: None,
) -> None:
    """Keeps what an engine finishes in the journal, block after block, and closes the engine's run.

    Args:
        results: of the engine.
        numbers: of the blocks that it was given.
        journal: of the run.
        on_rows: called with the number of rows of each block kept.
        on_models: called once, when the models are known.

    Raises:
        InvalidInput: blocks are made by different models, or one cannot be written.
        Unavailable: not every block came back.
        PlainMedError: the engine gave up; what is finished is kept.
    """
    known = False
    # Closed, not left to the garbage collector: a Ray of ours stops before anything else.
    with closing(results):
        for result in results:
            if not known and result.models.names:
                on_models(result.models)
                known = True
            journal.add(result)
            on_rows(len(result.rows))
    missing = numbers - journal.finished
    if missing:
        raise Unavailable(
            f"{len(missing)} blocks came back from no worker; what is finished is kept in "
            f"{journal.name}, so run it again"
        )
