"""`plainmed keys`: keys are made, listed and removed in a file nobody else can read."""

from __future__ import annotations

import stat
from pathlib import Path

from typer.testing import CliRunner

from serve_app.access.source import KeySource
from serve_app.cli import app

RUNNER = CliRunner()


def run(*arguments: str) -> tuple[int, str, str]:
    result = RUNNER.invoke(app, ["keys", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_a_key_is_made_used_listed_and_removed(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    code, printed, _ = run("new", str(file), "--name", "clinic", "--days", "30")
    assert code == 0
    first = printed.strip()
    code, printed, _ = run("new", str(file), "--service", "metrics", "--requests-per-minute", "60")
    second = printed.strip()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert first not in file.read_text()

    entry = KeySource(file, None).ring().find(first)
    assert entry is not None
    assert entry.expires is not None
    code, listed, _ = run("list", str(file))
    assert code == 0
    assert "clinic" in listed
    assert first not in listed

    assert run("remove", str(file), entry.id)[0] == 0
    ring = KeySource(file, None).ring()
    assert ring.find(first) is None
    assert ring.find(second) is not None


def test_mistakes_are_one_line_and_change_nothing(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    assert run("new", str(file))[0] == 0
    before = file.read_bytes()
    for arguments in (
        ("remove", str(file), "000000000000"),
        ("new", str(file), "--service", "everything"),
        ("list", str(tmp_path / "missing.json")),
        ("new", str(tmp_path / "no" / "folder.json")),
    ):
        code, _, said = run(*arguments)
        assert code == 2, arguments
        assert said.startswith("error: ")
    assert file.read_bytes() == before
    file.write_text("not JSON")
    assert run("new", str(file))[0] == 2
    assert file.read_text() == "not JSON"
