"""Reads the single texts that the command line works on."""

from __future__ import annotations

from pathlib import Path

from serve_app.errors import InvalidInput


def read_text(path: Path) -> str:
    """A whole UTF-8 file.

    Raises:
        InvalidInput: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 text (byte {error.start})") from error
