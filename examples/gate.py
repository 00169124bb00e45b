"""Fails a build whose summaries got worse: status 1 where the mean loss is certainly above MOST.

Certainly: the whole 95 % interval of the mean is. SCORED comes from `plainmed score`.

plainmed score outputs.csv --out scored.csv
python examples/gate.py scored.csv 0.5
"""

import csv
import sys
from pathlib import Path

import numpy as np

from serve_app.offline.bootstrap import intervals


def main(scored: str, most: float) -> int:
    with Path(scored).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if unscored := [row["error"] for row in rows if row["error"]]:
        print(f"{len(unscored)} of {len(rows)} rows have no score: {unscored[0]}")
        return 1
    if len(rows) < 2:
        print("an interval needs two rows at least")
        return 1
    losses = np.array([[float(row["loss"])] for row in rows])
    low, high = intervals(losses).mean[0]
    failed = low > most
    print(
        f"mean loss {losses.mean():.3f} ({low:.3f} to {high:.3f}) of {len(rows)} summaries, "
        f"at most {most:g} allowed: {'failed' if failed else 'passed'}"
    )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2])))
