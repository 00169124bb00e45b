"""The `plainmed` command itself: its help, its settings, what it refuses at once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app import __version__
from serve_app.core.settings import Settings
from tests.support.command import plainmed, refused


def test_help_names_every_command_and_answers_at_once() -> None:
    usage = os.times().children_user
    shown = subprocess.run(
        [sys.executable, "-m", "serve_app.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for command in ("serve", "score", "generate", "demo", "calibrate", "settings", "version"):
        assert command in shown
    # Processor time, since the machine may be busy with something else.
    assert os.times().children_user - usage < 1.0


def test_help_imports_no_model_library() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom serve_app.cli.main import app\n"
        "assert CliRunner().invoke(app, ['score', '--help']).exit_code == 0\n"
        "print(*sorted({'torch', 'ray', 'transformers', 'fastapi', 'httpx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_version() -> None:
    assert plainmed("version").stdout == f"plainmed {__version__}\n"


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
