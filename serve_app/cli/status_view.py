"""Draws what `/status` answered, for a terminal, and says what to do where it did not answer."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from serve_app.client.clients import PlainMedAPIError, PlainMedConnectionError
from serve_app.core.schemas import Rates, StatusResponse


def advice(error: PlainMedAPIError | PlainMedConnectionError) -> str:
    """What to do when the server gave no status."""
    if isinstance(error, PlainMedConnectionError):
        return "Is it running there? `plainmed serve` starts one; give the URL of another."
    if error.status in (401, 403):
        return "Set PLAINMED_API_KEY to a key of that server (`plainmed keys new` makes one)."
    if error.status == 404:
        return "It has no /status: it is older than this command, or the URL lacks its prefix."
    return "Look for that request in the server's log."


def screen(url: str, found: StatusResponse) -> RenderableType:
    """The whole answer for a terminal."""
    ready = found.status == "ready"
    head = Text.assemble(
        (found.status, "bold green" if ready else "bold red"),
        f"  PlainMed {found.version} at {url}, services: {', '.join(found.services)}",
    )
    warnings = [Text(f"warning: {one}", style="yellow") for one in found.warnings]
    gateways = "gateway" if found.gateways_heard == 1 else "gateways"
    rates = Text(
        f"Last {found.window_s:.0f} s of {found.gateways_heard} {gateways}; "
        f"{found.tokens_per_s:.1f} tokens/s written"
    )
    return Group(head, _targets(found), *warnings, _deployments(found), rates, _routes(found))


def _targets(found: StatusResponse) -> Text:
    targets = found.targets
    if targets is None:
        return Text("targets: not known" if "metrics" in found.services else "targets: none")
    about = [str(part) for part in (targets.corpus, targets.n and f"n = {targets.n}") if part]
    return Text(f"targets: {targets.name} ({', '.join([*about, targets.fingerprint])})")


def _deployments(found: StatusResponse) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("Deployment", no_wrap=True)
    table.add_column("Replicas", justify="right")
    table.add_column("Model", overflow="fold")
    table.add_column("Device")
    for name, one in found.deployments.items():
        whole = one.replicas_ready >= one.replicas_wanted > 0
        count = Text(f"{one.replicas_ready}/{one.replicas_wanted}", "" if whole else "bold red")
        table.add_row(name, count, one.model or "", one.device or "")
    return table


def _routes(found: StatusResponse) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("Route", no_wrap=True)
    for name in ("Requests", "a second", "Refused/s", "Failed/s", "p50 s", "p99 s"):
        table.add_column(name, justify="right", no_wrap=True)
    for route, rates in found.routes.items():
        table.add_row(route, *_numbers(rates))
    table.add_row("all", *_numbers(found.total), style="bold")
    return table


def _numbers(rates: Rates) -> list[str]:
    def seconds(value: float | None) -> str:
        return "" if value is None else f"{value:.3g}"

    return [
        str(rates.requests),
        f"{rates.requests_per_s:.2f}",
        f"{rates.refused_per_s:.2f}",
        f"{rates.failed_per_s:.2f}",
        seconds(rates.p50_s),
        seconds(rates.p99_s),
    ]
