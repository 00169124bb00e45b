"""Turns a name into a file on this machine or in S3; knows no format."""

from __future__ import annotations

import re
from pathlib import Path

from serve_app.core.errors import InvalidInput
from serve_app.storage.base import File
from serve_app.storage.local import PathFile


def locate(name: str | Path) -> File:
    """The file of a path or of `s3://BUCKET/KEY`.

    Raises:
        InvalidInput: it is neither.
    """
    text = str(name)
    if text.startswith("s3://"):
        from serve_app.storage.s3 import S3File

        if text.endswith("/"):
            raise InvalidInput(f"{text!r} is not an S3 file; write s3://BUCKET/KEY")
        return S3File(text)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", text)
    if scheme is not None:
        raise InvalidInput(f"{text!r}: only a path or s3://BUCKET/KEY can be used")
    return PathFile(text)
