"""python -m benchmarks: peers and ours in turns in one run, as a table with ratios.

python -m benchmarks                          # every part, printed
python -m benchmarks readability encoder      # these parts
python -m benchmarks --write                  # and write docs/performance.md and .json
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import typer
from rich.console import Console

from benchmarks import generation, machine, metrics, ranking, report, serving, texts
from benchmarks.measure import Row

DOCS = Path(__file__).resolve().parent.parent / "docs"
METRICS = {
    "relevance": metrics.relevance,
    "factuality": metrics.factuality,
    "readability": metrics.readability,
}
PARTS = (*METRICS, "encoder", "ranking", "serving", "generation")
console = Console(stderr=True)
app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)


@app.command(help=__doc__)
def main(
    parts: Annotated[list[str] | None, typer.Argument(help=", ".join(PARTS))] = None,
    rounds: Annotated[int, typer.Option(min=5, help="measurements of each side")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="torch threads of both sides")] = 2,
    write: Annotated[bool, typer.Option(help="write docs/performance.md and .json")] = False,
) -> None:
    """Measures the parts asked for, or all."""
    chosen = parts or list(PARTS)
    if unknown := sorted(set(chosen) - set(PARTS)):
        raise typer.BadParameter(f"{unknown[0]} is none of {', '.join(PARTS)}")
    torch.set_num_threads(threads)
    found = texts.load()
    facts = {**machine.facts(), "texts": found.source, "rounds": str(rounds)}
    path = DOCS / "performance.json"
    # A part measured again replaces that part alone.
    document: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    document["machine"] = facts
    tables: dict[str, str] = {"machine": report.facts(facts)}
    for part in chosen:
        if part in METRICS:
            document[part] = _shown(METRICS[part](found, rounds))
    if METRICS.keys() & set(chosen):
        tables["cases"] = report.cases(
            Row.from_dict(row) for part in METRICS for row in document.get(part, [])
        )
    if "encoder" in chosen:
        document["encoder"] = list(metrics.encoder(rounds))
        tables["encoder"] = report.encoder(document["encoder"])
    if "ranking" in chosen:
        document["ranking"] = list(ranking.compare(found))
        tables["ranking"] = report.ranking(document["ranking"])
    if "serving" in chosen:
        document["serving"] = _shown(serving.cases(found, rounds))
        tables["serving"] = report.cases(map(Row.from_dict, document["serving"]))
    if "generation" in chosen:
        document["generation"] = list(generation.cases(rounds))
        tables["generation"] = report.generation(document["generation"])
    report.publish(DOCS / "performance.md", tables, document if write else None)


def _shown(rows: Iterable[Row]) -> list[dict[str, Any]]:
    found = []
    for row in rows:
        console.print(f"{row.case} ({row.dtype}) beside {row.peer}: {row.ratio:.2f}")
        found.append(row.as_dict())
    return found


if __name__ == "__main__":
    app()
