"""Corpora in S3, against moto's HTTP server, and against lines that break."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serve_app.core.errors import ConfigError, InvalidInput
from serve_app.offline.calibration import read_pairs
from serve_app.offline.corpus import ScoreJob
from serve_app.offline.corpus.local_engine import LocalEngine
from serve_app.storage import s3
from serve_app.storage.locate import locate
from tests.support.artifact_servers import Denying, FlakyProxy, serving
from tests.support.corpus_runs import SUFFIXES, Killed, StoppingEngine
from tests.support.corpus_tools import OverlapScorer, make_rows, read_rows, write_rows


@pytest.fixture
def aws(aws: str) -> Iterator[str]:
    """As for all tests; the module keeps a s3_client, which must be of this test's server."""
    s3.client.cache_clear()
    yield aws
    s3.client.cache_clear()


@pytest.fixture
def bucket(s3_client: Any) -> Iterator[str]:
    s3_client.create_bucket(Bucket="corpora")
    yield "corpora"
    for name in keys(s3_client):
        s3_client.delete_object(Bucket="corpora", Key=name)
    s3_client.delete_bucket(Bucket="corpora")


def keys(s3_client: Any) -> set[str]:
    found = s3_client.list_objects_v2(Bucket="corpora").get("Contents", [])
    return {item["Key"] for item in found}


def upload(s3_client: Any, path: Path) -> str:
    s3_client.upload_file(str(path), "corpora", f"in/{path.name}")
    return f"s3://corpora/in/{path.name}"


def prepare(source: object, out: object) -> ScoreJob:
    return ScoreJob.prepare(str(source), str(out), batch_size=4)


def run(job: ScoreJob, engine: Any = None) -> Any:
    return job.run(lambda: engine or LocalEngine(OverlapScorer()), {})


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_from_s3_to_s3_is_as_from_disk_to_disk(tmp_path: Path, s3_client: Any, suffix: str) -> None:
    local = write_rows(tmp_path / f"in{suffix}", make_rows(23))
    run(prepare(local, tmp_path / f"out{suffix}"))
    run(prepare(upload(s3_client, local), f"s3://corpora/scored/out{suffix}"))
    written = s3_client.get_object(Bucket="corpora", Key=f"scored/out{suffix}")["Body"].read()
    assert written == (tmp_path / f"out{suffix}").read_bytes()
    assert keys(s3_client) == {f"in/in{suffix}", f"scored/out{suffix}"}


@pytest.mark.usefixtures("bucket")
def test_a_killed_run_in_s3_goes_on(tmp_path: Path, s3_client: Any) -> None:
    source = upload(s3_client, write_rows(tmp_path / "in.csv", make_rows(40)))
    out, log = "s3://corpora/out.csv", tmp_path / "log"
    with pytest.raises(Killed):
        run(prepare(source, out), StoppingEngine(OverlapScorer(), 6))
    assert "out.csv" not in keys(s3_client)
    assert "out.csv.parts/block-000005.json" in keys(s3_client)
    run(prepare(source, out), LocalEngine(OverlapScorer(str(log))))
    assert len(log.read_text().splitlines()) == 16
    s3_client.download_file("corpora", "out.csv", str(tmp_path / "out.csv"))
    assert [row["id"] for row in read_rows(tmp_path / "out.csv")] == [f"r{n}" for n in range(40)]
    assert keys(s3_client) == {"in/in.csv", "out.csv"}


@pytest.mark.usefixtures("bucket")
def test_calibration_reads_pairs_from_s3(tmp_path: Path, s3_client: Any) -> None:
    rows = [
        {"source_text": "A long text.", "target_text": "A text.", "split": "train"},
        {"source_text": "Another text.", "target_text": "A text.", "split": "test"},
    ]
    pairs = read_pairs(upload(s3_client, write_rows(tmp_path / "pairs.parquet", rows)))
    assert [(pair.row, pair.source) for pair in pairs] == [(1, "A long text.")]
    with pytest.raises(ConfigError, match=r"s3://corpora/none\.csv: there is no such object"):
        read_pairs("s3://corpora/none.csv")


@pytest.mark.usefixtures("bucket")
def test_an_answer_that_breaks_off_is_asked_for_again(
    tmp_path: Path, s3_client: Any, aws: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = write_rows(tmp_path / "in.csv", make_rows(2000))
    name = upload(s3_client, local)
    proxy = FlakyProxy(aws, faults=2, limit=100_000)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    s3.client.cache_clear()
    with locate(name).open() as file:
        assert b"".join(file) == local.read_bytes()
    assert proxy.faults == 0


@pytest.mark.usefixtures("bucket")
def test_an_object_replaced_meanwhile_is_noticed(tmp_path: Path, s3_client: Any) -> None:
    name = upload(s3_client, write_rows(tmp_path / "in.csv", make_rows(20)))
    job = prepare(name, "s3://corpora/out.csv")
    upload(s3_client, write_rows(tmp_path / "in.csv", make_rows(21)))
    with pytest.raises(InvalidInput, match="changed while"):
        run(job)
    assert "out.csv" not in keys(s3_client)


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
        s3.client.cache_clear()
        with pytest.raises(InvalidInput, match="access denied") as caught:
            locate("s3://private/x.csv").beside(".parts").names()
        assert "test-secret-key" not in str(caught.value)
    s3.client.cache_clear()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(InvalidInput, match="no AWS credentials; set AWS_ACCESS_KEY_ID"):
        prepare("s3://nowhere/x.csv", tmp_path / "out.csv")
