"""Scores whole corpora: reads, scores block by block, resumes, writes.

`ScoreJob` is the run; a `LocalEngine` scores in this process, a `RayEngine` on Ray Data. Nothing
here imports Ray or torch before it is needed.
"""

from serve_app.offline.corpus.job import Engine, Outcome, ScoreJob
from serve_app.offline.corpus.scoring import BlockResult, Models, RowError, Scorer, Scores, Task

__all__ = [
    "BlockResult",
    "Engine",
    "Models",
    "Outcome",
    "RowError",
    "ScoreJob",
    "Scorer",
    "Scores",
    "Task",
]
