"""Fetches `hf://org/name[@revision]` with huggingface_hub into the cache. Knows no model.

huggingface_hub keeps its own layout under `hub/` there: blobs written beside and renamed,
a snapshot folder a commit; it goes on where a connection broke, and skips the files a killed
process had finished. The token is never part of a message.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock
from huggingface_hub import snapshot_download
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from serve_app.core.errors import ConfigError
from serve_app.storage.artifacts import leases
from serve_app.storage.artifacts.eviction import Cache, disk_usage, reserved

_REFERENCE = re.compile(
    r"hf://(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?"
)
# Copies of the weights for other frameworks, as large as the ones we read.
_IGNORED = ["original/*", "onnx/*", "openvino/*", "*.onnx", "*.h5", "*.msgpack", "*.gguf"]


def fetch_hub(reference: str, cache: Cache, token: str | None) -> Path:
    """The directory of a snapshot of a model repository.

    A branch is looked up at each call; a commit hash needs no look-up once it is here. Where
    the hub cannot be reached, the snapshot fetched last is used if it is complete.

    Args:
        reference: `hf://org/name`, or with `@` and a branch, tag or commit.
        cache: where it is kept.
        token: for private and gated repositories; None: none is sent, not even one that
            `hf auth login` left on this machine.

    Raises:
        ConfigError: the reference is malformed, there is no such repository or revision, it
            is gated, or the hub cannot be reached; says what to do.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None or ".." in reference:
        raise ConfigError(
            f"{reference!r} is not a Hugging Face reference; write hf://ORG/NAME or "
            "hf://ORG/NAME@REVISION"
        )
    repo, revision = match["repo"], match["revision"]
    folder = cache.root / "hub"
    name = repo.replace("/", "--")
    fetch = partial(
        snapshot_download,
        repo,
        revision=revision,
        cache_dir=folder,
        token=token or False,
        ignore_patterns=_IGNORED,
    )
    lease, new = folder / f"{name}.lease", False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        new = leases.hold(lease)  # from here on nobody removes the repository's folder
        with FileLock(folder / f"{name}.lock") as lock:
            return _fetch(fetch, cache, folder / f"models--{name}", Path(lock.lock_file))
    except ConfigError:
        if new:
            leases.release(lease)
        raise
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        if new:
            leases.release(lease)
        cause = _cause(error, repo, revision)
        if token:
            cause = cause.replace(token, "***")
        raise ConfigError(f"cannot fetch {reference}: {cause}") from None


def _fetch(fetch: Callable[..., Any], cache: Cache, target: Path, lock: Path) -> Path:
    """Downloads into `target` what it lacks, with room made for it; the lock is held."""
    for orphan in target.glob("blobs/*.incomplete"):  # of a process that was killed
        orphan.unlink(missing_ok=True)
    coming = 0
    if not HF_HUB_OFFLINE:
        try:
            coming = sum(file.file_size for file in fetch(dry_run=True) if file.will_download)
        except (HfHubHTTPError, OSError):
            return Path(fetch())  # the snapshot fetched last where there is one, else the error
    if not coming:
        return Path(fetch())
    size = disk_usage(target) + coming
    with reserved(cache, target, size, lock=lock, label=target.name):
        return Path(fetch())


def _cause(error: Exception, repo: str, revision: str | None) -> str:
    endpoint = os.environ.get("HF_ENDPOINT", "the Hugging Face hub")
    if isinstance(error, GatedRepoError):
        return f"{repo} is gated; accept its terms on its page and set HF_TOKEN"
    if isinstance(error, RepositoryNotFoundError):
        return f"there is no repository {repo} at {endpoint}, or it is private: set HF_TOKEN"
    if isinstance(error, RevisionNotFoundError):
        return f"{repo} has no revision {revision!r}"
    if isinstance(error, LocalEntryNotFoundError | IncompleteSnapshotError):
        if _chain_has(error, OfflineModeIsEnabled):
            return (
                "HF_HUB_OFFLINE is set and there is no complete copy in the cache; unset it, or "
                "point the setting at a local directory"
            )
        return (
            f"{endpoint} cannot be reached and there is no complete copy in the cache; check "
            "the network and HF_ENDPOINT"
        )
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code if error.response is not None else "no answer"
        if status in (401, 403):
            return f"access to {repo} denied ({status}); set HF_TOKEN to a token that may read it"
        return f"{endpoint} answered {status}; try again later"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"no space left in the cache ({error.strerror}); make room or set CACHE_DIR"
    return str(error)


def _chain_has(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None:
        if isinstance(error, kind):
            return True
        error = error.__cause__ or error.__context__
    return False
