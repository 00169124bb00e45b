"""`plainmed keys`: creates, lists and removes API keys in a file. Starts nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from serve_app.core.atomic_write import write_text
from serve_app.core.errors import ConfigError
from serve_app.core.printable import printable

if TYPE_CHECKING:  # so that `plainmed --help` does not load pydantic
    from serve_app.api.auth.api_keys import KeyEntry

app = typer.Typer(name="keys", help="Creates, lists and removes API keys.", no_args_is_help=True)

KeysFile = Annotated[Path, typer.Argument(metavar="FILE", help="The keys file.", dir_okay=False)]


@app.command()
def new(
    file: KeysFile,
    name: Annotated[str, typer.Option(help="Whose key it is, for `plainmed keys list`.")] = "",
    days: Annotated[
        float | None, typer.Option(help="Days until it expires; default: never.", min=0.001)
    ] = None,
    service: Annotated[
        list[str] | None,
        typer.Option(help="A service it may call: metrics or generator; default: both."),
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(help="Maximum requests per minute; default: no limit.", min=1)
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Maximum concurrent requests; default: no limit.", min=1)
    ] = None,
) -> None:
    """Create a key, add its hash to FILE, and print the key: it is shown only once."""
    from serve_app.api.auth.api_keys import new_key
    from serve_app.core.schemas import Service

    allowed = [one for one in get_args(Service) if one in (service or ())]
    if set(service or ()) - set(allowed):
        raise ConfigError("--service takes metrics or generator")
    entries = _read(file) if file.exists() else ()
    expires = None if days is None else datetime.now(UTC) + timedelta(days=days)
    made = new_key(
        name,
        expires=expires,
        services=allowed or None,
        requests_per_minute=requests_per_minute,
        concurrency=concurrency,
    )
    _write(file, (*entries, made.entry))
    typer.echo(made.key)
    typer.echo(f"added to {file} as {made.entry.id}; the key itself is stored nowhere", err=True)


@app.command("list")
def list_keys(file: KeysFile) -> None:
    """Show the keys of FILE, with their limits."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD)
    for head in ("Id", "Name", "Expires", "Services", "Requests/min", "Concurrent"):
        table.add_column(head)
    now = datetime.now(UTC)
    for one in _read(file):
        expires = "never" if one.expires is None else f"{one.expires:%Y-%m-%d %H:%M} UTC"
        if one.expires is not None and one.expires <= now:
            expires += " (expired)"
        table.add_row(
            one.id,
            Text(printable(one.name)),
            expires,
            "all" if one.services is None else ", ".join(one.services),
            "no limit" if one.requests_per_minute is None else str(one.requests_per_minute),
            "no limit" if one.concurrency is None else str(one.concurrency),
        )
    Console().print(table)


@app.command()
def remove(
    file: KeysFile,
    identity: Annotated[str, typer.Argument(metavar="ID", help="From `plainmed keys list`.")],
) -> None:
    """Remove a key from FILE; servers that read FILE refuse it within a second."""
    entries = _read(file)
    kept = tuple(one for one in entries if one.id != identity)
    if len(kept) == len(entries):
        raise ConfigError(f"{file} has no key {identity}; see `plainmed keys list {file}`")
    _write(file, kept)


def _read(file: Path) -> tuple[KeyEntry, ...]:
    from serve_app.api.auth.api_keys import parse_keys

    try:
        return parse_keys(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {file}: {error}") from None


def _write(file: Path, entries: tuple[KeyEntry, ...]) -> None:
    from serve_app.api.auth.api_keys import dump_keys

    try:
        write_text(file, dump_keys(entries), private=True)
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error}") from None
