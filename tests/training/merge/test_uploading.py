"""Uploading a folder to S3: resumed, replaced, refused."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from serve_app.core.errors import ConfigError
from serve_app.storage.artifacts import Downloads, resolve, s3_upload
from serve_app.storage.artifacts.s3_fetch import UPLOAD_MANIFEST
from serve_app.storage.artifacts.s3_upload import upload_folder
from tests.support.artifact_servers import FlakyProxy, RequestLog, contents, numbered
from tests.training.merge.bucket import keys, s3

MIB = 2**20


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file of three parts."""
    monkeypatch.setattr(s3_upload, "PART_BYTES", 5 * MIB)  # the least S3 takes
    (tmp_path / "up" / "sub").mkdir(parents=True)
    (tmp_path / "up" / "model.safetensors").write_bytes(numbered(12 * MIB))
    (tmp_path / "up" / "config.json").write_bytes(b"{}")
    (tmp_path / "up" / "sub" / "empty").write_bytes(b"")
    return tmp_path / "up"


def test_an_uploaded_folder_comes_back_the_same_and_is_not_sent_twice(
    folder: Path, bucket: str, requests_seen: RequestLog
) -> None:
    seen: list[tuple[int, int]] = []
    report = upload_folder(folder, bucket, "m/", on_bytes=lambda *step: seen.append(step))
    assert (report.files, report.sent, report.size) == (3, 12 * MIB + 2, 12 * MIB + 2)
    assert seen[-1] == (12 * MIB + 2, 12 * MIB + 2)
    assert contents(resolve(f"s3://{bucket}/m/", Downloads(os.environ["CACHE_DIR"]))) == contents(
        folder
    )
    before = len(requests_seen.lines)
    assert upload_folder(folder, bucket, "m/").sent == 0
    sent = [line for line in requests_seen.lines[before:] if '"PUT' in line or '"POST' in line]
    assert all(UPLOAD_MANIFEST in line for line in sent)


KILLED = """
import sys
from pathlib import Path
from serve_app.storage.artifacts import s3_upload
s3_upload.PART_BYTES = 5 << 20
s3_upload.CONNECTIONS = 1
s3_upload.upload_folder(Path(sys.argv[1]), sys.argv[2], "m/")
"""


def test_a_killed_upload_goes_on_with_the_parts_it_has(
    folder: Path, bucket: str, requests_seen: RequestLog
) -> None:
    arrived = threading.Event()

    def on_request(line: str) -> None:
        if "partNumber=2" in line and "PUT" in line and not arrived.is_set():
            process.kill()
            process.wait(30)
            arrived.set()

    requests_seen.on_request = on_request
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder), bucket])
    assert arrived.wait(60)
    requests_seen.on_request = None
    assert keys(bucket) == {f"m/{UPLOAD_MANIFEST}"}
    with pytest.raises(ConfigError, match=r"not complete: 3 of 3 .*run merge_and_upload again"):
        resolve(f"s3://{bucket}/m/", Downloads(os.environ["CACHE_DIR"]))
    report = upload_folder(folder, bucket, "m/")
    assert report.sent == 2 * MIB + 2  # the third part, and the small files
    assert "Uploads" not in s3().list_multipart_uploads(Bucket=bucket)
    assert contents(resolve(f"s3://{bucket}/m/", Downloads(os.environ["CACHE_DIR"]))) == contents(
        folder
    )


def test_parts_of_another_content_are_not_used(folder: Path, bucket: str) -> None:
    where = {"Bucket": bucket, "Key": "m/model.safetensors"}
    upload = s3().create_multipart_upload(**where)["UploadId"]
    for number in (1, 2, 3, 4):
        s3().upload_part(
            **where, UploadId=upload, PartNumber=number, Body=numbered(5 * MIB, seed=9)
        )
    assert upload_folder(folder, bucket, "m/").sent == 12 * MIB + 2
    body = s3().get_object(**where)["Body"].read()
    assert body == (folder / "model.safetensors").read_bytes()


def test_a_model_that_is_being_replaced_is_the_old_one_where_it_is_cached_and_an_error_else(
    folder: Path, bucket: str, tmp_path: Path, requests_seen: RequestLog
) -> None:
    reference = f"s3://{bucket}/m/"
    upload_folder(folder, bucket, "m/")
    old = contents(resolve(reference, Downloads(str(tmp_path / "one"))))
    (folder / "config.json").write_bytes(b'{"new": 1}')
    seen: list[Any] = []

    def in_between(line: str) -> None:
        if UPLOAD_MANIFEST in line and "PUT" in line and not seen:
            seen.append(contents(resolve(reference, Downloads(str(tmp_path / "one")))))
            with pytest.raises(ConfigError, match="not complete"):
                resolve(reference, Downloads(str(tmp_path / "other")))
            seen.append("refused")

    requests_seen.on_request = in_between
    upload_folder(folder, bucket, "m/")
    requests_seen.on_request = None
    assert seen == [old, "refused"]
    for cache in ("one", "other"):
        assert contents(resolve(reference, Downloads(str(tmp_path / cache)))) == contents(folder)


def test_objects_of_an_earlier_model_are_named_and_not_served(folder: Path, bucket: str) -> None:
    s3().put_object(Bucket=bucket, Key="m/model-00009-of-00009.safetensors", Body=b"old")
    report = upload_folder(folder, bucket, "m/")
    assert report.others == ("m/model-00009-of-00009.safetensors",)
    served = contents(resolve(f"s3://{bucket}/m/", Downloads(os.environ["CACHE_DIR"])))
    assert served == contents(folder)


def test_a_link_is_not_uploaded(folder: Path, bucket: str) -> None:
    (folder / "passwords").symlink_to("/etc/passwd")
    with pytest.raises(ConfigError, match="symbolic link"):
        upload_folder(folder, bucket, "m/")
    assert keys(bucket) == set()


def test_an_upload_over_a_line_that_breaks_names_the_destination(
    folder: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = FlakyProxy(os.environ["AWS_ENDPOINT_URL"], faults=10**6, limit=0, match=b"PUT")
    direct = os.environ["AWS_ENDPOINT_URL"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    with pytest.raises(ConfigError, match=rf"cannot upload s3://{bucket}/m/: S3 cannot be reached"):
        upload_folder(folder, bucket, "m/")
    proxy.close()
    monkeypatch.setenv("AWS_ENDPOINT_URL", direct)
    with pytest.raises(ConfigError, match="there is no bucket 'absent-bucket'"):
        upload_folder(folder, "absent-bucket", "m/")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "no url")
    with pytest.raises(ConfigError, match=rf"cannot upload s3://{bucket}/m/: Invalid endpoint"):
        upload_folder(folder, bucket, "m/")
