"""Fetches `s3://bucket/key` or `s3://bucket/prefix/` into the cache. Knows S3, no model.

The listing (keys, sizes, ETags) names the version: unchanged, nothing is downloaded. A
folder that was uploaded with a manifest (see `s3_upload`) is taken as complete only when
every object is the one the manifest names.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from serve_app.core.documents import MOST_BYTES, parse_json
from serve_app.core.errors import ConfigError
from serve_app.storage.artifacts.cache import Artifact, safe_relative
from serve_app.storage.artifacts.eviction import Cache
from serve_app.storage.artifacts.s3_download import ChangedWhileFetching, S3Object, download_objects
from serve_app.storage.artifacts.staging import Staging, Wanted
from serve_app.storage.s3_client import (
    ATTEMPTS,
    UNREACHABLE,
    explained,
    failing,
    new_client,
    parse_reference,
)

logger = logging.getLogger(__name__)

UPLOAD_MANIFEST = "plainmed-upload.json"
"""Object that an upload writes first: name -> [size, ETag] of every object there will be."""

# Where a version keeps its objects; which of the two tells a file from a directory of one.
_FILE, _TREE = "file", "tree"


class _Unfinished(ConfigError):
    """The objects under a prefix are not those of its manifest: an upload is under way."""


_UNSURE = (_Unfinished, *UNREACHABLE)
"""What leaves open whether the copy fetched last is still the object; it is used then."""


def fetch_s3(reference: str, cache: Cache) -> Path:
    """The local copy of an object (a file) or of all objects under a prefix (a directory).

    `s3://bucket/x/` is the prefix; `s3://bucket/x` is the object of that key if there is
    one, else the prefix `x/`. When the endpoint cannot be reached or fails, or somebody is
    uploading to the prefix, the copy fetched last is used, with a warning.

    Args:
        reference: as above.
        cache: where it is kept.

    Raises:
        ConfigError: the reference is malformed, nothing is there, access is denied, a key
            would leave the folder, or the transfer failed; names bucket, key, cause, remedy.
    """
    bucket, key = parse_reference(reference)
    artifact = None
    try:
        client = new_client()
        endpoint = client.meta.endpoint_url
        artifact = Artifact(cache, "s3", f"{endpoint}\n{bucket}\n{key}", f"{bucket}-{key}")
        for attempt in range(ATTEMPTS):
            try:
                return _fetch(client, artifact, bucket, key, reference)
            except ChangedWhileFetching:
                logger.warning("%s changed while it was fetched (%d)", reference, attempt + 1)
    except (BotoCoreError, ClientError, ValueError) as error:  # ValueError: a bad endpoint URL
        if artifact is not None and (isinstance(error, _UNSURE) or failing(error)):
            cached = artifact.latest()
            if cached is not None:
                logger.warning("%s cannot be checked (%s); using the cached copy", reference, error)
                return _entry(cached)
        if isinstance(error, ConfigError):
            raise
        raise explained(error, reference) from error
    raise ConfigError(f"{reference} was replaced {ATTEMPTS} times while it was fetched; try again")


def list_objects(client: Any, bucket: str, prefix: str) -> list[S3Object]:
    """The objects under `prefix`, which ends with `/`, by their names below it.

    Raises:
        ConfigError: a key would be written outside the folder.
    """
    objects = []
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            if not item["Key"].endswith("/"):  # consoles write such objects to show a folder
                objects.append(_object(item, bucket, item["Key"][len(prefix) :]))
    return sorted(objects, key=lambda found: found.name)


def _fetch(client: Any, artifact: Artifact, bucket: str, key: str, reference: str) -> Path:
    objects = _listed(client, bucket, key)
    if not objects:
        raise ConfigError(
            f"nothing is at {reference}: bucket {bucket!r} has no object {key!r} and none under "
            f"{key.rstrip('/') + '/'!r}; check the name, or upload the model there"
        )
    listing = "\n".join(f"{o.name}\t{o.size}\t{o.etag}" for o in objects)
    version = hashlib.sha256(listing.encode()).hexdigest()[:32]

    def download(staging: Staging) -> None:
        download_objects(client, bucket, objects, staging)

    files = [Wanted(item.name, item.size, item.etag) for item in objects]
    return _entry(artifact.fetch(version, files, download))


def _entry(folder: Path) -> Path:
    """The file itself where the reference is one object, else the directory of its objects."""
    tree = folder / _TREE
    return tree if tree.is_dir() else next((folder / _FILE).iterdir())


def _listed(client: Any, bucket: str, key: str) -> list[S3Object]:
    """The objects of a reference, sorted by name, placed as a file or a tree; none: empty."""
    if not key.endswith("/"):
        # Keys are listed in order: the key itself, if it exists, is first of those it begins.
        page = client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
        for item in page.get("Contents", []):
            if item["Key"] == key:
                return [_placed(_object(item, bucket, key.rpartition("/")[2]), _FILE)]
    objects = list_objects(client, bucket, key.rstrip("/") + "/")
    return [_placed(item, _TREE) for item in _uploaded(client, bucket, objects)]


def _uploaded(client: Any, bucket: str, objects: list[S3Object]) -> list[S3Object]:
    """The objects of the manifest, where there is one, else all of them.

    Raises:
        _Unfinished: one of them is absent, or another than the manifest names.
    """
    found = {item.name: item for item in objects}
    manifest = found.pop(UPLOAD_MANIFEST, None)
    if manifest is None:
        return objects
    where = f"s3://{bucket}/{manifest.key}"
    try:
        body = client.get_object(Bucket=bucket, Key=manifest.key)["Body"].read(MOST_BYTES + 1)
        if len(body) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES} bytes")
        wanted = {str(n): (int(s), str(e)) for n, (s, e) in parse_json(body)["files"].items()}
    except client.exceptions.NoSuchKey as error:
        raise ChangedWhileFetching from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{where} is not a manifest ({error}); run merge_and_upload again, or delete it to "
            "take the folder as it is"
        ) from None
    wrong = sorted(
        name
        for name, expected in wanted.items()
        if name not in found or (found[name].size, found[name].etag) != expected
    )
    if wrong:
        raise _Unfinished(
            f"the upload that {where} describes is not complete: {len(wrong)} of "
            f"{len(wanted)} objects are absent or others, such as {wrong[0]}; wait for the upload "
            "to end, run merge_and_upload again, or delete that description to take what is there"
        )
    return [found[name] for name in sorted(wanted)]


def _placed(item: S3Object, kind: str) -> S3Object:
    return replace(item, name=f"{kind}/{item.name}")


def _object(item: Any, bucket: str, name: str) -> S3Object:
    try:
        relative = safe_relative(name)
    except ValueError:
        raise ConfigError(
            f"bucket {bucket!r} has the key {item['Key']!r}, which would be written outside the "
            "model's folder; remove or rename it"
        ) from None
    return S3Object(item["Key"], str(relative), int(item["Size"]), str(item["ETag"]))
