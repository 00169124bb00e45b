"""`plainmed check`: compares a summary with its source and prints what differs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from serve_app.evidence import Check

TextFile = Annotated[Path, typer.Argument(help="A text file.", dir_okay=False)]


def check(
    source: TextFile,
    summary: TextFile,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Find what a summary says otherwise than its source, and what it leaves out.

    Numbers, directions, negations, sides of a comparison, certainty and names are compared by
    rules, sentence by sentence; no model is loaded. The exit status is 1 where a reader would be
    misled (a severe finding).
    """
    import json

    from serve_app import evidence
    from serve_app.core.documents import read_input

    texts = read_input(source), read_input(summary)
    found = evidence.check(*texts)
    if json_output:
        typer.echo(json.dumps(asdict(found), ensure_ascii=False, indent=2))
    else:
        _show(found, *texts)
    if found.severe:
        raise typer.Exit(1)


def _show(found: Check, source: str, summary: str) -> None:
    for finding in found.findings:
        start, end = finding.sentence_span
        typer.echo(f"{finding.severity}, {finding.kind}: {finding.message}")
        typer.echo(f"  summary: {' '.join(summary[start:end].split())}")
        for first, last in finding.source_spans[:3]:
            typer.echo(f"  source:  {' '.join(_around(source, first, last).split())}")
    for omission in found.omissions:
        first, last = omission.source_span
        typer.echo(f"left out, {omission.topic}: {omission.message}")
        typer.echo(f"  source:  {' '.join(source[first:last].split())}")
    severe = found.severe
    typer.echo(f"{len(found.findings)} findings, {severe} severe; {len(found.omissions)} left out")


def _around(text: str, start: int, end: int) -> str:
    """The words at a place with a few on both sides."""
    first, last = max(0, start - 40), min(len(text), end + 40)
    before = "… " if first else ""
    after = " …" if last < len(text) else ""
    return before + text[first:last] + after
