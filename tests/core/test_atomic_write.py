"""What is written takes its name whole, or what was there before stays."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from serve_app.core.atomic_write import atomic_folder, atomic_write, write_text


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_takes_its_name_at_the_end_and_leaves_nothing_beside(tmp_path: Path) -> None:
    target = tmp_path / "targets.json"
    write_text(target, "old")
    with atomic_write(target) as file:
        file.write("new, é".encode())
        assert target.read_text() == "old"
    assert target.read_text(encoding="utf-8") == "new, é"
    assert [path.name for path in tmp_path.iterdir()] == ["targets.json"]


def fail_half_way(root: Path) -> None:
    with atomic_write(root / "file") as file, atomic_folder(root / "folder") as folder:
        file.write(b"half")
        (folder / "new").touch()
        raise KeyboardInterrupt


def test_a_failure_keeps_what_was_there(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "old").touch()
    with pytest.raises(KeyboardInterrupt):
        fail_half_way(tmp_path)
    assert (tmp_path / "file").read_text() == "old"
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert found == ["file", "folder", "folder/old"]


def test_a_folder_replaces_the_one_before_and_what_a_killed_process_left(tmp_path: Path) -> None:
    (tmp_path / "model.partial").mkdir()
    (tmp_path / "model.partial" / "of a killed process").touch()
    for name in ("one", "two"):
        with atomic_folder(tmp_path / "model") as folder:
            (folder / name).touch()
        assert [path.name for path in (tmp_path / "model").iterdir()] == [name]


def test_two_writers_at_once_never_mix(tmp_path: Path) -> None:
    barrier = threading.Barrier(2)

    def write(text: bytes) -> None:
        with atomic_write(tmp_path / "x") as file:
            file.write(text)
            barrier.wait(60)
            file.write(text)

    threads = [threading.Thread(target=write, args=(text,)) for text in (b"aa", b"bb")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "x").read_bytes() in (b"aaaa", b"bbbb")


def test_a_private_file_is_for_its_owner_and_a_replaced_one_keeps_its_mode(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_text(tmp_path / "plain", "")
        write_text(tmp_path / "keys", "", private=True)
    finally:
        os.umask(before)
    assert (mode(tmp_path / "plain"), mode(tmp_path / "keys")) == (0o644, 0o600)
    (tmp_path / "keys").chmod(0o640)
    write_text(tmp_path / "keys", "more", private=True)
    assert mode(tmp_path / "keys") == 0o640
