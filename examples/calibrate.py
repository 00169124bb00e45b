"""Makes targets of human summaries of yours, and says what the loss of one becomes with them.

python examples/calibrate.py my-targets.json
"""

import sys
from pathlib import Path

from serve_app.core.settings import load_settings
from serve_app.metrics.loss import METRICS, LossFunction
from serve_app.offline.calibration import calibrate_targets

PAIRS = Path(__file__).parent / "pairs.csv"


def main(out: str) -> None:
    targets = calibrate_targets(
        PAIRS, out, split=None, original_column="original", human_column="human", progress=False
    )
    for name, mean, sigma in zip(METRICS, targets.mean, targets.sigma, strict=True):
        print(f"{name:10} {mean:6.2f} ± {sigma:.2f}")
    human = list(targets.mean)
    settings = load_settings()
    embedded, own = LossFunction.of(settings), LossFunction.of(settings, targets)
    print(f"loss of your mean human summary: {embedded([human])[0]:.3f} by the targets in use,")
    print(f"{own([human])[0]:.3f} by yours; to serve with them: TARGETS_FILE={out} plainmed serve")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "my-targets.json")
