"""Targets from a corpus of human pairs: what human-written summaries score.

`pairs` reads the corpus, `run` measures it, `targets_writer` makes the targets and a plot, `diff`
compares two sets of targets. `serve_app.offline.corpus` reads, measures and resumes.
"""

from serve_app.offline.calibration.pairs import Pair, read_pairs
from serve_app.offline.calibration.run import calibrate_targets, calibrateTargets

__all__ = ["Pair", "calibrateTargets", "calibrate_targets", "read_pairs"]
