"""Import paths that earlier documentation has shown work, and name the new place."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from serve_app.core.moved import GONE_IN, MOVED


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_import_path_is_the_new_module_and_says_so(old: str) -> None:
    program = (
        "import importlib, warnings\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        f"    module = importlib.import_module({old!r})\n"
        "told = [str(one.message) for one in caught if one.category is DeprecationWarning]\n"
        f"assert any({MOVED[old]!r} in text and {GONE_IN!r} in text for text in told), told\n"
        f"assert module is importlib.import_module({MOVED[old]!r})\n"
        f"assert module.__name__ == {MOVED[old]!r} == module.__spec__.name\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


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
