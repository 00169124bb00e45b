"""Turns a name into a file on this machine or in S3; knows no format."""

from __future__ import annotations

import re
from pathlib import Path

from serve_app.core.errors import InvalidInput
from serve_app.storage.base import File

_S3 = re.compile(r"s3://(?P<bucket>[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9])/(?P<key>.+)")


def locate(name: str | Path) -> File:
    """The file of a path or of `s3://BUCKET/KEY`.

    Raises:
        InvalidInput: it is neither.
    """
    from serve_app.storage.local import PathFile
    from serve_app.storage.s3 import S3File

    text = str(name)
    if text.startswith("s3://"):
        match = _S3.fullmatch(text)
        if match is None or text.endswith("/"):
            raise InvalidInput(f"{text!r} is not an S3 file; write s3://BUCKET/KEY")
        return S3File(text, match["bucket"], match["key"])
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", text)
    if scheme is not None:
        raise InvalidInput(f"{text!r}: only a path or s3://BUCKET/KEY can be used")
    return PathFile(text)
