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


def test_the_middleware_of_serves_proxy_does_not_import_ray() -> None:
    # `plainmed serve` imports it before it has told Ray, by the environment, how to be closed.
    program = (
        "import sys, serve_app.serving.proxy.middleware, serve_app.serving.server\n"
        "print('ray' in sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "False"
