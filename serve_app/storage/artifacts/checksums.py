"""Whether a file is the object S3 says it is: its `x-amz-checksum-*`, else its ETag.

Knows how S3 computes both, also for objects uploaded in parts; sends no request itself.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from awscrt import checksums as crt

_BLOCK = 1 << 20


class _Crc:
    """A cyclic redundancy check with the interface of `hashlib`."""

    def __init__(self, step: Callable[[Any, int], int], size: int) -> None:
        self._step, self._size, self._value = step, size, 0

    def update(self, data: Any) -> None:
        self._value = self._step(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._size, "big")


# Field of S3's answer -> the hash. MD5 and SHA-1 are what S3 defines, against accidents.
_HASHES: dict[str, Callable[[], Any]] = {
    "ChecksumCRC64NVME": lambda: _Crc(crt.crc64nvme, 8),
    "ChecksumCRC32C": lambda: _Crc(crt.crc32c, 4),
    "ChecksumCRC32": lambda: _Crc(zlib.crc32, 4),
    "ChecksumSHA256": hashlib.sha256,
    "ChecksumSHA1": lambda: hashlib.sha1(usedforsecurity=False),
    "ETag": lambda: hashlib.md5(usedforsecurity=False),
}


@dataclass(frozen=True, slots=True)
class Checksum:
    """What an object's bytes must hash to.

    Attributes:
        kind: the field of S3's answer it is from, such as `ChecksumCRC32` or `ETag`.
        digest: the hash; of an object in parts, the hash of the parts' hashes.
        parts: how many parts were hashed; 0: the object was hashed as a whole.
    """

    kind: str
    digest: bytes
    parts: int


def expected_checksum(head: Mapping[str, Any], bucket: str) -> Checksum | None:
    """The checksum in the answer to a HEAD request with checksum mode; None if there is none.

    An ETag says nothing of the content where KMS or the client's key encrypts the object, nor
    in a directory bucket.
    """
    etag = re.fullmatch(r'"?([0-9a-f]{32})(?:-(\d+))?"?', str(head.get("ETag", "")))
    for kind in _HASHES:
        value = head.get(kind)
        if kind == "ETag" or not value:
            continue
        text, _, parts = str(value).partition("-")
        count = int(parts) if parts.isdigit() else 0
        if not count and etag and etag[2] and head.get("ChecksumType") != "FULL_OBJECT":
            count = int(etag[2])  # some servers leave the number of parts out
        try:
            return Checksum(kind, base64.b64decode(text, validate=True), count)
        except binascii.Error:
            continue
    encrypted = str(head.get("ServerSideEncryption", "")).startswith("aws:kms")
    if etag is None or encrypted or "SSECustomerAlgorithm" in head or bucket.endswith("--x-s3"):
        return None
    return Checksum("ETag", bytes.fromhex(etag[1]), int(etag[2] or 0))


def file_checksum(
    path: Path,
    kind: str,
    part_sizes: Sequence[int] | None = None,
    wait_for: Callable[[int], None] | None = None,
) -> bytes:
    """The hash of a file, or the hash of its parts' hashes.

    Args:
        path: the file.
        kind: as `Checksum.kind`.
        part_sizes: bytes of each part, in order; None: hash it as a whole.
        wait_for: called with an offset before what is in front of it is read; returns when it
            is there. So a file can be hashed while it is written.
    """
    new = _HASHES[kind]
    outer = new()
    with path.open("rb", buffering=0) as file:
        if part_sizes is None:
            _feed(outer, file, path.stat().st_size, wait_for)
            return bytes(outer.digest())
        for size in part_sizes:
            inner = new()
            _feed(inner, file, size, wait_for)
            outer.update(inner.digest())
    return bytes(outer.digest())


def even_parts(size: int, first: int, count: int) -> list[int] | None:
    """Sizes of `count` parts as large as the first, but for the last; None: they cannot be.

    >>> even_parts(25, 10, 3)
    [10, 10, 5]
    >>> even_parts(25, 5, 3) is None
    True
    """
    last = size - first * (count - 1)
    return [first] * (count - 1) + [last] if 0 < last <= first else None


def _feed(target: Any, file: Any, size: int, wait_for: Callable[[int], None] | None) -> None:
    buffer = bytearray(min(_BLOCK, max(size, 1)))
    view = memoryview(buffer)
    while size > 0:
        block = min(size, len(view))
        if wait_for is not None:
            wait_for(file.tell() + block)
        count = file.readinto(view[:block])
        if not count:
            break
        target.update(view[:count])
        size -= count
