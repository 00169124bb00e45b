"""Scores whole corpora: reads a file, scores it block by block, resumes, writes the result.

`ScoreJob` is a run; `LocalEngine` scores in this process, `ray_engine.RayEngine` on Ray Data.
Nothing here imports Ray or torch before it is needed.
"""

from serve_app.offline.corpus.job import Engine, LocalEngine, Outcome, ScoreJob
from serve_app.offline.corpus.scoring import (
    BlockResult,
    ModelNames,
    RowError,
    RowScores,
    Scorer,
    Task,
)

__all__ = [
    "BlockResult",
    "Engine",
    "LocalEngine",
    "ModelNames",
    "Outcome",
    "RowError",
    "RowScores",
    "ScoreJob",
    "Scorer",
    "Task",
]
