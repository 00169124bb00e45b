"""The bounded cache: what is removed, what never is, and what is said when nothing can be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serve_app.core.errors import ConfigError
from serve_app.core.settings import load_settings
from serve_app.storage.artifacts import Downloads
from serve_app.storage.artifacts.cache import Artifact
from serve_app.storage.artifacts.eviction import Cache
from serve_app.storage.artifacts.staging import Staging, Wanted

SIZE = 100_000
VERSION = "ab12"


def cache(root: Path, room: float = 1000) -> Cache:
    """A cache that may hold `room` copies of SIZE bytes."""
    return Cache(root, room * SIZE / 1e9)


def write(staging: Staging) -> None:
    for index, file in enumerate(staging.files):
        for start, end in staging.missing(index):
            descriptor = staging.open(index)
            os.lseek(descriptor, start, os.SEEK_SET)
            os.write(descriptor, b"x" * (end - start))
            os.close(descriptor)
            staging.record(index, start, end)
        assert file.size == staging.path(index).stat().st_size


def fetch(
    root: Path, name: str, size: int = SIZE, version: str = VERSION, room: float = 1000
) -> Path:
    artifact = Artifact(cache(root, room), "s3", name, name)
    return artifact.fetch(version, [Wanted("file/a", size, "t")], write)


def let_go(root: Path, name: str, *, used: float, version: str = VERSION) -> None:
    """As if the process that uses it had ended, having used it last at `used`."""
    artifact = Artifact(cache(root), "s3", name, name)
    artifact.release(version)
    os.utime(artifact.folder / f"{version}.lease", (used, used))


HOLDER = """
import sys
from pathlib import Path
from serve_app.storage.artifacts.eviction import Cache
from serve_app.storage.artifacts.staging import Wanted
from serve_app.storage.artifacts.cache import Artifact
Artifact(Cache(Path(sys.argv[1]), 1), "s3", sys.argv[2], sys.argv[2]).fetch(
    "ab12", [Wanted("file/a", 100000, "t")], lambda staging: None)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holding() -> Iterator[Callable[[Path, str], subprocess.Popen[str]]]:
    """Starts processes that use an artifact until they are killed."""
    running: list[subprocess.Popen[str]] = []

    def start(root: Path, name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLDER, str(root), name]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_the_bound_is_a_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CACHE_DIR", str(tmp_path))
    assert Downloads.of(load_settings()).max_gb == Downloads().max_gb == 100
    monkeypatch.setenv("CACHE_MAX_GB", "2.5")
    assert Downloads.of(load_settings()).cache() == Cache(tmp_path, 2.5)
    with pytest.raises(ConfigError, match="CACHE_MAX_GB"):
        Downloads(max_gb=0)
    monkeypatch.setenv("CACHE_MAX_GB", "0")
    with pytest.raises(ConfigError, match="CACHE_MAX_GB"):
        load_settings()


def test_the_token_is_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret123")
    downloads = Downloads.of(load_settings())
    assert downloads.hf_token == "hf_secret123"
    assert "hf_secret123" not in repr(downloads)


def test_the_least_recently_used_goes_first_and_no_more_than_must(tmp_path: Path) -> None:
    places = {name: fetch(tmp_path, name) for name in ("old", "older", "new")}
    for name, used in (("old", 2000), ("older", 1000), ("new", 3000)):
        let_go(tmp_path, name, used=used)
    fetch(tmp_path, "fourth", room=3.5)
    assert {name for name, place in places.items() if place.is_dir()} == {"old", "new"}
    fetch(tmp_path, "fifth", room=2.5)
    assert not any(place.exists() for place in places.values())


def test_what_a_process_uses_is_kept_until_it_ends_however_it_ends(
    tmp_path: Path, holding: Callable[[Path, str], subprocess.Popen[str]]
) -> None:
    place = fetch(tmp_path, "served")
    let_go(tmp_path, "served", used=1000)
    replicas = [holding(tmp_path, "served") for _ in range(2)]
    for replica in replicas:
        with pytest.raises(ConfigError, match=r"running processes use served-.*CACHE_MAX_GB"):
            fetch(tmp_path, "next", room=1.5)
        assert place.is_dir()
        replica.kill()
        replica.wait()
    assert fetch(tmp_path, "next", room=1.5).is_dir()
    assert not place.exists()


def test_what_this_process_uses_is_kept_too(tmp_path: Path) -> None:
    place = fetch(tmp_path, "mine")
    with pytest.raises(ConfigError, match="CACHE_MAX_GB"):
        fetch(tmp_path, "next", room=1.5)
    assert place.is_dir()


def test_a_replaced_version_nobody_uses_makes_room_for_the_new_one(tmp_path: Path) -> None:
    old = fetch(tmp_path, "model")
    let_go(tmp_path, "model", used=1000)
    new = fetch(tmp_path, "model", version="cd34", room=1.5)
    assert new.is_dir()
    assert not old.exists()


def test_nothing_is_removed_where_that_would_not_be_enough(tmp_path: Path) -> None:
    unused = fetch(tmp_path, "unused")
    let_go(tmp_path, "unused", used=1000)
    fetch(tmp_path, "used")
    with pytest.raises(ConfigError, match="no room"):
        fetch(tmp_path, "large", size=2 * SIZE, room=2.5)
    with pytest.raises(ConfigError, match="more than the cache may hold"):
        fetch(tmp_path, "larger", size=3 * SIZE, room=2.5)
    assert unused.is_dir()


def test_an_unfinished_download_of_a_dead_process_makes_room(tmp_path: Path) -> None:
    def half(staging: Staging) -> None:
        descriptor = staging.open(0)
        os.write(descriptor, b"x" * (SIZE // 2))
        os.close(descriptor)
        staging.record(0, 0, SIZE // 2)
        raise KeyboardInterrupt

    artifact = Artifact(cache(tmp_path), "s3", "half", "half")
    with pytest.raises(KeyboardInterrupt):
        artifact.fetch(VERSION, [Wanted("file/a", SIZE, "t")], half)
    assert (artifact.folder / "partial").is_dir()
    fetch(tmp_path, "next", room=1.2)
    assert not (artifact.folder / "partial").exists()


def test_a_download_under_way_counts_with_its_whole_size(tmp_path: Path) -> None:
    refused: list[str] = []

    def meanwhile(staging: Staging) -> None:
        with pytest.raises(ConfigError, match="no room") as caught:
            fetch(tmp_path, "second", room=1.5)
        refused.append(caught.value.message)
        write(staging)

    first = Artifact(cache(tmp_path, 1.5), "s3", "first", "first")
    assert first.fetch(VERSION, [Wanted("file/a", SIZE, "t")], meanwhile).is_dir()
    assert refused
    assert not list(tmp_path.rglob("*.reserved"))


def test_a_copy_without_manifest_is_not_taken_for_one(tmp_path: Path) -> None:
    place = fetch(tmp_path, "model")
    (place / "manifest.json").unlink()  # as a remover leaves it that is killed half way
    downloaded: list[int] = []

    def again(staging: Staging) -> None:
        downloaded.append(1)
        write(staging)

    artifact = Artifact(cache(tmp_path), "s3", "model", "model")
    assert artifact.fetch(VERSION, [Wanted("file/a", SIZE, "t")], again) == place
    assert downloaded


def test_what_is_still_the_same_of_an_unfinished_download_is_kept(tmp_path: Path) -> None:
    files = [Wanted("tree/a", 10, "one"), Wanted("tree/sub/b", 10, "two"), Wanted("c", 10, "x")]
    staging = Staging(tmp_path / "partial", files)
    write(staging)
    staging.forget(2)
    staging.close()
    changed = [files[0], Wanted("tree/sub/b", 10, "three"), files[2]]
    staging = Staging(tmp_path / "partial", changed)
    assert [staging.missing(index) for index in range(3)] == [[], [(0, 10)], [(0, 10)]]
    staging.record(1, 0, 4)
    staging.record(1, 6, 8)
    staging.close()
    (journal,) = (tmp_path / "partial").glob("journal-*")
    with journal.open("ab") as file:
        file.write(b"1 8 1")  # torn
    staging = Staging(tmp_path / "partial", changed)
    assert staging.missing(1) == [(4, 6), (8, 10)]
    staging.close()
    # A file that is gone or has another size, or a broken plan, starts over.
    staging.path(1).write_bytes(b"short")
    assert Staging(tmp_path / "partial", changed).missing(1) == [(0, 10)]
    (tmp_path / "partial" / "plan.json").write_text("{")
    assert Staging(tmp_path / "partial", changed).missing(0) == [(0, 10)]
    shutil.rmtree(tmp_path / "partial")
