"""Nobody else can read what a Ray of ours keeps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serve_app.core.errors import ConfigError
from serve_app.core.ray_folder import ray_folder


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    return tmp_path


def test_no_other_user_can_enter_rays_files_or_read_its_token(folders: Path) -> None:
    ray = folders / ".ray"  # as Ray itself makes it
    ray.mkdir(mode=0o755)
    made = Path(ray_folder() or "")
    for folder in (made.parent, ray):
        assert folder.parent == folders
        assert folder.stat().st_mode & 0o777 == 0o700
    made.parent.chmod(0o777)
    assert ray_folder() == str(made)
    assert made.parent.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_somebody_else_has_laid_there_is_refused(folders: Path) -> None:
    elsewhere = folders / "elsewhere"
    elsewhere.mkdir()
    trap = folders / f"plainmed-{os.getuid()}"
    trap.symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="RAY_TMPDIR"):
        ray_folder()
    trap.unlink()
    if os.getuid() == 0:
        trap.mkdir()
        os.chown(trap, 12345, 12345)
        with pytest.raises(ConfigError, match="somebody else"):
            ray_folder()


def test_a_folder_that_the_user_names_is_left_to_ray(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/elsewhere")
    assert ray_folder() is None
    assert list(folders.iterdir()) == []
