"""Corpora in S3, against moto's HTTP server, and against lines that break."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from serve_app.calibration import read_pairs
from serve_app.corpus import ScoreJob, s3_place
from serve_app.corpus.local import LocalEngine
from serve_app.corpus.places import place
from serve_app.errors import ConfigError, InvalidInput
from tests.artifact_servers import Denying, FlakyProxy, serving
from tests.corpus_tools import OverlapScorer, make_rows, read_rows, write_rows
from tests.test_corpus import SUFFIXES, Killed, StoppingEngine


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    running = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def aws(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The usual AWS chain pointed at the server, by environment alone."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test-key-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret-key")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    s3_place.client.cache_clear()
    yield server
    s3_place.client.cache_clear()


@pytest.fixture
def client(aws: str) -> Any:
    return boto3.client("s3", region_name="us-east-1", endpoint_url=aws)


@pytest.fixture
def bucket(client: Any) -> Iterator[str]:
    client.create_bucket(Bucket="corpora")
    yield "corpora"
    for name in keys(client):
        client.delete_object(Bucket="corpora", Key=name)
    client.delete_bucket(Bucket="corpora")


def keys(client: Any) -> set[str]:
    found = client.list_objects_v2(Bucket="corpora").get("Contents", [])
    return {item["Key"] for item in found}


def upload(client: Any, path: Path) -> str:
    client.upload_file(str(path), "corpora", f"in/{path.name}")
    return f"s3://corpora/in/{path.name}"


def prepare(source: object, out: object) -> ScoreJob:
    return ScoreJob.prepare(str(source), str(out), batch_size=4)


def run(job: ScoreJob, engine: Any = None) -> Any:
    return job.run(lambda: engine or LocalEngine(OverlapScorer()), {})


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_from_s3_to_s3_is_as_from_disk_to_disk(tmp_path: Path, client: Any, suffix: str) -> None:
    local = write_rows(tmp_path / f"in{suffix}", make_rows(23))
    run(prepare(local, tmp_path / f"out{suffix}"))
    run(prepare(upload(client, local), f"s3://corpora/scored/out{suffix}"))
    written = client.get_object(Bucket="corpora", Key=f"scored/out{suffix}")["Body"].read()
    assert written == (tmp_path / f"out{suffix}").read_bytes()
    assert keys(client) == {f"in/in{suffix}", f"scored/out{suffix}"}


@pytest.mark.usefixtures("bucket")
def test_a_killed_run_in_s3_goes_on(tmp_path: Path, client: Any) -> None:
    source = upload(client, write_rows(tmp_path / "in.csv", make_rows(40)))
    out, log = "s3://corpora/out.csv", tmp_path / "log"
    with pytest.raises(Killed):
        run(prepare(source, out), StoppingEngine(OverlapScorer(), 6))
    assert "out.csv" not in keys(client)
    assert "out.csv.parts/block-000005.json" in keys(client)
    run(prepare(source, out), LocalEngine(OverlapScorer(str(log))))
    assert len(log.read_text().splitlines()) == 16
    client.download_file("corpora", "out.csv", str(tmp_path / "out.csv"))
    assert [row["id"] for row in read_rows(tmp_path / "out.csv")] == [f"r{n}" for n in range(40)]
    assert keys(client) == {"in/in.csv", "out.csv"}


@pytest.mark.usefixtures("bucket")
def test_calibration_reads_pairs_from_s3(tmp_path: Path, client: Any) -> None:
    rows = [
        {"source_text": "A long text.", "target_text": "A text.", "split": "train"},
        {"source_text": "Another text.", "target_text": "A text.", "split": "test"},
    ]
    pairs = read_pairs(upload(client, write_rows(tmp_path / "pairs.parquet", rows)))
    assert [(pair.row, pair.source) for pair in pairs] == [(1, "A long text.")]
    with pytest.raises(ConfigError, match=r"s3://corpora/none\.csv: there is no such object"):
        read_pairs("s3://corpora/none.csv")


@pytest.mark.usefixtures("bucket")
def test_an_answer_that_breaks_off_is_asked_for_again(
    tmp_path: Path, client: Any, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = write_rows(tmp_path / "in.csv", make_rows(2000))
    name = upload(client, local)
    proxy = FlakyProxy(server, faults=2, limit=100_000)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    s3_place.client.cache_clear()
    with place(name).open() as file:
        assert b"".join(file) == local.read_bytes()
    assert proxy.faults == 0


@pytest.mark.usefixtures("bucket")
def test_an_object_replaced_meanwhile_is_noticed(tmp_path: Path, client: Any) -> None:
    name = upload(client, write_rows(tmp_path / "in.csv", make_rows(20)))
    job = prepare(name, "s3://corpora/out.csv")
    upload(client, write_rows(tmp_path / "in.csv", make_rows(21)))
    with pytest.raises(InvalidInput, match="changed while"):
        run(job)
    assert "out.csv" not in keys(client)


@pytest.mark.usefixtures("aws")
def test_what_is_not_there_or_not_allowed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_rows(tmp_path / "in.csv", make_rows(2))
    with pytest.raises(InvalidInput, match=r"s3://nowhere/x\.csv: there is no such object, or no"):
        prepare("s3://nowhere/x.csv", tmp_path / "out.csv")
    with pytest.raises(InvalidInput, match=r"write s3://nowhere/x\.csv: there is no such bucket"):
        prepare(source, "s3://nowhere/x.csv")
    with serving(Denying) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        s3_place.client.cache_clear()
        with pytest.raises(InvalidInput, match="access denied") as caught:
            place("s3://private/x.csv").beside(".parts").names()
        assert "test-secret-key" not in str(caught.value)
    s3_place.client.cache_clear()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(InvalidInput, match="no AWS credentials; set AWS_ACCESS_KEY_ID"):
        prepare("s3://nowhere/x.csv", tmp_path / "out.csv")
