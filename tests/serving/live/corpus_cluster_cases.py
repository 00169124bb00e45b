"""Corpora on a real Ray cluster of several nodes, one of which is killed in the middle."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
import torch
from moto.server import ThreadedMotoServer
from transformers import AutoModel
from typer.testing import CliRunner

from serve_app.cli.main import app
from serve_app.core.errors import ConfigError
from serve_app.metrics.align_model import AlignModel, CompactConfig, save_compact
from serve_app.offline.calibration import calibrate_targets
from serve_app.offline.corpus import ScoreJob, Scorer
from serve_app.offline.corpus.local_engine import LocalEngine
from serve_app.offline.corpus.ray_engine import RayEngine, RayOptions
from serve_app.storage import s3
from serve_app.storage.artifacts import embedded_path
from tests.support.corpus_tools import (
    OverlapRecipe,
    OverlapScorer,
    make_rows,
    read_rows,
    write_rows,
)
from tests.support.texts import GENERATED, ORIGINALS

NODES = 3
STORE = 100 * 2**20  # bytes; the least is 75 MiB


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the nodes see: S3 on loopback, and a small factuality model."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    folder = tmp_path_factory.mktemp("align") / "tiny"
    torch.manual_seed(0)
    model = AlignModel(AutoModel.from_pretrained(embedded_path("all-MiniLM-L6-v2")))
    save_compact(
        model, folder, CompactConfig("tiny", "embedded:all-MiniLM-L6-v2", 1, 100, "nli_sp")
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test-key-id")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret-key")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("ALIGNSCORE_MODEL", str(folder))
        # A folder of its own: another Ray on this machine must neither join nor be joined.
        patch.setenv("RAY_TMPDIR", tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        patch.setenv("RAY_agent_register_timeout_ms", "120000")  # the machine may be busy
        patch.setenv("DEVICE", "cpu")
        s3.client.cache_clear()
        yield
        s3.client.cache_clear()
        shutil.rmtree(os.environ["RAY_TMPDIR"], ignore_errors=True)
    server.stop()


@pytest.fixture(scope="module")
def cluster(environment: None) -> Iterator[Any]:
    """A head and two nodes of one CPU each."""
    import ray
    from ray.cluster_utils import Cluster

    options = {"num_cpus": 1, "object_store_memory": STORE}
    running = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
    for _ in range(NODES - 1):
        running.add_node(**options)
    yield running
    ray.shutdown()
    running.shutdown()


def score(
    job: ScoreJob, cluster: Any, recipe: Callable[[], Scorer], **options: Any
) -> tuple[int, int]:
    engine = RayEngine(recipe, RayOptions(cluster.address, gpus=0.0))
    outcome = job.run(lambda: engine, {}, **options)
    return outcome.rows, outcome.failed


def workers_of(node: Any) -> set[int]:
    """The processes a node has started."""
    raylet = node.all_processes["raylet"][0].process.pid
    return {child.pid for child in psutil.Process(raylet).children(recursive=True)}


def test_the_same_numbers_come_from_a_cluster_and_from_one_process(
    cluster: Any, tmp_path: Path
) -> None:
    pairs = [
        {"source_text": one, "target_text": other, "split": "train"}
        for one, other in zip(ORIGINALS, GENERATED, strict=True)
    ]
    source = write_rows(tmp_path / "in.csv", [*pairs, {**pairs[0], "target_text": "..."}])
    for name, options in (("local", []), ("ray", ["--address", cluster.address])):
        arguments = ["score", str(source), "--out", str(tmp_path / f"{name}.jsonl"), *options]
        result = CliRunner().invoke(app, [*arguments, "--batch-size", "2"])
        assert result.exit_code == 1, result.output
        assert "4 of 5 rows scored" in result.stderr
    local, ray = read_rows(tmp_path / "local.jsonl"), read_rows(tmp_path / "ray.jsonl")
    assert local[4].pop("error_code") == ray[4].pop("error_code") == "no_words"
    for one, other in zip(local, ray, strict=True):
        numbers = {name for name, value in one.items() if isinstance(value, float)}
        assert {name: one[name] for name in numbers} == pytest.approx(
            {name: other[name] for name in numbers}, abs=1e-5
        )
        assert {name: one[name] for name in one.keys() - numbers} == {
            name: other[name] for name in one.keys() - numbers if name in other
        }
    human = write_rows(tmp_path / "human.jsonl", pairs)
    targets = calibrate_targets(human, progress=False, chunk_size=2)
    there = calibrate_targets(human, progress=False, chunk_size=2, address=cluster.address)
    assert there.mean == pytest.approx(targets.mean, abs=1e-5)
    assert there.sigma == pytest.approx(targets.sigma, abs=1e-5)
    assert there.models == targets.models
    numbers = ("distributions", "probe")  # which another process rounds differently
    for name in targets.details.keys() - set(numbers):
        assert there.details[name] == targets.details[name]
    assert there.calibration is not None


def test_a_run_stopped_on_a_cluster_goes_on_there_with_its_errors_by_row(
    cluster: Any, tmp_path: Path
) -> None:
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="cluster-corpora")
    rows = make_rows(60)
    rows[7]["summary"], rows[33]["summary"] = "poison", "lone \ud800 surrogate"
    source = write_rows(tmp_path / "in.jsonl", rows)
    s3.upload_file(str(source), "cluster-corpora", "in.jsonl")
    job = ScoreJob.prepare(
        "s3://cluster-corpora/in.jsonl", "s3://cluster-corpora/out.jsonl", batch_size=4
    )
    finished: list[int] = []

    def stop(count: int) -> None:
        finished.append(count)
        if len(finished) == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(job, cluster, OverlapRecipe(), on_rows=stop)
    log = tmp_path / "log"
    assert score(job, cluster, OverlapRecipe(str(log))) == (60, 2)
    assert len(log.read_text().splitlines()) >= 60 - 6 * 4 - 2
    run = ScoreJob.prepare(source, tmp_path / "whole.jsonl", batch_size=4)
    run.run(lambda: LocalEngine(OverlapScorer()), {})
    written = s3.get_object(Bucket="cluster-corpora", Key="out.jsonl")["Body"].read()
    assert written == (tmp_path / "whole.jsonl").read_bytes()
    assert s3.list_objects_v2(Bucket="cluster-corpora")["KeyCount"] == 2


def broken_recipe() -> Scorer:
    raise ConfigError("there are no weights on this node")


def test_workers_without_models_are_one_message(cluster: Any, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.csv", make_rows(8))
    job = ScoreJob.prepare(source, tmp_path / "out.csv", batch_size=4)
    with pytest.raises(ConfigError, match="there are no weights on this node"):
        score(job, cluster, broken_recipe)


def test_every_row_is_there_once_after_a_node_was_killed(cluster: Any, tmp_path: Path) -> None:
    rows = make_rows(240)
    source = write_rows(tmp_path / "in.csv", rows)
    log, victim = tmp_path / "log", cluster.list_all_nodes()[-1]
    killed: set[int] = set()
    done = 0

    def kill(count: int) -> None:
        nonlocal done
        done += count
        scorers = {int(line.split()[0]) for line in log.read_text().splitlines()}
        if not killed and scorers & workers_of(victim):
            killed.update(workers_of(victim))
            cluster.remove_node(victim, allow_graceful=False)

    job = ScoreJob.prepare(source, tmp_path / "out.csv", batch_size=4)
    assert score(job, cluster, OverlapRecipe(str(log), seconds=0.05), on_rows=kill) == (240, 0)
    assert done == 240
    written = read_rows(tmp_path / "out.csv")
    assert [row["id"] for row in written] == [row["id"] for row in rows]
    assert all(float(row["loss"]) > 0 for row in written)
    scored = [line.split(maxsplit=1) for line in log.read_text().splitlines()]
    assert {int(pid) for pid, _ in scored} & killed, "the killed node had scored nothing"
    assert {int(pid) for pid, _ in scored} - killed
    assert {text for _, text in scored} == {row["summary"] for row in rows}
    assert not (tmp_path / "out.csv.parts").exists()
    assert json.dumps(written)
