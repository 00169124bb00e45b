"""Targets from a corpus of human pairs: what human-written summaries score.

`pairs` reads the corpus, `run` measures it, `document` makes the targets of what was measured,
`bootstrap` their confidence intervals, `picture` a plot; `difference` compares two sets of
targets; `earlier` is the earlier system's call. Reading, measuring and resuming are those of
`serve_app.offline.corpus`.
"""

from serve_app.offline.calibration.legacy import calibrateTargets
from serve_app.offline.calibration.pairs import Pair, choose, read_pairs
from serve_app.offline.calibration.run import calibrate_targets

__all__ = ["Pair", "calibrateTargets", "calibrate_targets", "choose", "read_pairs"]
