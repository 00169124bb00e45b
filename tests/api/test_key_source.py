"""The keys of a file that changes while a server runs: no key outlives its file by mistake.

test_auth.py has the plain changes, tests/deploy/test_helm_keys.py those of a Kubernetes Secret.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serve_app.api.auth import key_source as source_module
from serve_app.api.auth.api_keys import KeyEntry, dump_keys, new_key
from serve_app.api.auth.key_source import KeySource
from serve_app.core.documents import read_text


def write(path: Path, *entries: KeyEntry) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(dump_keys(entries), encoding="utf-8")
    os.replace(fresh, path)


@pytest.fixture(autouse=True)
def _looked_at_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "LOOK_EVERY_S", 0.0)


def test_a_removed_key_is_dead_once_the_file_can_be_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a change by root, which the service could not read until it was given the file."""
    kept, removed = new_key(), new_key()
    path = tmp_path / "keys.json"
    write(path, kept.entry, removed.entry)
    source = KeySource(path, None)

    def refuse(*_: object) -> str:
        raise PermissionError("Permission denied")

    write(path, kept.entry)
    monkeypatch.setattr(source_module, "read_text", refuse)
    assert source.ring().find(removed.key)  # nothing better is known
    assert "cannot read API_KEYS_FILE" in caplog.text
    monkeypatch.setattr(source_module, "read_text", read_text)
    assert source.ring().find(removed.key) is None
    assert source.ring().find(kept.key)


def test_a_change_that_keeps_time_size_and_inode_is_seen(tmp_path: Path) -> None:
    """As `cp --preserve` over the file makes one: only the time of the change itself is new."""
    first, second = new_key(), new_key()
    path = tmp_path / "keys.json"
    write(path, first.entry)
    source = KeySource(path, None)
    before = path.stat()
    path.write_text(dump_keys([second.entry]), encoding="utf-8")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_mtime_ns, after.st_size, after.st_ino) == (
        before.st_mtime_ns, before.st_size, before.st_ino,
    )  # fmt: skip
    assert source.ring().find(second.key)
    assert source.ring().find(first.key) is None


def test_the_last_key_can_be_taken_back(tmp_path: Path) -> None:
    made = new_key()
    path = tmp_path / "keys.json"
    write(path, made.entry)
    source = KeySource(path, None)
    write(path)
    assert source.ring().find(made.key) is None
    write(path, made.entry)
    assert source.ring().find(made.key)
