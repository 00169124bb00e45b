"""Writes the table of the application's metrics in docs/observability.md; a test says when stale.

python scripts/metrics_table.py
"""

from __future__ import annotations

from pathlib import Path

from api_reference import put

from serve_app.core.observability.instruments import SPECS, exported

PAGE = Path(__file__).resolve().parent.parent / "docs" / "observability.md"


def table() -> str:
    """One row a metric, in the order of the list."""
    rows = ["| metric | labels | |", "| --- | --- | --- |"]
    for name, spec in SPECS.items():
        labels = ", ".join(f"`{label}`" for label in spec.labels)
        rows.append(f"| `{exported(name)}` | {labels} | {spec.help} ({spec.kind}) |")
    return "\n".join(rows)


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(put(page, "metrics", table()), encoding="utf-8")
