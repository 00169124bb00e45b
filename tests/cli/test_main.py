"""The `plainmed` command itself: its help, its settings, what it refuses at once."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from serve_app import __version__
from serve_app.cli.main import _for_terminal
from serve_app.core.settings import Settings
from tests.support.command import plainmed, refused

HEAVY = {"boto3", "fastapi", "httpx", "kubernetes", "numpy", "ray", "torch", "transformers"}


def test_help_names_every_command() -> None:
    shown = plainmed("--help").stdout
    for command in ("serve", "score", "generate", "demo", "calibrate", "settings", "version"):
        assert command in shown


@pytest.mark.parametrize(
    "program",
    [
        "import serve_app",
        "from typer.testing import CliRunner\nfrom serve_app.cli.main import app\n"
        "for words in ('', 'serve', 'score', 'generate', 'demo', 'status', 'keys new', 'ops'):\n"
        "    assert CliRunner().invoke(app, [*words.split(), '--help']).exit_code == 0",
    ],
    ids=["the package", "the help"],
)
def test_no_heavy_library_is_imported_by(program: str) -> None:
    code = f"{program}\nimport sys\nprint(*sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def cpu_s(*arguments: str) -> float:
    """Least processor time of three runs of Python, in seconds."""
    seconds = []
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        after = os.times()
        seconds.append(sum(after[2:4]) - sum(before[2:4]))
    return min(seconds)


def test_help_answers_at_once() -> None:
    """Half a second where Python itself starts in 20 ms; torch alone takes three times that."""
    if os.getloadavg()[0] > 2 * (os.cpu_count() or 1):
        pytest.skip("the machine is busy, so its times say nothing")
    assert cpu_s("-m", "serve_app.cli", "--help") < 25 * cpu_s("-c", "pass")


@pytest.mark.parametrize("words", ["version", "--version"])
def test_version(words: str) -> None:
    shown = plainmed(words)
    assert shown.exit_code == 0
    assert shown.stdout == f"plainmed {__version__}\n"


@pytest.mark.parametrize(
    ("shell", "words", "offered"),
    [("bash", "plainmed eva", "evaluate"), ("bash", "plainmed keys ", "new list remove")],
)
def test_the_shell_completes_commands(shell: str, words: str, offered: str) -> None:
    """As the script that --install-completion writes asks for it."""
    environment = {
        **os.environ,
        "_PLAINMED_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    code = "import sys; sys.argv = ['plainmed']; from serve_app.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert done.stdout.split() == offered.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_shown(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: shell)
    shown = plainmed("--show-completion")
    assert shown.exit_code == 0
    assert "_PLAINMED_COMPLETE" in shown.stdout


def test_settings_lists_every_setting_with_default_and_meaning() -> None:
    rows = plainmed("settings", "--markdown").stdout.splitlines()[2:]
    assert len(rows) == len(Settings.model_fields)
    for row, (name, info) in zip(rows, Settings.model_fields.items(), strict=True):
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        assert len(cells) == 4
        assert cells[0] == f"`{name.upper()}`"
        default = info.default.strip() if isinstance(info.default, str) else info.default
        shown = "unset" if default in (None, "") else str(default)
        assert cells[2].strip("`").removesuffix(r"\n\n") == shown
        assert cells[3]
    assert "two_sided, one_sided" in next(row for row in rows if "LOSS_DIRECTION" in row)


def test_the_settings_table_prints_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "very-secret")
    shown = plainmed("settings").stdout
    assert "HF_TOKEN" in shown
    assert "very-secret" not in shown


def test_a_bad_setting_is_one_line_and_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serve_app.cli", "serve"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TOP_P": "7"},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: bad settings: TOP_P")
    assert len(done.stderr.splitlines()) == 1


def test_serve_refuses_what_it_cannot_serve(tmp_path: Path) -> None:
    assert "'loss' is not one of metrics, generator" in refused("serve", "--services", "loss")
    assert "missing.yaml" in refused("serve", tmp_path / "missing.yaml")


def test_a_systemd_unit_ends_the_main_process_alone_and_waits_for_the_drain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd's default, SIGTERM to every process, would end Ray in the middle of the drain."""
    monkeypatch.setenv("DRAIN_TIMEOUT_S", "100")
    config = tmp_path / "50% of $it.yaml"
    config.write_text("applications: [{import_path: 'serve_app.app:build'}]\n")
    shown = plainmed("serve", config, "--services", "metrics", "--port", 9001, "--systemd")
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    assert "KillMode=mixed" in lines
    (stop,) = (line for line in lines if line.startswith("TimeoutStopSec="))
    assert int(stop.partition("=")[2]) > 100
    (run,) = (line for line in lines if line.startswith("ExecStart="))
    assert run.endswith(f'"--port" "9001" "--services" "metrics" "{tmp_path}/50%% of $$it.yaml"')
    assert "--systemd" not in run
    if analyze := shutil.which("systemd-analyze"):
        unit = tmp_path / "plainmed.service"
        unit.write_text(shown.stdout)
        done = subprocess.run(
            [analyze, "verify", unit], capture_output=True, text=True, check=False
        )
        assert str(unit) not in done.stderr
        assert "plainmed.service" not in done.stderr


def test_a_systemd_unit_of_what_cannot_be_served_is_refused(tmp_path: Path) -> None:
    assert "missing.yaml" in refused("serve", tmp_path / "missing.yaml", "--systemd")


ESCAPE = "\x1b[2J\x9b31m"


def test_a_summary_cannot_steer_the_terminal_and_is_unchanged_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = f"Aspirin{ESCAPE}\nhelps."
    assert _for_terminal(text) == text
    monkeypatch.setattr("sys.stdout", SimpleNamespace(isatty=lambda: True))
    assert _for_terminal(text) == "Aspirin\\x1b[2J\\x9b31m\nhelps."
