"""API keys: how one is made, what is kept of it, and whether a given one is good.

A key is `pm_ID_SECRET`: the id is public and says which entry to look at, the secret is 32 bytes of
the system's randomness. Only SHA-256 of the whole key is kept. A slow hash, as for passwords, would
add nothing: it slows the guessing of secrets that people choose, and nobody guesses one of 2^256.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from serve_app.core.documents import parse_json
from serve_app.core.errors import ConfigError

Service = Literal["metrics", "generator"]

_ID_BYTES, _SECRET_BYTES = 6, 32
_KEY = re.compile(r"pm_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")


class KeyEntry(BaseModel):
    """What is kept of one key; nothing in it lets anybody call.

    Attributes:
        id: the public part of the key; it stands in logs.
        sha256: of the whole key, in hexadecimal.
        name: whose it is, for people.
        expires: from when it is refused; None: never.
        services: what it may call; None: everything.
        requests_per_minute: most requests it may send; None: no limit.
        concurrency: most requests it may have under way; None: no limit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    name: str = Field("", max_length=100)
    expires: AwareDatetime | None = None
    services: tuple[Service, ...] | None = None
    requests_per_minute: int | None = Field(None, ge=1)
    concurrency: int | None = Field(None, ge=1)

    @field_validator("services")
    @classmethod
    def _some(cls, value: tuple[Service, ...] | None) -> tuple[Service, ...] | None:
        if value is not None and not value:
            raise ValueError("leave services out, or name at least one of metrics, generator")
        return value


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: tuple[KeyEntry, ...]


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made: `key` is shown once, `entry` is kept."""

    key: str
    entry: KeyEntry


def new_key(
    name: str = "",
    *,
    expires: datetime | None = None,
    services: Sequence[Service] | None = None,
    requests_per_minute: int | None = None,
    concurrency: int | None = None,
) -> NewKey:
    """A new key; the arguments are those of `KeyEntry`.

    Raises:
        ConfigError: an argument is out of range.
    """
    identity = secrets.token_hex(_ID_BYTES)
    key = f"pm_{identity}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    try:
        entry = KeyEntry(
            id=identity,
            sha256=digest(key),
            name=name,
            expires=expires,
            services=None if services is None else tuple(services),
            requests_per_minute=requests_per_minute,
            concurrency=concurrency,
        )
    except ValidationError as error:
        raise ConfigError(f"cannot make such a key: {_problems(error)}") from None
    return NewKey(key, entry)


def digest(key: str) -> str:
    """SHA-256 of a key, in hexadecimal."""
    return hashlib.sha256(key.encode()).hexdigest()


def parse_keys(text: str, source: str) -> tuple[KeyEntry, ...]:
    """The entries of a keys document: `{"keys": [{"id", "sha256", ...}, ...]}`.

    Args:
        text: the document, JSON.
        source: what messages call it.

    Raises:
        ConfigError: it is not such a document, or two keys have the same id. No message repeats a
            value of the document, which may hold a key by mistake.
    """
    try:
        parse_json(text)
    except ValueError:  # whose message may repeat what is there
        raise ConfigError(
            f"{source} is no keys document: it is not JSON, or has a name twice in one place; make "
            "one with `plainmed keys new`"
        ) from None
    try:
        entries = _File.model_validate_json(text).keys
    except ValidationError as error:
        raise ConfigError(
            f"{source} is no keys document: {_problems(error)}; make one with `plainmed keys new`"
        ) from None
    ids = [entry.id for entry in entries]
    twice = sorted({one for one in ids if ids.count(one) > 1})
    if twice:
        raise ConfigError(f"{source}: key id {twice[0]} is there twice; remove one")
    return entries


def dump_keys(entries: Sequence[KeyEntry]) -> str:
    """The document that `parse_keys` reads."""
    kept = [entry.model_dump(mode="json", exclude_none=True) for entry in entries]
    return json.dumps({"keys": kept}, indent=2) + "\n"


def _problems(error: ValidationError) -> str:
    found = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        found.append(f"{where}: {item['msg']}" if where else item["msg"])
    return "; ".join(found)


class KeyRing:
    """The keys that are live; several at once, so that a new one can be given out before an old
    one is removed."""

    def __init__(self, entries: Sequence[KeyEntry]) -> None:
        self._by_id = {entry.id: entry for entry in entries}
        # Compared with for an id nobody has, so that the time does not tell which ids exist.
        self._nobody = digest(secrets.token_urlsafe(_SECRET_BYTES))

    def __len__(self) -> int:
        return len(self._by_id)

    def find(self, key: str, now: datetime | None = None) -> KeyEntry | None:
        """The entry of a good key; None for one that is unknown, malformed or expired."""
        parts = _KEY.fullmatch(key)
        entry = self._by_id.get(parts[1]) if parts else None
        good = hmac.compare_digest(digest(key), entry.sha256 if entry else self._nobody)
        if entry is None or not good:
            return None
        if entry.expires is not None and (now or datetime.now(UTC)) >= entry.expires:
            return None
        return entry
