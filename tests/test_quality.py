"""The code is clean, and so is the repository."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.paths import ROOT


@pytest.mark.parametrize(
    "command", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]], ids=" ".join
)
def test_code_is_clean(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_file_over_ten_mebibytes_is_tracked() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert files
    too_big = [file.name for file in files if file.is_file() and file.stat().st_size > 10 * 2**20]
    assert not too_big


def test_the_settings_page_is_what_the_command_prints() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "serve_app.cli", "settings", "--markdown"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page.endswith(printed)
