"""Fetches `hf://org/name[@revision]` with huggingface_hub into the cache. Knows no model.

huggingface_hub keeps its own layout under `hub/`: blobs written beside and renamed, a snapshot
folder per commit. It resumes a broken connection, and skips the files a killed process had
finished. No message holds the token.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from filelock import FileLock
from huggingface_hub import snapshot_download
from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE
from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from serve_app.core.errors import ConfigError
from serve_app.storage.artifacts.cache import safe_relative
from serve_app.storage.artifacts.eviction import Cache, disk_usage, hold, release, reserved

logger = logging.getLogger(__name__)

_REFUSED = (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError)
"""Answers of the hub after which no copy fetched before is used."""

_DENIED = (401, 403)
_IS_IT = "check HF_ENDPOINT, and whether a proxy is in the way"
_REFERENCE = re.compile(
    r"hf://(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?"
)
# Copies of the weights for other frameworks, as large as the ones we read.
_IGNORED = ["original/*", "onnx/*", "openvino/*", "*.onnx", "*.h5", "*.msgpack", "*.gguf"]


def fetch_hub(reference: str, cache: Cache, token: str | None) -> Path:
    """The directory of a snapshot of a model repository.

    A branch is looked up at each call, a commit hash only until its snapshot is here. If the
    hub cannot be reached, the snapshot fetched last is used, provided it is complete.

    Args:
        reference: `hf://org/name`, or with `@` and a branch, tag or commit.
        cache: the download cache.
        token: for private and gated repositories; None: none is sent, not even one left on this
            machine by `hf auth login`.

    Raises:
        ConfigError: the reference is malformed, there is no such repository or revision, it
            is gated, or the hub cannot be reached; the message says what to do.
    """
    repo, revision, fetch = _snapshot(reference, cache, token)
    folder, name, fetched = cache.root / "hub", repo.replace("/", "--"), None
    lease = folder / f"{name}.lease"
    with _explaining(reference, repo, revision, token):
        folder.mkdir(parents=True, exist_ok=True)
        new = hold(lease)  # from here on nobody removes the repository's folder
        try:
            with FileLock(folder / f"{name}.lock") as lock:
                fetched = _fetch(fetch, cache, folder / f"models--{name}", Path(lock.lock_file))
        finally:
            if new and fetched is None:
                release(lease)
        return fetched


def require_hub(reference: str, cache: Cache, token: str | None) -> None:
    """Checks that there is a snapshot, here or on the hub; downloads nothing.

    Raises:
        ConfigError: as `fetch_hub`.
    """
    repo, revision, fetch = _snapshot(reference, cache, token)
    with _explaining(reference, repo, revision, token):
        if HF_HUB_OFFLINE:
            fetch(local_files_only=True)
        else:
            _coming(fetch)


def _snapshot(
    reference: str, cache: Cache, token: str | None
) -> tuple[str, str | None, Callable[..., Any]]:
    """Repository, revision, and what fetches them."""
    match = _REFERENCE.fullmatch(reference)
    try:
        if match is None:
            raise ValueError
        repo, revision = match["repo"], match["revision"]
        for part in (repo, revision or "main"):  # both become folders of the cache
            safe_relative(part)
    except ValueError:
        raise ConfigError(
            f"{reference!r} is not a Hugging Face reference; write hf://ORG/NAME or "
            "hf://ORG/NAME@REVISION"
        ) from None
    fetch = partial(
        snapshot_download,
        repo,
        revision=revision,
        cache_dir=cache.root / "hub",
        token=token or False,
        ignore_patterns=_IGNORED,
    )
    return repo, revision, fetch


@contextlib.contextmanager
def _explaining(
    reference: str, repo: str, revision: str | None, token: str | None
) -> Iterator[None]:
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # a server that is no hub makes the client raise anything at all
        cause = _cause(error, repo, revision)
        if token:
            cause = cause.replace(token, "***")
        raise ConfigError(f"cannot fetch {reference}: {cause}") from None


def _coming(fetch: Callable[..., Any]) -> int | None:
    """Bytes to download; None: the hub cannot say, but there is a complete copy.

    Raises:
        Exception: neither, whatever the hub's client raised.
    """
    try:
        return sum(file.file_size for file in fetch(dry_run=True) if file.will_download)
    except Exception as error:
        if any(isinstance(one, _REFUSED) or _denied(one) for one in _chain(error)):
            raise
        with contextlib.suppress(OSError):
            found = fetch(local_files_only=True)
            logger.warning("%s cannot be checked (%s); using the cached copy", found, error)
            return None
        raise


def _fetch(fetch: Callable[..., Any], cache: Cache, target: Path, lock: Path) -> Path:
    """Makes room and downloads what `target` lacks; the caller holds the lock."""
    for orphan in target.glob("blobs/*.incomplete"):  # of a process that was killed
        orphan.unlink(missing_ok=True)
    coming = 0 if HF_HUB_OFFLINE else _coming(fetch)
    if not coming:
        return Path(fetch(local_files_only=coming is None))
    size = disk_usage(target) + coming
    with reserved(cache, target, size, lock=lock, label=target.name):
        return Path(fetch())


def _cause(error: Exception, repo: str, revision: str | None) -> str:
    hub, chain = os.environ.get("HF_ENDPOINT", "the Hugging Face hub"), list(_chain(error))

    def first(kind: type[BaseException] | str) -> Any:
        # Some by name: which HTTP library the hub's client uses is its own affair.
        name = kind if isinstance(kind, str) else kind.__name__
        return next((e for e in chain if name in [k.__name__ for k in type(e).__mro__]), None)

    if first(GatedRepoError):
        return f"{repo} is gated; accept its terms on its page and set HF_TOKEN"
    if first(RepositoryNotFoundError):
        return f"there is no repository {repo} at {hub}, or it is private: set HF_TOKEN"
    if first(RevisionNotFoundError):
        return f"{repo} has no revision {revision!r}"
    if first(OfflineModeIsEnabled):
        return (
            "HF_HUB_OFFLINE is set and there is no complete copy in the cache; unset it, or "
            "point the setting at a local directory"
        )
    if answered := first(HfHubHTTPError):
        return _status_cause(answered.response, hub, repo)
    if first("TooManyRedirects"):
        return f"{hub} redirects in a circle; set HF_ENDPOINT to the address of the hub itself"
    if first(JSONDecodeError):
        return f"{hub} answered with something other than JSON, such as a login page; {_IS_IT}"
    if first(FileMetadataError):
        return f"{hub} names no commit, size or ETag of a file; {_IS_IT}"
    if (failed := first("RequestError")) or first(LocalEntryNotFoundError):
        own = asked = os.environ.get("HF_ENDPOINT", ENDPOINT)
        with contextlib.suppress(AttributeError, RuntimeError):  # no request, or not known
            asked = str(failed.request.url)
        moved = not asked.startswith(own)
        redirected = f" (it redirects to {asked.partition('?')[0]})" if moved else ""
        return (
            f"{hub} cannot be reached{redirected} and there is no complete copy in the cache; "
            "check the network and HF_ENDPOINT"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"no space left in the cache ({error.strerror}); make room or set CACHE_DIR"
    if isinstance(error, OSError | HFValidationError):
        return str(error)
    return f"{hub} does not answer as a hub does ({error}); {_IS_IT}"


def _status_cause(response: Any, hub: str, repo: str) -> str:
    status = response.status_code
    if status in _DENIED:
        return f"access to {repo} denied ({status}); set HF_TOKEN to a token that may read it"
    if status == 429:
        wait = response.headers.get("Retry-After")
        return (
            f"{hub} limits how often it is asked (429); try again "
            f"{f'in {wait} s' if wait else 'later'}, or set HF_TOKEN: its limit is higher"
        )
    if status >= 500:
        return f"{hub} is failing ({status}); try again later"
    return f"{hub} answered {status}; {_IS_IT}"


def _denied(error: BaseException) -> bool:
    return isinstance(error, HfHubHTTPError) and error.response.status_code in _DENIED


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
