"""What computes without a model loads nothing that only models need."""

from __future__ import annotations

import subprocess
import sys

import pytest

MODULES = ("app", "deployments.gateway", "deployments.loss", "deployments.metrics")


@pytest.mark.parametrize("module", MODULES)
def test_a_process_without_a_model_loads_no_torch(module: str) -> None:
    program = (
        f"import sys, serve_app.{module}\n"
        "print(*sorted({'torch', 'transformers', 'accelerate'} & set(sys.modules)))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == ""
