"""Fetches `s3://bucket/key` or `s3://bucket/prefix/` into the cache. Knows S3, no model.

Endpoint, region and credentials come from the usual AWS chain (environment, profile,
role). The listing (keys, sizes, ETags) names the version: unchanged, nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    FlexibleChecksumError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProxyConnectionError,
    ReadTimeoutError,
    ResponseStreamingError,
    TokenRetrievalError,
)

from serve_app.artifacts.store import Artifact, safe_relative
from serve_app.errors import ConfigError

logger = logging.getLogger(__name__)

PARALLEL_FILES = 4
_ATTEMPTS = 3
_CHUNK = 1 << 20
# Where a version keeps its objects; which of the two tells a file from a directory of one.
_FILE, _TREE = "file", "tree"
_REFERENCE = re.compile(r"s3://(?P<bucket>[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9])/(?P<key>.+)")
_UNREACHABLE = (
    EndpointConnectionError,
    ConnectTimeoutError,
    ConnectionClosedError,
    ProxyConnectionError,
    ReadTimeoutError,
)
_BROKEN = (
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
    ConnectionClosedError,
    FlexibleChecksumError,
)
_NO_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    TokenRetrievalError,
)


@dataclass(frozen=True, slots=True)
class S3Object:
    """One object to fetch: `name` is its place under the artifact's folder."""

    key: str
    name: str
    size: int
    etag: str


class _ChangedWhileFetching(Exception):
    """An object was replaced between the listing and its download."""


def fetch_s3(reference: str, root: Path) -> Path:
    """The local copy of an object (a file) or of all objects under a prefix (a directory).

    `s3://bucket/x/` is the prefix; `s3://bucket/x` is the object of that key if there is
    one, else the prefix `x/`. When the endpoint cannot be reached, the copy fetched last is
    used, with a warning.

    Args:
        reference: as above.
        root: the cache directory.

    Raises:
        ConfigError: the reference is malformed, nothing is there, access is denied, a key
            would leave the folder, or the transfer failed; names bucket, key, cause, remedy.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise ConfigError(
            f"{reference!r} is not an S3 reference; write s3://BUCKET/KEY or s3://BUCKET/PREFIX/"
        )
    bucket, key = match["bucket"], match["key"]
    try:
        client = _client()
        endpoint = client.meta.endpoint_url
        artifact = Artifact(root / "s3", f"{endpoint}\n{bucket}\n{key}", f"{bucket}-{key}")
        for attempt in range(_ATTEMPTS):
            try:
                return _fetch(client, artifact, bucket, key, reference)
            except _ChangedWhileFetching:
                logger.warning("%s changed while it was fetched (%d)", reference, attempt + 1)
    except _UNREACHABLE as error:
        cached = artifact.latest()
        if cached is not None:
            logger.warning("%s cannot be checked (%s); using the cached copy", reference, error)
            return _entry(cached)
        raise _explained(error, reference) from error
    except (BotoCoreError, ClientError, ValueError) as error:  # ValueError: a bad endpoint URL
        if isinstance(error, ConfigError):
            raise
        raise _explained(error, reference) from error
    raise ConfigError(f"{reference} was replaced {_ATTEMPTS} times while it was fetched; try again")


def _client() -> Any:
    # A custom endpoint (MinIO, a test server) seldom has a host name for each bucket.
    custom = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return boto3.session.Session().client(
        "s3",
        config=Config(
            connect_timeout=10,
            read_timeout=60,
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
            max_pool_connections=PARALLEL_FILES * 2,
            s3={"addressing_style": "path"} if custom else None,
        ),
    )


def _fetch(client: Any, artifact: Artifact, bucket: str, key: str, reference: str) -> Path:
    objects = _list(client, bucket, key)
    if not objects:
        raise ConfigError(
            f"nothing is at {reference}: bucket {bucket!r} has no object {key!r} and none under "
            f"{key.rstrip('/') + '/'!r}; check the name, or upload the model there"
        )
    listing = "\n".join(f"{o.name}\t{o.size}\t{o.etag}" for o in objects)
    version = hashlib.sha256(listing.encode()).hexdigest()[:32]

    def download(folder: Path) -> None:
        for item in objects:
            (folder / item.name).parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(PARALLEL_FILES) as pool:
            jobs = [
                pool.submit(_download, client, bucket, item, folder / item.name) for item in objects
            ]
            try:
                for job in jobs:
                    job.result()
            finally:
                for job in jobs:
                    job.cancel()

    return _entry(artifact.fetch(version, {o.name: o.size for o in objects}, download))


def _entry(folder: Path) -> Path:
    """The file itself where the reference is one object, else the directory of its objects."""
    tree = folder / _TREE
    return tree if tree.is_dir() else next((folder / _FILE).iterdir())


def _list(client: Any, bucket: str, key: str) -> list[S3Object]:
    """The objects of a reference, sorted by name; empty if there is none."""
    if not key.endswith("/"):
        # Keys are listed in order: the key itself, if it exists, is first of those it begins.
        page = client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
        for item in page.get("Contents", []):
            if item["Key"] == key:
                return [_object(item, bucket, _FILE, key.rpartition("/")[2])]
    prefix = key.rstrip("/") + "/"
    objects = []
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            if not item["Key"].endswith("/"):  # consoles write such objects to show a folder
                objects.append(_object(item, bucket, _TREE, item["Key"][len(prefix) :]))
    return sorted(objects, key=lambda found: found.name)


def _object(item: Any, bucket: str, kind: str, name: str) -> S3Object:
    try:
        relative = safe_relative(name)
    except ValueError:
        raise ConfigError(
            f"bucket {bucket!r} has the key {item['Key']!r}, which would be written outside the "
            "model's folder; remove or rename it"
        ) from None
    return S3Object(item["Key"], f"{kind}/{relative}", int(item["Size"]), str(item["ETag"]))


def _download(client: Any, bucket: str, item: S3Object, target: Path) -> None:
    """Writes one object; starts again where the connection breaks.

    Raises:
        _ChangedWhileFetching: the object is no longer the one that was listed.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            response = client.get_object(Bucket=bucket, Key=item.key, IfMatch=item.etag)
            with target.open("wb") as file:
                for chunk in response["Body"].iter_chunks(_CHUNK):
                    file.write(chunk)
            return
        except ClientError as error:
            if error.response["Error"]["Code"] in ("PreconditionFailed", "412", "NoSuchKey"):
                raise _ChangedWhileFetching from error
            raise _explained(error, f"s3://{bucket}/{item.key}") from error
        except _BROKEN as error:
            logger.warning("s3://%s/%s broke off (%d): %s", bucket, item.key, attempt, error)
            if attempt == _ATTEMPTS:
                raise _explained(error, f"s3://{bucket}/{item.key}") from error


_DENIED = {"AccessDenied", "403", "Forbidden", "AllAccessDisabled", "AccountProblem"}
_BAD_CREDENTIALS = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "RequestTimeTooSkewed",
}
_WRONG_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "301", "307"}


def _explained(error: Exception, what: str) -> ConfigError:
    """The cause and the remedy, without anything secret."""
    bucket = what.removeprefix("s3://").partition("/")[0]
    code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
    if isinstance(error, _NO_CREDENTIALS):
        cause = (
            "no usable AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "AWS_PROFILE, or give the machine or pod a role"
        )
    elif code in _DENIED:
        cause = (
            f"access denied ({code}); the credentials in use need s3:ListBucket on bucket "
            f"{bucket!r} and s3:GetObject on the key"
        )
    elif code in _BAD_CREDENTIALS:
        cause = f"the AWS credentials were refused ({code}); renew them or check the clock"
    elif code == "NoSuchBucket":
        cause = f"there is no bucket {bucket!r} at this endpoint; check MODEL_S3_BUCKET and region"
    elif code in _WRONG_REGION:
        cause = f"bucket {bucket!r} is in another region ({code}); set AWS_REGION to it"
    elif code == "InvalidObjectState":
        cause = "the object is archived (Glacier); restore it first"
    elif isinstance(error, _UNREACHABLE):
        cause = f"S3 cannot be reached ({error}); check the network and AWS_ENDPOINT_URL"
    elif isinstance(error, _BROKEN):
        cause = f"the transfer broke off {_ATTEMPTS} times ({error}); try again"
    else:
        cause = str(error)
    return ConfigError(f"cannot fetch {what}: {cause}")
