"""Runs corpus_cluster_cases.py in a process of its own.

Ray ends a driver at once, without a word, when the raylet beside it dies, as it may on a machine
too busy to start a cluster in time. That must be one failed test with its log, not the end of
all of them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.slow import slow

CASES = Path(__file__).with_name("corpus_cluster_cases.py")


@slow(65)
@pytest.mark.parametrize(
    "case",
    [
        "every_row_is_there_once_after_a_node_was_killed",
        "the_same_numbers or goes_on_there or without_models",
    ],
)
def test_a_corpus_is_scored_once_on_a_cluster(case: str) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", case]
    done = subprocess.run([*command, str(CASES)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert f"{1 + case.count(' or ')} passed" in done.stdout, done.stdout
