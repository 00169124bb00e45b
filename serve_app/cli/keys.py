"""`plainmed keys`: makes, lists and removes API keys in a file. Starts nothing."""

from __future__ import annotations

import os
import stat
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from serve_app.api.auth.api_keys import KeyEntry, Service, dump_keys, new_key, parse_keys
from serve_app.core.errors import ConfigError

app = typer.Typer(name="keys", help="Makes, lists and removes API keys.", no_args_is_help=True)

KeysFile = Annotated[Path, typer.Argument(metavar="FILE", help="The keys file.", dir_okay=False)]


@app.command()
def new(
    file: KeysFile,
    name: Annotated[str, typer.Option(help="Whose key it is; shown in lists only.")] = "",
    days: Annotated[
        float | None, typer.Option(help="Days until it expires; default: never.", min=0.001)
    ] = None,
    service: Annotated[
        list[str] | None,
        typer.Option(help="It may call only this: metrics or generator; default: both."),
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(help="Most requests a minute; default: no limit.", min=1)
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Most requests under way; default: no limit.", min=1)
    ] = None,
) -> None:
    """Make a key, add what is kept of it to FILE, and print the key: it is shown only now."""
    entries = _read(file) if file.exists() else ()
    expires = None if days is None else datetime.now(UTC) + timedelta(days=days)
    made = new_key(
        name,
        expires=expires,
        services=None if not service else [_service(one) for one in service],
        requests_per_minute=requests_per_minute,
        concurrency=concurrency,
    )
    _write(file, (*entries, made.entry))
    typer.echo(made.key)
    typer.echo(f"kept in {file} as {made.entry.id}; the key itself is kept nowhere", err=True)


@app.command("list")
def list_keys(file: KeysFile) -> None:
    """Show what FILE keeps of each key."""
    table = Table(box=SIMPLE_HEAD)
    for head in ("Id", "Name", "Expires", "Services", "Requests a minute", "At once"):
        table.add_column(head)
    now = datetime.now(UTC)
    for one in _read(file):
        expires = "never" if one.expires is None else f"{one.expires:%Y-%m-%d %H:%M} UTC"
        if one.expires is not None and one.expires <= now:
            expires += " (expired)"
        table.add_row(
            one.id,
            one.name,
            expires,
            "all" if one.services is None else ", ".join(one.services),
            "no limit" if one.requests_per_minute is None else str(one.requests_per_minute),
            "no limit" if one.concurrency is None else str(one.concurrency),
        )
    Console().print(table)


@app.command()
def remove(
    file: KeysFile, identity: Annotated[str, typer.Argument(metavar="ID", help="As listed.")]
) -> None:
    """Take a key out of FILE; servers that read FILE refuse it within a second."""
    entries = _read(file)
    kept = tuple(one for one in entries if one.id != identity)
    if len(kept) == len(entries):
        raise ConfigError(f"{file} has no key {identity}; see `plainmed keys list {file}`")
    _write(file, kept)


def _service(name: str) -> Service:
    if name == "metrics":
        return "metrics"
    if name == "generator":
        return "generator"
    raise ConfigError(f"there is no service {name!r}; --service takes metrics or generator")


def _read(file: Path) -> tuple[KeyEntry, ...]:
    try:
        return parse_keys(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {file}: {error}") from None


def _write(file: Path, entries: tuple[KeyEntry, ...]) -> None:
    """Complete or not at all. A new file is readable by nobody else, since mkstemp makes it with
    mode 0600; one that is there keeps its owner and mode, by which a server may read it."""
    fresh = None
    try:
        descriptor, fresh = tempfile.mkstemp(dir=file.parent, prefix=f"{file.name}.")
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            if file.exists():
                before = file.stat()
                os.fchown(descriptor, before.st_uid, before.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
            out.write(dump_keys(entries))
        os.replace(fresh, file)
    except OSError as error:
        if fresh is not None:
            Path(fresh).unlink(missing_ok=True)
        raise ConfigError(f"cannot write {file}: {error}") from None
