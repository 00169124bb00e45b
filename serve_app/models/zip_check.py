"""Checks that torch wrote a zip file; unpacks nothing.

Torch writes members uncompressed, and one list of contents at the very end. Another file may take
memory that its size does not show, or show two readers different members.
"""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

# How a zip file ends (APPNOTE.TXT 4.3.14 to 4.3.16): the record and the locator of large files,
# which torch always writes, and the record of all.
_RECORD = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR = struct.Struct("<4sIQI")
_END = struct.Struct("<4sHHHHIIH")


def flaw(path: Path) -> str | None:
    """What shows that torch did not write the file, to follow its name; None: it may have.

    A file that is no zip passes: torch reads it without unpacking.

    Raises:
        Exception: of any kind, since a hostile list can make its reader raise anything.
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":  # as torch tells one
            return None
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - _END.size - _LOCATOR.size - _RECORD.size))
        end = file.read()
    if not _has_one_directory(end, size):
        return (
            "is damaged: torch ends a zip file with its one list of contents, and this file has "
            "another end"
        )
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    packed = [one.filename for one in members if one.compress_type != zipfile.ZIP_STORED]
    held = sum(one.file_size for one in members)
    if packed or held > size:
        why = f"{packed[0]} in it is compressed" if packed else f"it claims {held} bytes"
        return f"is no file that torch wrote: {why}, and unpacking it could fill the memory"
    return None


def _has_one_directory(end: bytes, size: int) -> bool:
    """Whether a zip file's list of contents is where every reader looks for it.

    Python searches from the end, torch follows a pointer: a file with two lists would show one to
    each. So the list must end right before the record that points at it, and that ends the file.

    Args:
        end: the last bytes of the file, as many as the three records take, or all there are.
        size: bytes of the file.
    """
    if len(end) < _END.size:
        return False
    mark, disk, first, _, _, length, start, comment = _END.unpack(end[-_END.size :])
    if mark != b"PK\x05\x06" or disk or first or comment:
        return False
    begins = size - _END.size
    locator = end[: -_END.size][-_LOCATOR.size :]
    if locator[:4] == b"PK\x06\x07":
        begins -= _LOCATOR.size + _RECORD.size
        _, disk, at, disks = _LOCATOR.unpack(locator)
        if begins < 0 or disk or disks > 1 or at != begins:
            return False
        mark, *_, length, start = _RECORD.unpack(end[: _RECORD.size])
        if mark != b"PK\x06\x06":
            return False
    return bool(start + length == begins)
