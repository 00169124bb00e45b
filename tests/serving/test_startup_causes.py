"""What `plainmed serve` prints where its application does not start: causes, in a few lines."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from serve_app.cli.demo import free_port
from serve_app.core.errors import ConfigError
from serve_app.serving.server import CAUSE_CHARS, startup_causes
from tests.support.paths import ROOT


def failing(error: Exception) -> str:
    """What Serve 2.60 says about a deployment whose replica raised `error` at its start."""
    return f"""\
The deployment failed to start 3 times in a row. This may be due to a problem with its constructor \
or initial health check failing. See controller logs for details. Error:
\x1b[36mray::ServeReplica:plainmed:Generator.initialize_and_get_metadata()\x1b[39m (pid=2056, ip=x)
  File "ray/serve/_private/replica.py", line 3521, in initialize_and_get_metadata
    await self._replica_impl.initialize(deployment_config, rank, gang_context)
  File "ray/serve/_private/replica.py", line 1928, in initialize
    raise RuntimeError(traceback.format_exc()) from None
RuntimeError: Traceback (most recent call last):
  File "ray/serve/_private/replica.py", line 1867, in initialize
    await self._user_callable_wrapper.initialize_callable()
  File "serve_app/storage/artifacts/resolve.py", line 125, in resolve
    raise an_error
{type(error).__module__.removeprefix("builtins")}.{type(error).__name__}: {error}
""".replace("\n.", "\n")


NO_MODEL = ConfigError("MODEL_PATH: there is no /models/x; give a folder")


def test_each_cause_is_a_line_with_its_deployment() -> None:
    messages = {"Gateway": "", "Generator": failing(NO_MODEL), "Loss": "Updating"}
    messages[""] = "Failed to update the deployments ['Generator']."
    (line,) = startup_causes(messages)
    assert line == "Generator: ConfigError: MODEL_PATH: there is no /models/x; give a folder"


def test_a_cause_of_several_deployments_is_said_once() -> None:
    messages = dict.fromkeys(("Relevance", "Factuality"), failing(NO_MODEL))
    (line,) = startup_causes(messages)
    assert line.startswith("Relevance, Factuality: ConfigError: MODEL_PATH")


def test_an_application_that_is_not_built_needs_no_deployments_name() -> None:
    assert startup_causes({"": failing(KeyError("x"))}) == ["KeyError: 'x'"]


@pytest.mark.parametrize("count", [1, 3, 4, 6])
def test_however_much_is_wrong_it_is_three_short_lines_at_most(count: int) -> None:
    messages = {f"D{n}": failing(ConfigError(f"{n} " + "word\n" * 1000)) for n in range(count)}
    lines = startup_causes(messages)
    assert len(lines) == min(count, 3)
    assert all(len(line) <= CAUSE_CHARS + 20 and "\n" not in line for line in lines)
    assert (f"and {count - 2} more" in lines) == (count > 3)


def test_without_a_traceback_serves_own_words_are_said() -> None:
    messages = {"Generator": "", "": "no room for\n4 CPUs"}
    assert startup_causes(messages) == ["no room for 4 CPUs"]


NO_RAY = """
import sys
import ray
from serve_app.serving import server

def init(*arguments, **options):
    raise Exception("The current node timed out during startup.\\n" + "more\\n" * 50)

ray.init = init
sys.exit(server.serve(None, port=int(sys.argv[1])))
"""


def test_a_ray_that_does_not_start_is_two_lines_and_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_RAY, str(free_port())],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": "local"},
    )
    assert done.returncode == 1
    first, second = (line for line in done.stderr.splitlines() if not line.startswith("warning: "))
    assert (
        first == "error: Ray did not start: Exception: The current node timed out during startup."
    )
    assert "plainmed doctor" in second
