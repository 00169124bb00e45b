"""`plainmed status`: one screen of what a server runs and does, asked of its `/status`.

Knows no Ray: the rates are over all gateway replicas, as the server put them together.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from serve_app.client.clients import PlainMedClient

URL = "http://127.0.0.1:8000"
TIMEOUT_S = 15.0
"""Longest wait for an answer: the server itself waits at most some ten seconds for its parts."""


def status(
    url: Annotated[str, typer.Argument(help="Where the server is.")] = URL,
    watch: Annotated[
        float | None, typer.Option(help="Ask again every so many seconds, until Ctrl-C.", min=0.5)
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
) -> None:
    """Show a server's health, models, targets, replicas and the rates of the last five minutes.

    Exit status: 0 ready, 1 not ready, 2 no answer. A server that asks for an API key gets the one
    in PLAINMED_API_KEY.
    """
    from rich.console import Console

    from serve_app.cli.status_view import advice, screen
    from serve_app.client.clients import PlainMedAPIError, PlainMedClient, PlainMedConnectionError

    if watch is not None and json_output:
        raise typer.BadParameter("--json prints one answer; leave --watch out")
    with PlainMedClient(url, timeout=TIMEOUT_S, retries=0) as client:
        if watch is not None:
            _watch(client, watch)
        try:
            found = client.status()
        except (PlainMedAPIError, PlainMedConnectionError) as error:
            typer.echo(f"error: {error}\n{advice(error)}", err=True)
            raise typer.Exit(2) from None
    if json_output:
        typer.echo(found.model_dump_json(indent=2))
    else:
        Console().print(screen(url, found))
    if found.status != "ready":
        raise typer.Exit(1)


def _watch(client: PlainMedClient, seconds: float) -> None:
    """Draws until Ctrl-C; a server that does not answer is asked again."""
    from rich.console import Group, RenderableType
    from rich.live import Live
    from rich.text import Text

    from serve_app.cli.status_view import advice, screen
    from serve_app.client.clients import PlainMedAPIError, PlainMedConnectionError

    shown: RenderableType = Text("asking ...")
    with Live(shown, auto_refresh=False) as live:
        while True:
            try:
                shown = screen(client.base_url, client.status())
            except (PlainMedAPIError, PlainMedConnectionError) as error:
                shown = Group(Text(f"error: {error}", style="red"), Text(advice(error)))
            live.update(shown, refresh=True)
            time.sleep(seconds)
