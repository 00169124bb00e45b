"""`plainmed calibrate`: targets from human-written summaries. Computes nothing itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serve_app.cli.options import Address, Engine, Restart, Workers


def calibrate(
    source: Annotated[
        str,
        typer.Argument(
            help="CSV, .jsonl or .parquet with source_text, target_text and split: a path or "
            "s3://BUCKET/KEY.",
            metavar="INPUT",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Where to write the targets file.")],
    subset: Annotated[
        float, typer.Option(help="Share of the rows to use, at random, in (0, 1].")
    ] = 1.0,
    chunk_size: Annotated[int, typer.Option(help="Pairs measured at once.", min=1)] = 16,
    split: Annotated[
        str, typer.Option(help="Use the rows with this value in the column split.")
    ] = "train",
    all_rows: Annotated[
        bool, typer.Option("--all-rows", help="Use every row; no column split is needed.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the subset and the intervals.", min=0)] = 0,
    plot: Annotated[
        Path | None,
        typer.Option(help="Also draw each metric's distribution with its target band, as SVG."),
    ] = None,
    engine: Annotated[
        Engine,
        typer.Option(help="Measure in this process or on Ray; auto: Ray from 2,000 pairs on."),
    ] = Engine.AUTO,
    address: Address = None,
    workers: Workers = None,
    restart: Restart = False,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Compute targets from human-written summaries: means, deviations, quantiles, intervals.

    A run that was stopped goes on where it was when the same command is given again.
    """
    from serve_app.offline.calibration import calibrate_targets

    if engine is Engine.LOCAL and (address is not None or workers is not None):
        raise typer.BadParameter("--address and --workers are for Ray; leave --engine local out")
    try:
        targets = calibrate_targets(
            source,
            out,
            subset,
            chunk_size,
            seed=seed,
            progress=progress,
            split=None if all_rows else split,
            engine=engine.value,
            address=address,
            workers=workers,
            restart=restart,
            plot=plot,
        )
    except KeyboardInterrupt:
        typer.echo("stopped; give the same command to go on with the rest", err=True)
        raise
    typer.echo(f"targets of {targets.details['n']} pairs written to {out}", err=True)
    if plot is not None:
        typer.echo(f"their distributions drawn in {plot}", err=True)
