"""`plainmed calibrate`: targets from human-written summaries. Parses options only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serve_app.cli.options import Address, Engine, Restart, Workers


def calibrate(
    source: Annotated[
        str,
        typer.Argument(
            help="Corpus as for plainmed score: .csv, .tsv, .jsonl, .json or .parquet, maybe with "
            ".gz, or a folder: a path or s3://BUCKET/KEY.",
            metavar="INPUT",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Targets file to write.")],
    subset: Annotated[
        float, typer.Option(help="Random share of the rows to use, in (0, 1].")
    ] = 1.0,
    chunk_size: Annotated[int, typer.Option(help="Pairs measured at once.", min=1)] = 16,
    split: Annotated[
        str, typer.Option(help="Use rows with this value in the column split.")
    ] = "train",
    all_rows: Annotated[
        bool, typer.Option("--all-rows", help="Use all rows; no column split is needed.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Random seed, for reproducible targets.", min=0)] = 0,
    plot: Annotated[
        Path | None,
        typer.Option(help="Also write an SVG chart of each metric's distribution and target band."),
    ] = None,
    original_column: Annotated[
        str | None,
        typer.Option(help="Column of originals; default: source_text, or the only usual name."),
    ] = None,
    human_column: Annotated[
        str | None,
        typer.Option(
            help="Column of human summaries; default: target_text, or the only usual name."
        ),
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

    To resume a stopped run, give the same command again.
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
            original_column=original_column,
            human_column=human_column,
            on_note=lambda note: typer.echo(f"note: {note}", err=True),
        )
    except KeyboardInterrupt:
        typer.echo("stopped; give the same command again to resume", err=True)
        raise
    typer.echo(f"targets of {targets.details['n']} pairs written to {out}", err=True)
    if plot is not None:
        typer.echo(f"chart of their distributions written to {plot}", err=True)
