"""Turns a weights reference into a local path."""

from __future__ import annotations

import re
from pathlib import Path

from serve_app.core.errors import ConfigError
from serve_app.storage.artifacts.embedded import embedded_path
from serve_app.storage.artifacts.fetch_options import Downloads

_FORMS = "a local directory or file, embedded:NAME, s3://BUCKET/PREFIX/ or hf://ORG/NAME[@REVISION]"


def resolve(reference: str, downloads: Downloads | None = None) -> Path:
    """The local directory or file that `reference` stands for, fetched if it is remote.

    Args:
        reference: a local path, `embedded:NAME`, `s3://bucket/prefix/` (a directory),
            `s3://bucket/key` (a file, or a directory if there is no such key), or
            `hf://org/name[@revision]`.
        downloads: where and how it is fetched; None: `Downloads()`, whatever the settings say.

    Raises:
        ConfigError: the reference is malformed, missing or could not be fetched; the message
            names it and what to do.
    """
    if not reference.strip():
        raise ConfigError(f"an empty reference; give {_FORMS}")
    if reference.startswith("embedded:"):
        return embedded_path(reference.removeprefix("embedded:"))
    downloads = downloads or Downloads()
    # Imported where they are used: boto3 and huggingface_hub cost every start a second.
    if reference.startswith("s3://"):
        from serve_app.storage.artifacts.s3_fetch import fetch_s3

        return fetch_s3(reference, downloads.cache())
    if reference.startswith("hf://"):
        from serve_app.storage.artifacts.hub import fetch_hub

        return fetch_hub(reference, downloads.cache(), downloads.hf_token)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", reference)
    if scheme is not None:
        raise ConfigError(f"{reference!r}: scheme {scheme[1]!r} is not supported; give {_FORMS}")
    try:
        path = Path(reference).expanduser()
        if path.exists():
            return path
    except (OSError, ValueError, RuntimeError) as error:  # too long; a NUL; no home for ~user
        raise ConfigError(f"{reference!r} is not a path: {error}") from None
    raise ConfigError(f"no file or directory {reference!r}; give {_FORMS}")
