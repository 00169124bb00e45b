"""The locks that images are installed from: every file by its hash, the versions everybody has."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from lock import LOCKS, ONLY_CUDA, ROOT, Lock, entries, requirements, resolved, versions
from packaging.requirements import Requirement

from tests.support import slow

HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}\b")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def constrained(file: str) -> dict[str, str]:
    """Versions by normal name."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if "==" in line)
    return {normal(name): version for name, version in pairs}


def text_of(lock: Lock) -> str:
    return lock.path.read_text(encoding="utf-8")


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_package_has_one_version_and_a_hash(lock: Lock) -> None:
    found = entries(text_of(lock))
    assert len(found) > 100
    assert len(versions(text_of(lock))) == len(found)  # each once, each `name==version`
    for entry in found:
        first, *rest = entry.replace("\\\n", " ").split()
        assert "==" in first
        assert rest
        assert all(HASH.fullmatch(part) for part in rest), entry


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_the_lock_has_the_versions_that_are_tested(lock: Lock) -> None:
    ours = constrained(lock.constraints)
    locked = versions(text_of(lock))
    differ = {name for name, version in locked.items() if ours.get(name, version) != version}
    assert differ == set()
    # What is tested names all of it but what torch's CUDA build brings, and setuptools.
    unnamed = {name for name in locked if name not in ours and not ONLY_CUDA.match(f"{name}==")}
    assert unnamed <= {"setuptools"}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_the_lock_has_what_the_project_asks_for(lock: Lock) -> None:
    locked = versions(text_of(lock))
    for requirement in map(Requirement, requirements(lock)):
        name = normal(requirement.name)
        if name == "torch" and not lock.cuda:
            assert name not in locked  # comes from an index of its own
            continue
        assert requirement.specifier.contains(locked[name]), requirement


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_the_lock_is_made_of_what_is_asked_for_now(lock: Lock) -> None:
    """Of any change of pyproject.toml or the constraints; then run: python scripts/lock.py."""
    assert text_of(lock).startswith(lock.head())


def test_a_changed_requirement_or_version_makes_a_lock_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (lock, *_), now = LOCKS, LOCKS[0].head()
    names = ("pyproject.toml", lock.constraints)
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in names}
    monkeypatch.setattr("lock.ROOT", tmp_path)
    for changed in ("", *names):
        for name, text in texts.items():
            more = text.replace("httpx>=0.28", "httpx>=0.29").replace("httpx==", "httpx==1")
            (tmp_path / name).write_text(more if name == changed else text, encoding="utf-8")
        assert (lock.head() == now) == (changed == "")


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_made_again_it_is_the_same(lock: Lock, monkeypatch: pytest.MonkeyPatch) -> None:
    """From what uv has kept, where that is enough; `make test-slow` asks the package index."""
    if not slow.WANTED:
        monkeypatch.setenv("UV_OFFLINE", "1")
    try:
        again = resolved(lock)
    except subprocess.CalledProcessError:
        if slow.WANTED:
            raise
        pytest.skip("uv has not kept all that is needed: PLAINMED_SLOW_TESTS=1 asks the index")
    assert again == text_of(lock)


def test_only_the_cpu_lock_is_free_of_cuda() -> None:
    cuda = {
        lock.name: [n for n in versions(text_of(lock)) if ONLY_CUDA.match(f"{n}==")]
        for lock in LOCKS
    }
    assert cuda.pop("requirements.lock") == []
    assert all({"torch", "triton"} <= set(names) for names in cuda.values())
