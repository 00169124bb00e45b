"""Runs over small corpora: prepared, run, and ended before they are finished."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from serve_app.offline.corpus import BlockResult, ScoreJob
from serve_app.offline.corpus.local_engine import LocalEngine
from serve_app.offline.corpus.reader import Block, Source
from tests.support.corpus_tools import OverlapScorer

SUFFIXES = (".csv", ".jsonl", ".parquet")


class Killed(BaseException):
    """Stands for a kill -9 between two blocks."""


class StoppingEngine(LocalEngine):
    """Ends the run before its `after`-th block."""

    def __init__(self, scorer: OverlapScorer, after: int) -> None:
        super().__init__(scorer)
        self._after = after

    def run(
        self, source: Source, blocks: Sequence[Block], task: Any
    ) -> Generator[BlockResult, None, None]:
        for number, result in enumerate(super().run(source, blocks, task)):
            if number == self._after:
                raise Killed
            yield result


def prepare(source: Path, out: Path, **options: Any) -> ScoreJob:
    return ScoreJob.prepare(source, out, **{"batch_size": 4, **options})


def run(job: ScoreJob, scorer: OverlapScorer | None = None, **options: Any) -> Any:
    engine = options.pop("engine", None) or LocalEngine(scorer or OverlapScorer())
    return job.run(lambda: engine, options.pop("scoring", {"a": 1}), **options)


def left(folder: Path, *known: str) -> list[str]:
    return sorted({path.name for path in folder.iterdir()} - set(known))
