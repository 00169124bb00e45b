"""Scores blocks one after the other in this process."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from serve_app.offline.corpus.reader import Block, Source, read_rows
from serve_app.offline.corpus.scoring import BlockResult, Scorer, Task, score_block, texts


class LocalEngine:
    """An `Engine` of one scorer: the models of this process, or a server."""

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
