"""Why a changed setting makes a second cluster: two configurations on a real Serve."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.support.paths import ROOT
from tests.support.slow import slow


@slow(40)
def test_serve_stops_an_only_replica_before_it_starts_the_next_and_scales_without_a_restart() -> (
    None
):
    done = subprocess.run(
        [sys.executable, "-m", "tests.serving.live.settings_in_place"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "RAY_ADDRESS": "local",
            "RAY_raylet_start_wait_time_s": "120",  # this machine may be busy
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # Ray logs to standard output as well.
    (found,) = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert found["in place"] == found["first"]  # what `serve-config` leaves out of its hash
    assert found["changed"] != found["first"]
    assert found["waited"] > 0  # nobody answered while the only replica was replaced
