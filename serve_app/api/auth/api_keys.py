"""API keys: makes them, reads and writes keys documents, checks a given key.

A key is `pm_ID_SECRET`: the id is public and selects the entry, the secret is 32 random bytes. Only
the SHA-256 of the whole key is stored. A slow password hash would add nothing: it slows guessing
secrets that people choose, and nobody guesses one of 2^256.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from serve_app.core.documents import parse_json
from serve_app.core.errors import ConfigError
from serve_app.core.schemas import Service

_ID_BYTES, _SECRET_BYTES = 6, 32
_KEY = re.compile(r"pm_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")


class KeyEntry(BaseModel):
    """What is stored of one key; it does not let anybody call.

    Attributes:
        id: the public part of the key, which logs show.
        sha256: of the whole key, in hexadecimal.
        name: its owner, for people.
        expires: when it becomes invalid; None: never.
        services: what it may call; None: everything.
        requests_per_minute: limit of requests; None: none.
        concurrency: limit of concurrent requests; None: none.
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
    """A new key: `key` is shown once, `entry` is stored."""

    key: str
    entry: KeyEntry


def new_key(name: str = "", **limits: Any) -> NewKey:
    """A new key; `limits` are further fields of `KeyEntry`.

    Raises:
        ConfigError: one of them is unknown or out of range.
    """
    identity = secrets.token_hex(_ID_BYTES)
    key = f"pm_{identity}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    try:
        return NewKey(key, KeyEntry(id=identity, sha256=digest(key), name=name, **limits))
    except ValidationError as error:
        raise ConfigError(f"cannot make such a key: {_problems(error)}") from None


def digest(key: str) -> str:
    """SHA-256 of a key, in hexadecimal."""
    return hashlib.sha256(key.encode()).hexdigest()


def parse_keys(text: str, source: str) -> tuple[KeyEntry, ...]:
    """The entries of a keys document: `{"keys": [{"id", "sha256", ...}, ...]}`.

    Args:
        text: the document, JSON.
        source: what messages call it.

    Raises:
        ConfigError: it is no such document, or two keys have the same id. No message quotes the
            document, which may hold a key by mistake.
    """
    try:
        parse_json(text)
    except ValueError:  # its message may quote the document
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
    [(most, count)] = Counter(entry.id for entry in entries).most_common(1) or [("", 0)]
    if count > 1:
        raise ConfigError(f"{source}: key id {most} is there twice; remove one")
    return entries


def dump_keys(entries: Sequence[KeyEntry]) -> str:
    """The document that `parse_keys` reads."""
    kept = [entry.model_dump(mode="json", exclude_none=True) for entry in entries]
    return json.dumps({"keys": kept}, indent=2) + "\n"


def _problems(error: ValidationError) -> str:
    found = [(".".join(map(str, item["loc"])), item["msg"]) for item in error.errors()]
    return "; ".join(f"{where}: {message}" if where else message for where, message in found)


class KeyRing:
    """The live keys; several at once, so that a new one can be given out before an old one ends."""

    def __init__(self, entries: Sequence[KeyEntry]) -> None:
        self._by_id = {entry.id: entry for entry in entries}
        # Unknown ids are compared with this, so that timing does not tell which ids exist.
        self._nobody = digest(secrets.token_urlsafe(_SECRET_BYTES))

    def __len__(self) -> int:
        return len(self._by_id)

    def find(self, key: str, now: datetime | None = None) -> KeyEntry | None:
        """The entry of a valid key; None if it is unknown, malformed or expired."""
        parts = _KEY.fullmatch(key)
        entry = self._by_id.get(parts[1]) if parts else None
        good = hmac.compare_digest(digest(key), entry.sha256 if entry else self._nobody)
        if entry is None or not good:
            return None
        if entry.expires is not None and (now or datetime.now(UTC)) >= entry.expires:
            return None
        return entry
