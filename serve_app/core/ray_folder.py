"""Where a Ray that PlainMed starts keeps its files, closed to other users. Imports no Ray."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from serve_app.core.errors import ConfigError


def ray_folder() -> str | None:
    """A folder for Ray's sessions, in one that no other user can enter: Ray itself lets everybody
    write there. None where RAY_TMPDIR names another.

    The folder of the token by which Ray knows its callers is closed to others, too.

    Raises:
        ConfigError: somebody else has made it.
    """
    if "RAY_TMPDIR" in os.environ:
        return None
    token_folder = Path.home() / ".ray"
    # As Ray chooses: the paths of its sockets must stay short.
    parent = "/tmp" if sys.platform == "darwin" else tempfile.gettempdir()  # noqa: S108  # nosec B108
    folder = Path(parent) / f"plainmed-{os.getuid()}"
    for one in (token_folder, folder):
        try:
            one.mkdir(mode=0o700, exist_ok=True)
            if one.is_symlink() or one.stat().st_uid != os.getuid():
                raise PermissionError("it belongs to somebody else")
            one.chmod(0o700)
        except OSError as error:
            raise ConfigError(
                f"Ray's files cannot be kept from other users in {one}: {error}; set RAY_TMPDIR to "
                "a folder of yours"
            ) from None
    return str(folder / "ray")
