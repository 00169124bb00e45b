"""Which targets file is in use: the one of TARGETS_FILE, else the one shipped."""

from __future__ import annotations

from pathlib import Path

from serve_app.core.resources import RESOURCES
from serve_app.core.settings import Settings
from serve_app.metrics.loss import Targets

EMBEDDED_TARGETS = RESOURCES / "targets-embedded.json"


def load_targets(settings: Settings) -> Targets:
    """The targets the settings name; unset: those of the embedded models.

    Raises:
        ConfigError: the file is missing or is no targets file; the message names it.
    """
    path = settings.targets_file
    return Targets.load(EMBEDDED_TARGETS if path is None else Path(path).expanduser())
