"""Types `plainmed ops` as a user does, against the stage of `tests/ops/fakes.py`."""

from __future__ import annotations

import functools
import os
from typing import Any

import boto3
import yaml
from click.testing import Result
from typer.testing import CliRunner

from serve_app.cli.main import app
from tests.ops.fakes import Cluster, Stage
from tests.support.paths import ROOT

METRICS, GENERATOR = "plainmed-metrics", "plainmed-generator"
REPOSITORY = "123456789012.dkr.ecr.us-east-1.amazonaws.com/plainmed-dev/cpu"


@functools.cache
def session(url: str) -> Any:
    return boto3.session.Session()


@functools.cache
def client_of(service: str, url: str) -> Any:
    return session(url).client(service, region_name="us-east-1", endpoint_url=url)


def client(service: str) -> Any:
    return client_of(service, os.environ["AWS_ENDPOINT_URL"])


def ops(*words: str, typed: str = "") -> Result:
    arguments = ["ops", *words, "--root", str(ROOT)]
    return CliRunner().invoke(app, arguments, input=typed, env={"COLUMNS": "200"})


def done(*words: str, typed: str = "") -> str:
    result = ops(*words, typed=typed)
    assert result.exit_code == 0, result.output + str(result.exception)
    return result.output


def refused(*words: str, code: int = 2, typed: str = "") -> str:
    result = ops(*words, typed=typed)
    assert result.exit_code == code, result.output + str(result.exception)
    return result.output


_deployed: dict[tuple[str, ...], dict[str, str]] = {}
STATE_BUCKET = "plainmed-tfstate-123456789012-us-east-1"


def deployed(stage: Stage, cluster: Cluster, *words: str) -> None:
    """Both services up and the log empty: by the command itself, then as that left everything."""
    if words not in _deployed:
        done("deploy", "all", "--yes", *words)
        _deployed[words] = stage.snapshot()
    else:
        stage.restore(_deployed[words])
        client("s3").create_bucket(Bucket=STATE_BUCKET)
        cluster.namespace = yaml.safe_load((ROOT / "k8s" / "namespace.yaml").read_text())
    stage.forget_calls()
