"""A whole run: reads, scores what is not finished yet, writes. Knows no metric and no model."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from serve_app import __version__
from serve_app.core.errors import InvalidInput, Unavailable
from serve_app.core.settings import LanguageCheck
from serve_app.offline.corpus.journal import Journal, discard, exclusive
from serve_app.offline.corpus.reader import (
    GENERATED_COLUMNS,
    ORIGINAL_COLUMNS,
    Block,
    Blocks,
    Corpus,
    Source,
    output_format,
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
from serve_app.offline.corpus.writer import result_columns, write_scored
from serve_app.storage.base import File
from serve_app.storage.locate import locate

_PARTS, _PART = 10, 20  # parts of a corpus, and rows of each, whose language is looked at
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
    """How many pairs a run scored, and how many of them have no numbers."""

    rows: int
    failed: int


@dataclass(frozen=True)
class ScoreJob:
    """A corpus to score, with every question about files and columns already settled.

    Attributes:
        corpus: the input.
        systems: the columns of summaries, each with the prefix of its new columns.
        out: the output.
        blocks: of the rows.
    """

    corpus: Corpus
    systems: Sequence[tuple[Task, str]]
    out: File
    blocks: Blocks

    @classmethod
    def prepare(
        cls,
        source: str | Path | Corpus,
        out: str | Path,
        *,
        original: str | None = None,
        generated: str | Sequence[str] | None = None,
        prefix: str = "",
        batch_size: int = 16,
        block_rows: int | None = None,
        language_check: LanguageCheck = "warn",
        findings: bool = False,
    ) -> ScoreJob:
        """Reads the input once and checks all that can fail before models are loaded.

        Args:
            source: the input, as `reader.scan` takes it; or a corpus that was scanned.
            out: path or `s3://BUCKET/KEY` of a .csv, .jsonl or .parquet file.
            original: the column of originals; None: the one with a name of `ORIGINAL_COLUMNS`.
            generated: the columns of summaries; None: the one of `GENERATED_COLUMNS`.
            prefix: put before the names of the new columns. With several columns of summaries,
                the name of the column and `_` follow it.
            batch_size: pairs scored at once, >= 1.
            block_rows: rows finished at once; None: see `rows_of_a_block`.
            language_check: `off`: the language of the texts is not looked at.
            findings: whether findings and omissions are counted, in columns of their own.

        Raises:
            InvalidInput: a file, row or column is wrong, several columns could be meant, or more
                than half of the rows are not English.
        """
        target = locate(out)
        output_format(target)
        target.check_writable()
        corpus = source if isinstance(source, Corpus) else scan(source)
        name = corpus.source.name
        if not corpus.rows:
            raise InvalidInput(f"{name}: there are no rows")
        wanted = [generated] if generated is None or isinstance(generated, str) else generated
        first = corpus.column(original, ORIGINAL_COLUMNS, "--original-column")
        seconds = [corpus.column(one, GENERATED_COLUMNS, "--generated-column") for one in wanted]
        systems = [
            (
                Task(first, second, batch_size, findings),
                prefix if len(seconds) == 1 else f"{prefix}{second}_",
            )
            for second in seconds
        ]
        taken = set(corpus.source.columns)
        for column in (
            before + column for task, before in systems for column in result_columns(task)
        ):
            if column in taken:
                raise InvalidInput(
                    f"{name}: there is already a column {column!r}; "
                    "name the new ones with --prefix, such as --prefix new_"
                )
            taken.add(column)
        if language_check != "off":
            corpus = replace(corpus, notes=corpus.notes + language_notes(corpus, [first, *seconds]))
        size = block_rows or rows_of_a_block(corpus.rows * len(systems), batch_size)
        return cls(corpus, systems, target, corpus.blocks(size))

    def describe(self, scoring: Mapping[str, Any]) -> dict[str, Any]:
        """Everything the numbers of this run depend on; `scoring` is the engine's share."""
        task = self.systems[0][0]
        names = [one.generated for one, _ in self.systems]
        columns = names[0] if len(names) == 1 else names
        return {
            "version": __version__,
            "input": {"sha256": self.corpus.sha256, "rows": self.corpus.rows},
            "columns": {"original": task.original, "generated": columns},
            "batch_size": task.batch_size,
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
        tasks = [task for task, _ in self.systems]
        with scored_blocks(
            self.out, run, self.blocks, tasks, make_engine, *events, restart=restart
        ) as journal:
            failed = write_scored(self.out, self.corpus, self.blocks, self.systems, journal)
        return Outcome(self.corpus.rows * len(self.systems), failed)


def language_notes(corpus: Corpus, columns: Sequence[str]) -> tuple[str, ...]:
    """Which rows are not English, of some in every part of the corpus; nothing where none is.

    Raises:
        InvalidInput: more than half of them are not.
    """
    from serve_app.text.language import other_language

    starts = range(0, corpus.rows, max(1, corpus.rows // _PARTS))
    chosen = sorted({at for start in starts for at in range(start, start + _PART)})
    (block,) = corpus.blocks(len(chosen), [at for at in chosen if at < corpus.rows])
    found = {}
    for at, row in zip(block.rows, read_rows(corpus.source, block, columns), strict=True):
        texts_of_row = (row.get(column) for column in columns)
        codes = [other_language(text) for text in texts_of_row if isinstance(text, str)]
        if any(codes):
            found[at + 1] = next(filter(None, codes))
    if not found:
        return ()
    rows = ", ".join(f"row {row}: {code}" for row, code in list(found.items())[:3])
    said = (
        f"{corpus.source.name}: {len(found)} of {block.count} rows looked at are not English "
        f"({rows}{', ...' if len(found) > 3 else ''})"
    )
    if 2 * len(found) > block.count:
        raise InvalidInput(
            f"{said}, and the metrics are for English only; translate the texts, or set "
            "LANGUAGE_CHECK=off to score them anyway",
            code="not_english",
        )
    return (f"{said}; their numbers mean nothing, see the column language",)


@contextmanager
def scored_blocks(
    out: File,
    run: Mapping[str, Any],
    blocks: Blocks,
    tasks: Sequence[Task],
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
        blocks: of the rows.
        tasks: each for all blocks. The block n of the task t is the block t * len(blocks) + n of
            the journal.
        make_engine, on_start, on_rows, on_models, restart: as in `ScoreJob.run`.

    Raises:
        InvalidInput: an earlier run does not fit, blocks are made by different models, or one
            cannot be written.
        Unavailable: not every block came back.
        PlainMedError: the engine gave up; finished blocks are kept.
    """
    with exclusive(out):
        if restart:
            discard(out)
        journal = Journal(out, run)
        journal.begin()
        every = [replace(blocks, first=at * len(blocks)) for at in range(len(tasks))]
        waiting = [one.without(journal.finished) for one in every]
        total = blocks.row_count * len(tasks)
        on_start(total - sum(one.row_count for one in waiting), total)
        engine = make_engine() if any(waiting) else None
        known = False
        for task, some in zip(tasks, waiting, strict=True):
            if engine is None or not some:
                continue
            # Closed, not left to the garbage collector: a Ray of ours stops before anything else.
            with closing(engine.run(blocks.corpus.source, some, task)) as results:
                for result in results:
                    if not known and result.models.names:
                        on_models(result.models)
                        known = True
                    journal.add(result)
                    on_rows(len(result.rows))
        missing = sum(len(one.without(journal.finished)) for one in every)
        if missing:
            raise Unavailable(
                f"{missing} blocks came back from no worker; what is finished is kept in "
                f"{journal.name}, so run it again"
            )
        yield journal
        journal.remove()
