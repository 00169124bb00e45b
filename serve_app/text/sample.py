"""The invented abstract that the demo summarises and the page offers. Knows the file, no more."""

from __future__ import annotations

from serve_app.core.resources import RESOURCES

SAMPLE = RESOURCES / "demo" / "abstract.txt"


def sample_abstract() -> str:
    """The sample text, without the lines that say it is one."""
    lines = SAMPLE.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("#")).strip()
