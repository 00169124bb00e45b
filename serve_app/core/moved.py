"""Old import paths that the documentation has shown, until version 0.3.

An old name imports the module that replaced it, and says so in a DeprecationWarning. The list is
all there is to remove one day.
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


def _new_name(old: str) -> str | None:
    """The name of today, for an old module and what is below it; None for any other name."""
    head, below = old, ""
    while head:
        if head in MOVED:
            return MOVED[head] + below
        head, _, last = head.rpartition(".")
        below = f".{last}{below}"
    return None


class _Alias(Loader):
    """Loads the new module under the old name."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        # Python leaves its own import machinery out of the count: this is the user's line.
        warnings.warn(
            f"{spec.name} is now {spec.origin}; the old name works until PlainMed {GONE_IN}",
            DeprecationWarning,
            stacklevel=2,
        )
        module = importlib.import_module(str(spec.origin))
        self._own = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Runs nothing: the module has run under its new name, which it keeps."""
        module.__spec__ = self._own


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        new = _new_name(fullname)
        return None if new is None else ModuleSpec(fullname, _Alias(), origin=new)


def keep_old_names() -> None:
    """Lets the old names be imported; a second call changes nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
