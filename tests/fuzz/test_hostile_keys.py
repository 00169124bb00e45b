"""Names and descriptions in a bucket that would lead out of the model's folder, or fill memory.

tests/storage/test_artifacts_s3.py has the plain ones (`..`, absolute, empty parts) and links in the
cache.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from serve_app.core.errors import ConfigError
from serve_app.storage.artifacts import Downloads, resolve
from serve_app.storage.artifacts.cache import safe_relative
from serve_app.storage.artifacts.s3_fetch import UPLOAD_MANIFEST


def fetch(bucket: str, cache: Path) -> Path:
    return resolve(f"s3://{bucket}/evil/", Downloads(str(cache)))


@pytest.fixture
def put(new_bucket: str, s3_client: Any) -> Any:
    def write(key: str, body: bytes = b"x") -> str:
        s3_client.put_object(Bucket=new_bucket, Key=f"evil/{key}", Body=body)
        return new_bucket

    write("config.json")
    return write


@pytest.mark.parametrize(
    "key", ["..\\escape.txt", "C:/escape.txt", "c:escape.txt", "a/./escape.txt", "a/../escape.txt"]
)
def test_a_key_that_means_another_place_on_some_machine_is_refused(
    put: Any, tmp_path: Path, key: str
) -> None:
    bucket = put(key)
    with pytest.raises(ConfigError, match=r"escape\.txt.*would be written outside"):
        fetch(bucket, tmp_path)
    assert not list(tmp_path.rglob("*escape*"))


@pytest.mark.parametrize("name", ["a\0b", "..", ".", "", "/a", "a//b", "a/", "\\\\host\\a", "a\\b"])
def test_no_such_name_is_a_path(name: str) -> None:
    with pytest.raises(ValueError, match=r"safe relative path|drive"):
        safe_relative(name)


def test_a_name_too_long_for_the_disk_is_an_error_that_says_where(put: Any, tmp_path: Path) -> None:
    bucket = put("a" * 300)
    with pytest.raises(ConfigError, match="cannot write to"):
        fetch(bucket, tmp_path)


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "is not a manifest"),
        (b'{"files": {"a": [1, "x"], "a": [1, "x"]}}', "is there twice"),
        (b'{"files": {"../../escape.txt": [1, "x"]}}', "upload .* is not complete"),
        (b'{"files": {"config.json": [NaN, "x"]}}', "is not a manifest"),
        (b" " * (17 << 20), "more than 16777216 bytes"),
    ],
    ids=["nested", "a list", "a name twice", "leads outside", "NaN", "17 MiB"],
)
def test_a_hostile_description_of_an_upload_is_refused(
    put: Any, tmp_path: Path, manifest: bytes, says: str
) -> None:
    bucket = put(UPLOAD_MANIFEST, manifest)
    with pytest.raises(ConfigError, match=says) as caught:
        fetch(bucket, tmp_path)
    assert UPLOAD_MANIFEST in caught.value.message


def test_a_good_description_is_followed(put: Any, tmp_path: Path, s3_client: Any) -> None:
    bucket = put("model.bin", b"weights")
    listed = s3_client.list_objects_v2(Bucket=bucket, Prefix="evil/")["Contents"]
    files = {one["Key"].removeprefix("evil/"): [one["Size"], one["ETag"]] for one in listed}
    put(UPLOAD_MANIFEST, json.dumps({"files": files}).encode())
    assert sorted(path.name for path in fetch(bucket, tmp_path).iterdir()) == sorted(files)
