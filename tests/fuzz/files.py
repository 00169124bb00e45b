"""Runs every hostile file against its loader; `python -m tests.fuzz.files` prints JSON lines.

A process of its own, and with one thread: it forks for each case.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

# Before torch is imported.
os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

from tests.fuzz import documents, weight_cases
from tests.fuzz.probe import Case, Outcome, strike


def all_cases() -> list[Case]:
    """Those of weights and those of documents."""
    return [*weight_cases.cases(), *documents.cases()]


def run(cases: list[Case]) -> Iterator[tuple[Case, Outcome]]:
    """Each case and what became of it."""
    with TemporaryDirectory(prefix="plainmed-fuzz-") as folder:
        for number, case in enumerate(cases):
            yield case, strike(case, Path(folder) / str(number))


def main() -> int:
    """Prints them; arguments choose cases by a part of `LOADER: NAME`."""
    chosen = [
        case
        for case in all_cases()
        if not sys.argv[1:] or any(part in f"{case.loader}: {case.name}" for part in sys.argv[1:])
    ]
    for case, outcome in run(chosen):
        print(json.dumps({"loader": case.loader, "name": case.name, **asdict(outcome)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
