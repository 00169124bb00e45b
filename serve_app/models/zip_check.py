"""Whether a zip file is one that torch wrote; nothing in it is unpacked.

Torch writes its members uncompressed, and one list of contents at the very end. A file that is
made otherwise may take memory that its size does not show, or show two readers different members.
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
    """What no file of torch has, to be read after the file's name; None: nothing, or it is no zip
    file, which torch reads in ways that unpack nothing.

    Raises:
        Exception: it cannot be read, of whatever kind: a hostile list can make its reader raise
            anything at all.
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

    Python searches for it from the end, torch goes where it is said to be: a file with two lists
    shows one to each. So it must end right before what points at it, and that must end the file.

    Args:
        end: the last bytes of the file, as many as the three structures have, or all there are.
        size: of the file.
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
