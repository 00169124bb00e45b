"""Where the live keys come from: a file, read again when it changes, and the environment.

A Kubernetes Secret mounted as a volume is a file too, and changes under a running pod; so keys are
rotated without a restart.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from serve_app.api.auth.api_keys import KeyEntry, KeyRing, parse_keys
from serve_app.core.documents import read_text
from serve_app.core.errors import ConfigError

LOOK_EVERY_S = 1.0
"""Longest time for which a changed file goes unnoticed."""

logger = logging.getLogger("ray.serve")

_State = tuple[int, int, int, int]


class KeySource:
    """The keys of a file and of a document given as text.

    Args:
        path: the keys file; None: none.
        document: a keys document, as in API_KEYS; None: none.

    Raises:
        ConfigError: one of them cannot be read or is no keys document, or together they hold no
            key, or one id twice.
    """

    def __init__(self, path: Path | None, document: str | None) -> None:
        self._path = path
        self._fixed = parse_keys(document, "API_KEYS") if document is not None else ()
        self._state: _State | None = None
        self._looked = time.monotonic()
        self._ring = self._read()

    def ring(self) -> KeyRing:
        """The keys live now.

        A file that has become unreadable or malformed is logged, and the keys read before stay:
        a slip of an editor must neither lock everybody out nor let anybody in.
        """
        now = time.monotonic()
        if self._path is not None and now - self._looked >= LOOK_EVERY_S:
            self._looked = now
            try:
                if _look(self._path) != self._state:
                    self._ring = self._read()
                    logger.info("%d API keys are live", len(self._ring))
            except ConfigError as error:
                logger.error("the keys before stay live: %s", error.message)
        return self._ring

    def _read(self) -> KeyRing:
        entries: tuple[KeyEntry, ...] = self._fixed
        state: _State | None = None
        if self._path is not None:
            # Looked at first: what is written between the two is read again the next time.
            state = _look(self._path)
            try:
                text = read_text(self._path)
            except (OSError, ValueError) as error:
                raise ConfigError(f"cannot read API_KEYS_FILE: {error}") from None
            entries = (*entries, *parse_keys(text, "API_KEYS_FILE"))
        if len({entry.id for entry in entries}) < len(entries):
            raise ConfigError("API_KEYS and API_KEYS_FILE hold a key of the same id; remove one")
        # At the start a mistake; later somebody has taken back the last key.
        if not entries and self._state is None:
            raise ConfigError("there is no API key; make one with `plainmed keys new`")
        # Kept only now: a file that could not be used is tried again until it can be.
        self._state = state
        return KeyRing(entries)


def _look(path: Path) -> _State:
    try:
        found = os.stat(path)
    except OSError as error:
        raise ConfigError(f"cannot read API_KEYS_FILE: {error}") from None
    # The last changes with owner and mode too, by which a file becomes readable.
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_ctime_ns
