"""Turns a weights reference into a local path."""

from __future__ import annotations

from pathlib import Path

from serve_app.artifacts.embedded import embedded_path
from serve_app.errors import ConfigError


def resolve(reference: str, *, cache_dir: str | None = None, hf_token: str | None = None) -> Path:
    """The local directory or file that `reference` stands for.

    Raises:
        ConfigError: the reference is malformed, missing or could not be fetched; the message
            names it and what to do.
    """
    scheme, separator, rest = reference.partition(":")
    if separator and scheme == "embedded":
        return embedded_path(rest)
    path = Path(reference).expanduser()
    if path.exists():
        return path
    raise ConfigError(f"no file or directory {reference!r}")
