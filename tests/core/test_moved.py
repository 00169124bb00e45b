"""Import paths that earlier documentation has shown work, and name the new place."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from typing import Any

import pytest

from serve_app.core.moved import GONE_IN, MOVED

_PROGRAM = """
import importlib, json, sys, warnings
found = {}
for old, new in json.loads(sys.argv[1]).items():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module = importlib.import_module(old)
    told = [str(one.message) for one in caught if one.category is DeprecationWarning]
    same = module is importlib.import_module(new)
    found[old] = [same, module.__name__, module.__spec__.name, told]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def imported() -> dict[str, Any]:
    """What each old import path gave, all of them in one process of their own."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, json.dumps(MOVED)],
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_import_path_is_the_new_module_and_says_so(old: str, imported: Any) -> None:
    same, name, spec, told = imported[old]
    assert same
    assert name == spec == MOVED[old]
    assert any(MOVED[old] in text and GONE_IN in text for text in told)


def test_the_warning_points_at_the_line_of_the_user(tmp_path) -> None:
    script = tmp_path / "users.py"
    script.write_text("\n\nfrom serve_app.settings import load_settings\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "default", script], capture_output=True, text=True, check=True
    )
    assert f"{script}:3: DeprecationWarning: serve_app.settings is now" in done.stderr


def test_a_module_below_an_old_package_is_the_one_module_there_is() -> None:
    with pytest.warns(DeprecationWarning, match="offline.corpus.job"):
        old = importlib.import_module("serve_app.corpus.job")
    assert old is importlib.import_module("serve_app.offline.corpus.job")


def test_a_name_that_never_was_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("serve_app.no_such_module")
