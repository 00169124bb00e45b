"""References to local paths, the download cache, and hf:// against a small hub on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serve_app.core.errors import ConfigError
from serve_app.storage.artifacts import Downloads, resolve
from serve_app.storage.artifacts.cache import Artifact, cache_root, safe_relative
from serve_app.storage.artifacts.eviction import Cache
from serve_app.storage.artifacts.staging import Staging, Wanted
from tests.support.artifact_servers import FILES, Hub, contents, numbered, serving


def fetch(reference: str, cache: Path) -> Path:
    return resolve(reference, Downloads(str(cache)))


# --- local and malformed references ----------------------------------------------------------


def test_local_and_embedded_references(tmp_path: Path) -> None:
    assert resolve(str(tmp_path)) == tmp_path
    assert (resolve("embedded:all-MiniLM-L6-v2") / "config.json").is_file()


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "  ",
        "s3://",
        "s3://bucket",
        "s3://bucket/",
        "s3:///key",
        "s3://_/key",
        "hf://",
        "hf://name",
        "hf://org/name@",
        "hf://org/name/more",
        "hf://org/../name",
        "gs://bucket/key",
        "https://example.org/model",
        "embedded:nothing",
        "no/such/folder",
        "nul\0byte",
    ],
)
def test_a_malformed_or_missing_reference_is_named(reference: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        fetch(reference, tmp_path)
    named = reference.removeprefix("embedded:").strip() or "empty"
    assert repr(named).strip("'") in caught.value.message
    assert not contents(tmp_path)


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/.", "a\\b", "C:/x", "a\0b"]
)
def test_names_that_leave_the_folder_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"safe|drive"):
        safe_relative(name)


def test_the_cache_is_where_the_platform_keeps_caches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root(None) == tmp_path / "xdg" / "plainmed"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_root(None) == tmp_path / "home" / ".cache" / "plainmed"
    assert cache_root(str(tmp_path / "own")) == tmp_path / "own"
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="CACHE_DIR"):
        cache_root(str(tmp_path / "file" / "below"))


# --- the cache ---


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    artifact = Artifact(Downloads(str(tmp_path)).cache(), "s3", "x", "x")

    def fill(staging: Staging) -> None:
        staging.path(0).write_bytes(b"half")
        with open("/dev/full", "wb", buffering=0) as full:  # the kernel's own ENOSPC
            full.write(b"x")

    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(ConfigError, match="no space left"):
        artifact.fetch("ab12", [Wanted("a", 4, "t")], fill)
    assert artifact.complete("ab12") is None
    assert not list(tmp_path.rglob("partial"))


def test_a_file_that_was_not_written_whole_is_refused(tmp_path: Path) -> None:
    artifact = Artifact(Downloads(str(tmp_path)).cache(), "s3", "x", "x")
    with pytest.raises(ConfigError, match="should have 9 bytes and came out with 4"):
        artifact.fetch("ab12", [Wanted("a", 9, "t")], lambda staging: staging.record(0, 0, 4))
    assert artifact.complete("ab12") is None


# --- the hub -------------------------------------------------------------------------------


def hub_resolve(references: list[str], cache: Path, **environment: str) -> list[str]:
    """Resolves in a process of its own: huggingface_hub reads its environment at import.

    TEST_TOKEN, where given, is passed as the token, and else `hf_secret123`. One line a
    reference: the path, or `ConfigError: ` and the message.
    """
    code = (
        "import os, sys\n"
        "from serve_app.storage.artifacts import Downloads, resolve\n"
        "from serve_app.core.errors import ConfigError\n"
        "token = os.environ.get('TEST_TOKEN', 'hf_secret123')\n"
        "bound = float(os.environ.get('TEST_BOUND_GB', '100'))\n"
        "downloads = Downloads(sys.argv[1], bound, token or None)\n"
        "for reference in sys.argv[2:]:\n"
        "    try:\n"
        "        print(resolve(reference, downloads))\n"
        "    except ConfigError as error:\n"
        "        print('ConfigError:', error.message.replace(chr(10), ' '))\n"
    )
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    done = subprocess.run(
        [sys.executable, "-c", code, str(cache), *references],
        env={**variables, "HF_HUB_DISABLE_TELEMETRY": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "hf_secret123" not in done.stdout + done.stderr
    return done.stdout.splitlines()


def test_a_hub_snapshot_is_fetched_once_and_works_offline_then(tmp_path: Path) -> None:
    handler = type("Recording", (Hub,), {"downloads": [], "tokens": []})
    with serving(handler) as url:
        found = hub_resolve(
            [
                "hf://org/tiny",
                "hf://org/tiny@v1",
                "hf://org/tiny@nope",
                "hf://org/absent",
                "hf://org/gated",
            ],
            tmp_path,
            HF_ENDPOINT=url,
        )
    assert contents(Path(found[0])) == FILES
    assert found[1] == found[0]
    assert sorted(handler.downloads) == sorted(FILES)
    assert set(handler.tokens) == {"Bearer hf_secret123"}
    assert "has no revision 'nope'" in found[2]
    assert "no repository org/absent" in found[3]
    assert "org/gated is gated; accept its terms" in found[4]
    # The server is gone: the complete snapshot is used, an absent one is an error.
    assert hub_resolve(["hf://org/tiny"], tmp_path, HF_HUB_OFFLINE="1") == [found[0]]
    (gone,) = hub_resolve(["hf://org/other"], tmp_path, HF_ENDPOINT=url)
    assert "cannot be reached" in gone
    (offline,) = hub_resolve(["hf://org/other"], tmp_path, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE" in offline


def test_a_hub_file_goes_on_where_the_line_broke_and_finished_ones_are_kept(
    tmp_path: Path,
) -> None:
    files = {"config.json": b"{}", "model.safetensors": numbered(24 * 2**20)}
    state: dict[str, Any] = {"downloads": [], "tokens": [], "ranges": [], "cut": 1, "files": files}
    handler = type("Breaking", (Hub,), state)
    with serving(handler) as url:
        (found,) = hub_resolve(["hf://org/tiny"], tmp_path, HF_ENDPOINT=url)
    assert contents(Path(found)) == files
    starts = [start for name, start in handler.ranges if name == "model.safetensors"]
    assert starts == [0, 10 * 2**20]  # huggingface_hub keeps whole blocks of 10 MiB
    # A killed process leaves whole files and one unfinished: only that one is fetched.
    blob = (Path(found) / "model.safetensors").resolve()
    blob.rename(blob.with_name(f"{blob.name}.0123abcd.incomplete"))
    handler.downloads.clear()
    with serving(handler) as url:
        hub_resolve(["hf://org/tiny"], tmp_path, HF_ENDPOINT=url)
    assert handler.downloads == ["model.safetensors"]
    assert not list(tmp_path.rglob("*.incomplete"))


def test_a_hub_model_nobody_uses_makes_room_and_the_bound_holds_for_it(tmp_path: Path) -> None:
    handler = type("Recording", (Hub,), {"downloads": [], "tokens": []})
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "token").write_text("hf_of_an_earlier_login")
    options = {"TEST_TOKEN": "", "HF_HOME": str(tmp_path / "home")}
    with serving(handler) as url:
        (found,) = hub_resolve(["hf://org/tiny"], tmp_path, HF_ENDPOINT=url, **options)
    assert set(handler.tokens) == {""}  # only the token that is given is ever sent
    files = [Wanted("file/a", 200_000, "t")]
    fetched = Artifact(Cache(tmp_path, 400_000 / 1e9), "s3", "x", "x").fetch(
        "ab12", files, lambda staging: staging.record(0, 0, 200_000)
    )
    assert fetched.is_dir()
    assert not Path(found).exists()
    with serving(handler) as url:
        (refused,) = hub_resolve(
            ["hf://org/tiny"], tmp_path / "b", HF_ENDPOINT=url, TEST_BOUND_GB="1e-4"
        )
    assert "CACHE_MAX_GB" in refused
    assert "org--tiny" in refused
