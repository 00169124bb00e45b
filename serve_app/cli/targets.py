"""`plainmed targets`: shows a targets file, and what changed from one to another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from serve_app.metrics.loss import Targets
    from serve_app.offline.calibration.diff import TargetsDifference

app = typer.Typer(name="targets", help="Shows and compares targets files.", no_args_is_help=True)

_TOLERANCE = 1e-3  # as serve_app.offline.calibration.diff, which takes a moment to import

File = Annotated[Path, typer.Argument(help="A targets file.", metavar="FILE")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def show(file: File, json_output: Json = False) -> None:
    """Show what a targets file holds: targets, intervals, quantiles, how they were made."""
    from serve_app.metrics.loss import Targets

    targets = Targets.load(file)
    if json_output:
        typer.echo(json.dumps(targets.to_dict(), indent=2, ensure_ascii=False))
        return
    console = Console()
    for table in _shown(targets):
        console.print(table)
    for line in _made_with(targets):
        typer.echo(line)


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(help="The targets that were.", metavar="A")],
    b: Annotated[Path, typer.Argument(help="The targets to be.", metavar="B")],
    tolerance: Annotated[
        float,
        typer.Option(help="How far a number may move, in A's standard deviations.", min=0),
    ] = _TOLERANCE,
    json_output: Json = False,
) -> None:
    """Show what changes from targets A to targets B.

    Exit status: 0 the models are the same and no mean or deviation moves by more than
    --tolerance; 1 something does; 2 a file cannot be read.
    """
    from serve_app.core.settings import load_settings
    from serve_app.metrics.loss import Targets, steepness_factor
    from serve_app.offline.calibration.diff import difference

    steepness = load_settings().loss_steepness
    found = difference(Targets.load(a), Targets.load(b), steepness_factor(steepness))
    if json_output:
        typer.echo(json.dumps(found.to_dict(tolerance), indent=2, ensure_ascii=False))
    else:
        console = Console()
        for table in _compared(found):
            console.print(table)
        for line in _remarked(found):
            typer.echo(line)
    if not found.same(tolerance):
        raise typer.Exit(1)


def _table(title: str, *columns: str) -> Table:
    # Several narrow tables: one with every column would not fit a terminal.
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("Metric", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _shown(targets: Targets) -> list[Table]:
    from serve_app.metrics.loss import METRICS
    from serve_app.metrics.targets_schema import QUANTILES

    numbers = dict(zip(METRICS, zip(targets.mean, targets.sigma, strict=True), strict=True))
    calibration = targets.calibration
    if calibration is None:
        table = _table("Targets", "Target", "Sigma")
        for metric, (mean, sigma) in numbers.items():
            table.add_row(metric, _number(mean), _number(sigma))
        return [table]
    interval = f"{calibration.bootstrap.confidence:.0%} interval"
    first = _table("Targets", "Target", interval, "Sigma", interval)
    second = _table("Quantiles", *(f"{percent} %" for percent in QUANTILES))
    for metric, (mean, sigma) in numbers.items():
        one = getattr(calibration.distributions, metric)
        first.add_row(
            metric,
            _number(mean),
            _ends(one.mean_interval),
            _number(sigma),
            _ends(one.sd_interval),
        )
        second.add_row(metric, *map(_number, one.quantiles.values()))
    return [first, second]


def _made_with(targets: Targets) -> list[str]:
    from serve_app.offline.calibration.diff import changed_by_hand

    models = ", ".join(f"{metric} {name}" for metric, name in targets.models.items())
    lines = [f"models: {models or 'not said'}"]
    calibration = targets.calibration
    if calibration is None:
        known = {name: targets.details[name] for name in ("n", "corpus") if name in targets.details}
        return [*lines, *(f"{name}: {value}" for name, value in known.items())]
    share = "" if calibration.subset == 1 else f", a random {calibration.subset:.0%}"
    rows = "all rows" if calibration.split is None else f"split {calibration.split}"
    versions = ", ".join(f"{name} {number}" for name, number in calibration.versions.items())
    boot = calibration.bootstrap
    lines += [
        f"texts: {calibration.n} pairs of {calibration.corpus} ({rows}{share}), "
        f"fingerprint {calibration.fingerprint[7:19]}",
        f"intervals: {boot.method} bootstrap of {boot.resamples} resamples",
        f"versions: plainmed {calibration.version}, {versions}",
    ]
    edited = changed_by_hand(targets)
    if edited:
        lines.append(f"changed by hand since: {', '.join(edited)}")
    if calibration.note is not None:
        lines.append(f"note: {calibration.note}")
    return lines


def _compared(found: TargetsDifference) -> list[Table]:
    means = _table("Targets (means)", "A", "B", "Change", "in A's sds", "Intervals")
    sds = _table("Standard deviations", "A", "B", "Change", "Intervals", "k in A", "k in B")
    for one in found.metrics:
        means.add_row(
            one.metric,
            *map(_number, one.mean),
            f"{one.change:+.3f}",
            f"{one.change_in_sds:+.2f}",
            _overlapping(one.means_overlap),
        )
        sds.add_row(
            one.metric,
            *map(_number, one.sd),
            f"{one.sd[1] - one.sd[0]:+.3f}",
            _overlapping(one.sds_overlap),
            *(("", "") if one.k is None else map(_number, one.k)),
        )
    return [means, sds]


def _remarked(found: TargetsDifference) -> list[str]:
    lines = [f"other models: {text}" for text in found.other_models]
    if found.other_texts is not None:
        lines.append(found.other_texts)
    return [*lines, *(f"note: {text}" for text in found.remarks)]


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"


def _ends(interval: list[float]) -> str:
    return f"{_number(interval[0])} to {_number(interval[1])}"


def _overlapping(overlap: bool | None) -> str:
    return {None: "unknown", True: "overlap", False: "apart"}[overlap]
