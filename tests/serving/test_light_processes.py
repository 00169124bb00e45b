"""What computes without a model loads nothing that only models need."""

from __future__ import annotations

import subprocess
import sys


def test_processes_without_a_model_load_no_torch() -> None:
    program = (
        "import sys\n"
        "import serve_app.app, serve_app.serving.deployments.loss\n"
        "import serve_app.serving.deployments.metrics\n"
        "print(*sorted({'torch', 'transformers', 'accelerate'} & set(sys.modules)))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == ""
