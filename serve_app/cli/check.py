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
    from serve_app.text.sentences import sentence_spans

    def said(text: str, start: int, end: int) -> str:
        return " ".join(text[start:end].split())

    sentences = sentence_spans(source)
    for finding in found.findings:
        typer.echo(f"{finding.severity}, {finding.kind}: {finding.message}")
        typer.echo(f"  summary: {said(summary, *finding.sentence_span)}")
        for start, end in sentences:
            if any(start <= first < end for first, _ in finding.source_spans):
                typer.echo(f"  source:  {said(source, start, end)}")
    for omission in found.omissions:
        typer.echo(f"left out, {omission.topic}: {omission.message}")
        typer.echo(f"  source:  {said(source, *omission.source_span)}")
    count = len(found.findings)
    typer.echo(f"{count} findings, {found.severe} severe; {len(found.omissions)} left out")
