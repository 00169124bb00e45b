"""`plainmed keys`: keys are made, listed and removed in a file nobody else can read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serve_app.api.auth.api_keys import parse_keys
from serve_app.api.auth.key_source import KeySource
from serve_app.cli.main import app

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


def test_a_changed_file_keeps_its_mode(tmp_path: Path) -> None:
    """Or a server that reads it as another user would no longer see that a key is gone."""
    file = tmp_path / "keys.json"
    assert run("new", str(file))[0] == 0
    file.chmod(0o640)
    assert run("new", str(file))[0] == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file to somebody else")
def test_what_root_changes_still_belongs_to_the_service(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    assert run("new", str(file))[0] == 0
    os.chown(file, 1000, 1001)
    identity = parse_keys(file.read_text(), "keys")[0].id
    assert run("new", str(file))[0] == 0
    assert run("remove", str(file), identity)[0] == 0
    found = file.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1000, 1001, 0o600)


def test_a_file_whose_owner_cannot_be_kept_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError("not yours to give")

    file = tmp_path / "keys.json"
    assert run("new", str(file))[0] == 0
    before = file.read_bytes()
    monkeypatch.setattr(os, "fchown", refuse)
    code, _, said = run("new", str(file))
    assert code == 2
    assert said.startswith("error: cannot write")
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]
