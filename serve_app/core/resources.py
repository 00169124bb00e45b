"""Where the package keeps its data files, and the sample text among them."""

from __future__ import annotations

from pathlib import Path

RESOURCES = Path(__file__).resolve().parent.parent / "resources"


def sample_abstract() -> str:
    """The invented abstract of the demo and the page, without the lines that say it is one."""
    lines = (RESOURCES / "demo" / "abstract.txt").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("#")).strip()
