"""RowScores whole corpora: reads, scores block by block, resumes, writes.

`ScoreJob` is the run; a `LocalEngine` scores in this process, a `RayEngine` on Ray Data. Nothing
here imports Ray or torch before it is needed.
"""

from serve_app.offline.corpus.job import Engine, Outcome, ScoreJob
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
    "ModelNames",
    "Outcome",
    "RowError",
    "RowScores",
    "ScoreJob",
    "Scorer",
    "Task",
]
