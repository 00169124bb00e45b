"""Every hostile file is refused by name, in little time and memory, and nothing in it is run."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz import documents
from tests.fuzz.files import all_cases
from tests.fuzz.probe import CANARY, Bomb, Case, strike
from tests.support import slow
from tests.support.command import refused
from tests.support.paths import ROOT

CASES = [case for case in all_cases() if slow.WANTED or not case.heavy]
MOST_MIB = 700
"""A MiB of file may take some memory; none of these may take what it claims."""


@pytest.fixture(scope="module")
def outcomes() -> dict[tuple[str, str], dict[str, Any]]:
    """What became of each, by loader and name."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.files", *(f"{one.loader}: {one.name}" for one in CASES)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {(one["loader"], one["name"]): one for one in found}


@pytest.mark.parametrize("case", CASES, ids=[f"{one.loader}: {one.name}" for one in CASES])
def test_a_hostile_file_is_refused_and_not_run(
    case: Case, outcomes: dict[tuple[str, str], dict[str, Any]]
) -> None:
    outcome = outcomes[case.loader, case.name]
    assert not outcome["ran"]
    if not case.says:  # a good file: else all the others could be refused for something else
        assert outcome["kind"] == "loaded", outcome
        return
    assert outcome["kind"] == "refused", outcome
    assert re.search(case.says, outcome["message"]), outcome["message"]
    assert "\n" not in outcome["message"].strip()
    assert "weights_only" not in outcome["message"], "no advice to trust the file"
    assert outcome["grown_mib"] < MOST_MIB, outcome


def test_the_bomb_is_live(tmp_path: Path) -> None:
    """A loader that trusts its file sets it off, and the probe sees that."""
    case = Case("x", "x", lambda folder: folder, lambda folder: pickle.loads(raw(folder)), "")

    def raw(folder: Path) -> bytes:
        return pickle.dumps(Bomb(folder))

    outcome = strike(case, tmp_path / "live")
    assert outcome.ran
    assert (tmp_path / "live" / CANARY).is_dir()


def test_the_probe_tells_a_file_that_takes_too_much(tmp_path: Path) -> None:
    greedy = Case("x", "x", lambda folder: folder, lambda _: len(bytes(8 << 30)), "")
    outcome = strike(greedy, tmp_path / "greedy")
    assert (outcome.kind, outcome.message[:11]) == ("crashed", "MemoryError")


def documents_of(loader: str) -> Iterator[Case]:
    for one in documents.cases():
        hostile = one.loader == loader and one.says and one.name[0] != "/"
        if hostile and (slow.WANTED or not one.heavy):
            yield one


def test_the_command_line_refuses_hostile_targets_in_one_line(tmp_path: Path) -> None:
    for number, case in enumerate(documents_of("TARGETS_FILE")):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = case.build(folder)
        message = refused("targets", "show", path)
        assert message.startswith("error: "), case.name
        assert path.name in message, case.name


def test_the_command_line_refuses_hostile_serve_configs_in_one_line(tmp_path: Path) -> None:
    for number, case in enumerate(documents_of("plainmed serve CONFIG")):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert refused("serve", case.build(folder)).startswith("error: "), case.name
