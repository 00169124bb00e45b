"""s3:// references against moto's HTTP server: what is fetched, kept, refused and explained."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig
from moto.s3.models import s3_backends

from serve_app.core.errors import ConfigError
from serve_app.core.settings import load_settings
from serve_app.metrics.alignscore import AlignScorer
from serve_app.metrics.suite import load_factuality
from serve_app.storage.artifacts import Downloads, resolve, s3_download
from tests.support.artifact_servers import (
    FILES,
    Denying,
    FlakyProxy,
    RequestLog,
    contents,
    numbered,
    serving,
)
from tests.support.paths import ALIGNSCORE

MIB = 2**20


@pytest.fixture
def bucket(new_bucket: str, s3_client: Any) -> str:
    """A bucket of its own for each test, holding FILES under merged-models/tiny/."""
    for key, content in FILES.items():
        s3_client.put_object(Bucket=new_bucket, Key=f"merged-models/tiny/{key}", Body=content)
    return new_bucket


def fetch(reference: str, cache: Path) -> Path:
    return resolve(reference, Downloads(str(cache)))


def stored(bucket: str, key: str) -> Any:
    """The server's own record of an object, to damage it behind S3's back."""
    return s3_backends["123456789012"]["aws"].buckets[bucket].keys[key]


# --- what is fetched -------------------------------------------------------------------------


def test_a_prefix_becomes_a_directory_once(
    bucket: str, tmp_path: Path, requests_seen: RequestLog
) -> None:
    reference = f"s3://{bucket}/merged-models/tiny/"
    folder = fetch(reference, tmp_path)
    assert contents(folder) == FILES
    assert requests_seen.downloads("model.safetensors") == 1
    assert fetch(reference, tmp_path) == folder
    assert requests_seen.downloads("model.safetensors") == 1
    assert contents(fetch(reference.rstrip("/"), tmp_path)) == FILES
    assert not list(tmp_path.rglob("partial*"))


def test_a_key_becomes_a_file(bucket: str, s3_client: Any, tmp_path: Path) -> None:
    s3_client.put_object(Bucket=bucket, Key="merged-models/tiny/config.json.bak", Body=b"other")
    path = fetch(f"s3://{bucket}/merged-models/tiny/config.json", tmp_path)
    assert path.name == "config.json"
    assert path.read_bytes() == FILES["config.json"]


def test_a_prefix_is_a_whole_folder_name(bucket: str, s3_client: Any, tmp_path: Path) -> None:
    s3_client.put_object(Bucket=bucket, Key="merged-models/tiny-2/config.json", Body=b"other")
    s3_client.put_object(Bucket=bucket, Key="merged-models/tiny/sub/", Body=b"")  # as consoles do
    assert contents(fetch(f"s3://{bucket}/merged-models/tiny", tmp_path)) == FILES


def test_an_empty_object_is_an_empty_file(bucket: str, s3_client: Any, tmp_path: Path) -> None:
    s3_client.put_object(Bucket=bucket, Key="merged-models/tiny/empty", Body=b"")
    found = contents(fetch(f"s3://{bucket}/merged-models/tiny/", tmp_path))
    assert found == FILES | {"empty": b""}


def test_more_objects_than_one_listing_page(
    bucket: str, s3_client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "5")  # 1000 on the real service
    expected = {f"{number:04}": b"%d" % number for number in range(23)}
    for name, content in expected.items():
        s3_client.put_object(Bucket=bucket, Key=f"many/{name}", Body=content)
    assert s3_client.list_objects_v2(Bucket=bucket, Prefix="many/")["IsTruncated"]
    assert contents(fetch(f"s3://{bucket}/many/", tmp_path)) == expected


def test_a_large_object_is_fetched_in_ranges(
    bucket: str,
    s3_client: Any,
    tmp_path: Path,
    requests_seen: RequestLog,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(s3_download, "PART_BYTES", MIB)
    content = numbered(7 * MIB + 123)
    s3_client.put_object(Bucket=bucket, Key="large.bin", Body=content)
    assert fetch(f"s3://{bucket}/large.bin", tmp_path).read_bytes() == content
    assert requests_seen.downloads("large.bin") == 8


def test_the_model_bucket_convention_is_a_reference(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_S3_BUCKET", bucket)
    monkeypatch.setenv("MODEL_NAME", "tiny")
    settings = load_settings()
    assert settings.generator_engine == "transformers"
    assert settings.generator_reference is not None
    assert contents(fetch(settings.generator_reference, tmp_path)) == FILES


def test_the_alignscore_checkpoint_is_read_from_its_bucket(
    bucket: str, s3_client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_client.upload_file(str(ALIGNSCORE / "tiny-roberta.ckpt"), bucket, "AlignScore-tiny.ckpt")
    for path in (ALIGNSCORE / "tiny-roberta").iterdir():
        s3_client.upload_file(str(path), bucket, f"backbone/{path.name}")
    monkeypatch.setenv("ALIGNSCORE_CKPT", f"s3://{bucket}/AlignScore-tiny.ckpt")
    monkeypatch.setenv("ALIGNSCORE_MODEL", f"s3://{bucket}/backbone/")
    monkeypatch.setenv("CACHE_DIR", str(tmp_path / "cache"))
    served = load_factuality(load_settings())
    local = AlignScorer.from_reference(
        str(ALIGNSCORE / "tiny-roberta"), ckpt=str(ALIGNSCORE / "tiny-roberta.ckpt")
    )
    pair = (["The trial had 120 adults."], ["It had 120 adults."])
    assert [r.score for r in served.score(*pair)] == [r.score for r in local.score(*pair)]


# --- what is kept ----------------------------------------------------------------------------


def test_a_replaced_object_is_fetched_and_the_old_copy_stays(
    bucket: str, s3_client: Any, tmp_path: Path
) -> None:
    reference = f"s3://{bucket}/merged-models/tiny/"
    old = fetch(reference, tmp_path)
    same_size = FILES["config.json"][::-1]
    s3_client.put_object(Bucket=bucket, Key="merged-models/tiny/config.json", Body=same_size)
    new = fetch(reference, tmp_path)
    assert contents(new) == FILES | {"config.json": same_size}
    assert contents(old) == FILES  # a running replica may still read it
    s3_client.delete_object(Bucket=bucket, Key="merged-models/tiny/sub/notes.txt")
    assert "sub/notes.txt" not in contents(fetch(reference, tmp_path))


def test_a_damaged_copy_is_fetched_again(bucket: str, tmp_path: Path) -> None:
    reference = f"s3://{bucket}/merged-models/tiny/"
    folder = fetch(reference, tmp_path)
    (folder / "model.safetensors").write_bytes(b"cut")
    (folder / "config.json").unlink()
    assert contents(fetch(reference, tmp_path)) == FILES


def test_threads_download_once(bucket: str, tmp_path: Path, requests_seen: RequestLog) -> None:
    reference = f"s3://{bucket}/merged-models/tiny/"
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: fetch(reference, tmp_path), range(8)))
    assert len(found) == 1
    assert requests_seen.downloads("model.safetensors") == 1


def test_an_unreachable_endpoint_uses_the_cached_copy_or_says_so(
    bucket: str, aws: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    proxy = FlakyProxy(aws)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    folder = fetch(f"s3://{bucket}/merged-models/tiny/", tmp_path)
    one = fetch(f"s3://{bucket}/merged-models/tiny/config.json", tmp_path)
    proxy.close()
    with caplog.at_level(logging.WARNING):
        assert fetch(f"s3://{bucket}/merged-models/tiny/", tmp_path) == folder
        assert fetch(f"s3://{bucket}/merged-models/tiny/config.json", tmp_path) == one
    assert "cannot be checked" in caplog.text
    with pytest.raises(ConfigError, match="cannot be reached"):
        fetch(f"s3://{bucket}/other/", tmp_path)


# --- what is verified ------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [None, "CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_content_that_is_not_what_was_uploaded_is_refused(
    algorithm: str | None, bucket: str, s3_client: Any, tmp_path: Path, requests_seen: RequestLog
) -> None:
    content = numbered(200_000)
    kept = {} if algorithm is None else {"ChecksumAlgorithm": algorithm}
    s3_client.put_object(Bucket=bucket, Key="model.bin", Body=content, **kept)
    if algorithm is None:  # the SDK adds one by itself
        stored(bucket, "model.bin").checksum_algorithm = None
    reference = f"s3://{bucket}/model.bin"
    assert fetch(reference, tmp_path / "sound").read_bytes() == content
    damaged = bytearray(content)
    damaged[123_456] ^= 1
    stored(bucket, "model.bin").value = bytes(damaged)
    before = requests_seen.downloads("model.bin")
    with pytest.raises(ConfigError, match=r"model\.bin: .* does not match the checksum"):
        fetch(reference, tmp_path / "damaged")
    assert requests_seen.downloads("model.bin") == before + 2
    assert not list((tmp_path / "damaged").rglob("manifest.json"))
    stored(bucket, "model.bin").value = content
    assert fetch(reference, tmp_path / "damaged").read_bytes() == content


@pytest.mark.parametrize("sizes", [(5 * MIB, 5 * MIB, 99), (6 * MIB, 5 * MIB, 99)], ids=str)
@pytest.mark.parametrize("algorithm", [None, "SHA256"])
def test_an_object_uploaded_in_parts_is_verified_too(
    sizes: tuple[int, ...], algorithm: str | None, bucket: str, s3_client: Any, tmp_path: Path
) -> None:
    content = numbered(sum(sizes))
    kept = {} if algorithm is None else {"ChecksumAlgorithm": algorithm}
    where = {"Bucket": bucket, "Key": "parts.bin"}
    upload = s3_client.create_multipart_upload(**where, **kept)["UploadId"]
    parts, position = [], 0
    for number, size in enumerate(sizes, 1):
        body = content[position : position + size]
        sent = s3_client.upload_part(**where, UploadId=upload, PartNumber=number, Body=body, **kept)
        sums = {k: v for k, v in sent.items() if algorithm and k == f"Checksum{algorithm}"}
        parts.append({"PartNumber": number, "ETag": sent["ETag"], **sums})
        position += size
    s3_client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": parts})
    assert fetch(f"s3://{bucket}/parts.bin", tmp_path / "sound").read_bytes() == content
    record = stored(bucket, "parts.bin")
    record.value = content[:-1] + b"\0"
    with pytest.raises(ConfigError, match="checksum"):
        fetch(f"s3://{bucket}/parts.bin", tmp_path / "damaged")


def test_what_boto3_uploads_by_itself_is_fetched(
    bucket: str, s3_client: Any, tmp_path: Path, caplog: Any
) -> None:
    content = numbered(11 * MIB)
    (tmp_path / "x").write_bytes(content)
    parts = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    s3_client.upload_file(str(tmp_path / "x"), bucket, "x", Config=parts)
    with caplog.at_level(logging.INFO, "serve_app"):
        assert fetch(f"s3://{bucket}/x", tmp_path / "cache").read_bytes() == content
    assert "size was checked" not in caplog.text


def test_a_truncated_object_is_refused(bucket: str, s3_client: Any, tmp_path: Path) -> None:
    content = numbered(300_000)
    s3_client.put_object(Bucket=bucket, Key="model.bin", Body=content)
    record = stored(bucket, "model.bin")
    record.value = content[:200_000]
    record.contentsize = len(content)  # the listing still says what it was
    with pytest.raises(ConfigError, match=r"model\.bin: the server holds fewer than the 300000"):
        fetch(f"s3://{bucket}/model.bin", tmp_path)
    assert not list(tmp_path.rglob("manifest.json"))


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["../../escape.txt", "/etc/escape.txt", "a//escape.txt"])
def test_a_key_that_would_leave_the_folder_is_refused(
    key: str, bucket: str, s3_client: Any, tmp_path: Path
) -> None:
    s3_client.put_object(Bucket=bucket, Key=f"evil/{key}", Body=b"x")
    s3_client.put_object(Bucket=bucket, Key="evil/config.json", Body=b"x")
    with pytest.raises(ConfigError, match=r"escape\.txt"):
        fetch(f"s3://{bucket}/evil/", tmp_path)
    assert not contents(tmp_path)


def test_a_key_that_is_both_file_and_folder_is_an_error(
    bucket: str, s3_client: Any, tmp_path: Path
) -> None:
    s3_client.put_object(Bucket=bucket, Key="both/x", Body=b"file")
    s3_client.put_object(Bucket=bucket, Key="both/x/y", Body=b"below it")
    with pytest.raises(ConfigError, match="cannot write"):
        fetch(f"s3://{bucket}/both/", tmp_path)
    assert not list(tmp_path.rglob("y"))


def test_a_link_planted_in_the_cache_is_not_followed(bucket: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "config.json").write_bytes(FILES["config.json"])
    cache = tmp_path / "cache"
    reference = f"s3://{bucket}/merged-models/tiny/"
    folder = fetch(reference, cache)
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(outside / "config.json")  # right size, wrong place
    folder = fetch(reference, cache)
    assert not (folder / "config.json").is_symlink()
    # In place of the unfinished download:
    artifact = folder.parent.parent
    (folder / "config.json").unlink()
    (artifact / "partial").symlink_to(outside)
    assert contents(fetch(reference, cache)) == FILES
    assert sorted(p.name for p in outside.iterdir()) == ["config.json"]
    # In place of the whole folder:
    artifact.rename(tmp_path / "moved")
    artifact.symlink_to(tmp_path / "moved")
    for path in (tmp_path / "moved").glob("*/manifest.json"):
        path.unlink()
    with pytest.raises(ConfigError, match="symbolic link"):
        fetch(reference, cache)


# --- what goes wrong, in words -----------------------------------------------------------------


def test_missing_bucket_key_and_prefix_are_named(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no bucket 'absent-bucket'"):
        fetch("s3://absent-bucket/model/", tmp_path)
    with pytest.raises(ConfigError, match="nothing is at") as caught:
        fetch(f"s3://{bucket}/nothing", tmp_path)
    assert bucket in caught.value.message
    assert "'nothing/'" in caught.value.message


def test_no_credentials_says_how_to_give_them(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigError, match="AWS_ACCESS_KEY_ID"):
        fetch(f"s3://{bucket}/merged-models/tiny/", tmp_path)


def test_credentials_and_endpoint_may_come_from_a_profile(
    bucket: str, aws: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    config.write_text(
        f"[profile team]\nendpoint_url = {aws}\nregion = us-east-1\n"
        "aws_access_key_id = id\naws_secret_access_key = secret\n"
    )
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "team")
    assert contents(fetch(f"s3://{bucket}/merged-models/tiny/", tmp_path / "cache")) == FILES


def test_an_unknown_profile_and_a_bad_endpoint_are_named(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    with pytest.raises(ConfigError, match="no-such-profile"):
        fetch(f"s3://{bucket}/merged-models/tiny/", tmp_path)
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "not a url")
    with pytest.raises(ConfigError, match="not a url"):
        fetch(f"s3://{bucket}/merged-models/tiny/", tmp_path)


def test_denied_access_names_the_permissions(
    aws: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(Denying) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(ConfigError, match="s3:GetObject") as caught:
            fetch("s3://private-bucket/model/", tmp_path)
    assert "private-bucket" in caught.value.message
    assert "test-secret-key" not in caught.value.message
