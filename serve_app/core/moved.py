"""Old import paths that the documentation has shown keep working until version 0.3.

An old name imports the module that replaced it, with a DeprecationWarning that names it.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    f"serve_app.{old}": f"serve_app.{new}"
    for old, new in {
        "artifacts": "storage.artifacts",
        "calibration": "offline.calibration",
        "client_wire": "client.wire",
        "corpus": "offline.corpus",
        "corpus.distributed": "offline.corpus.ray_engine",
        "corpus.suite_scorer": "offline.corpus.scorer",
        "errors": "core.errors",
        "evaluation": "metrics.evaluation",
        "generation.glossary": "text.glossary",
        "generation.transformers_engine": "generation.causal.engine",
        "loss": "metrics.loss",
        "merge": "training.merge",
        "refusals": "serving.proxy.middleware",
        "settings": "core.settings",
        "targets": "metrics.targets",
        "training.adapters": "training.rewards.adapters",
        "training.reward": "training.rewards.reward",
    }.items()
}
"""Old name, new name."""

GONE_IN = "0.3"
"""The version without the old names."""


class _Alias(Loader):
    """Loads the new module under the old name."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        # Python skips its import machinery when it counts frames, so this is the user's line.
        warnings.warn(
            f"{spec.name} is now {spec.origin}; the old name works until PlainMed {GONE_IN}",
            DeprecationWarning,
            stacklevel=2,
        )
        module = importlib.import_module(str(spec.origin))
        self._own = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Only restores the new name: the module has run under it already."""
        module.__spec__ = self._own


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        head, below = fullname, ""
        while head:
            if head in MOVED:
                return ModuleSpec(fullname, _Alias(), origin=MOVED[head] + below)
            head, _, last = head.rpartition(".")
            below = f".{last}{below}"
        return None


def keep_old_names() -> None:
    """Makes the old names importable; a second call changes nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
