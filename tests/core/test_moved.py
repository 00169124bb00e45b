"""Import paths that earlier documentation has shown work, and name the new place."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from serve_app.core.moved import GONE_IN, MOVED


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_import_path_is_the_new_module_and_says_so(
    old: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, old, raising=False)  # as where nothing has imported it
    with pytest.warns(DeprecationWarning, match=f"{MOVED[old]};.*{GONE_IN}"):
        module = importlib.import_module(old)
    assert module is importlib.import_module(MOVED[old])
    assert module.__spec__ is not None
    assert module.__name__ == module.__spec__.name == MOVED[old]


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
