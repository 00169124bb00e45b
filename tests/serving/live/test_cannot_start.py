"""An application that cannot start says so at once, on a real Serve: no wait, no "overloaded"."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT
from tests.support.slow import slow


@slow(60)
@pytest.mark.parametrize("broken", ["deployment", "application"])
def test_what_cannot_start_is_503_not_ready_at_once_with_the_kind_of_the_error(broken: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.serving.live.cannot_start", broken],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
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
    (found,) = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[[")]
    what = {"deployment": "Generator", "application": "the application"}[broken]
    for status, body, seconds, headers in found[:3]:
        assert status == 503
        assert body["error"]["code"] == "not_ready"
        assert body["error"]["message"].startswith(f"{what} cannot start (ConfigError);")
        assert int(headers["retry-after"]) >= 1
        assert seconds < 10  # a request may take 60
    status, body, _, _ = found[3]
    assert status == 503
    said = body["failures"][0] if broken == "deployment" else body["error"]["message"]
    assert said.startswith(f"{what} cannot start (ConfigError);")
