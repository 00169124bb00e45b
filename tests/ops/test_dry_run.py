"""`--dry-run` prints what then runs; the make targets and the page say the same."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serve_app.cli.main import app
from tests.ops.command import GENERATOR, METRICS, REPOSITORY, ROOT, deployed, done
from tests.ops.fakes import Cluster, Stage

LOOKING = ["status", "endpoints", "logs"]
CHANGING = [
    ["deploy", "all"],
    ["redeploy", "generator"],
    ["plan"],
    ["apply", "metrics"],
    ["stop"],
    ["restore"],
    ["destroy", "all"],
    ["destroy", "metrics"],
    ["rollback", "generator"],
    ["max-specs"],
    ["normal-specs"],
]


@pytest.mark.parametrize("words", CHANGING, ids=" ".join)
def test_a_dry_run_runs_nothing_and_needs_nothing(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    said = done(*words, "--dry-run")
    assert "+ " in said
    assert not list(tmp_path.iterdir())


def test_every_verb_has_a_dry_run_that_is_tested() -> None:
    from serve_app.ops.cli import app as ops_app

    names = {c.callback.__name__.replace("_", "-") for c in ops_app.registered_commands}
    assert names == {words[0] for words in CHANGING} | set(LOOKING)


@pytest.mark.parametrize("verb", LOOKING)
def test_a_dry_run_of_looking_asks_nobody_and_says_what_it_would_ask(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    lines = done(verb, "--dry-run").splitlines()
    assert [METRICS in lines[0], GENERATOR in lines[1], len(lines)] == [True, True, 2]
    assert all(line.startswith("# would ") for line in lines)


@pytest.mark.parametrize("words", CHANGING, ids=" ".join)
def test_a_dry_run_prints_what_then_runs(stage: Stage, cluster: Cluster, words: list[str]) -> None:
    deployed(stage, cluster, "--tag", "v1")
    if words[0] == "rollback":
        done("redeploy", "generator", "--tag", "v2")
        stage.forget_calls()
    given = ["--tag", "v2"] if words[0] in ("deploy", "redeploy") else []
    lines = done(*words, "--dry-run", *given).splitlines()
    printed = [shlex.split(line[2:]) for line in lines if line.startswith("+ ")]
    assert stage.calls() == []
    done(*words, *given, *(["--yes"] if words[0] in ("deploy", "apply", "destroy") else []))
    ran = [c for c in stage.calls() if c[0] != "(stdin)" and c[1] != "version"]
    if words[0] == "destroy":
        printed = [p for p in printed if "rm" not in p]  # nothing permanent in this state
    known = {"ACCOUNT": "123456789012", "VPC_ID": "vpc-1"}
    known |= {"REPOSITORY": REPOSITORY, "TAG": "v1", "REVISION": "1"}
    assert [[fill(word, known) for word in line] for line in printed] == ran


def fill(word: str, known: dict[str, str]) -> str:
    for name, value in known.items():
        word = re.sub(rf"\b{name}\b(?!=)", value, word)  # not in `--build-arg REVISION=`
    return word


def test_the_earlier_make_targets_call_the_verbs() -> None:
    if shutil.which("make") is None:
        pytest.skip("needs make")
    expected = {
        "startall": "deploy all",
        "stopall": "stop all",
        "restoreall": "restore all",
        "destroyall": "destroy all",
        "alb-dns": "endpoints all",
        "show_endpoints": "endpoints all",
        "metricas-status": "status metrics",
        "generador-status": "status generator",
        "generador-plan": "plan generator",
        "generador-apply": "apply generator",
        "generador-max-specs": "max-specs",
        "generador-normal-specs": "normal-specs",
    }
    for spanish, english in (("metricas", "metrics"), ("generador", "generator")):
        for verb in ("deploy", "redeploy", "stop", "restore", "destroy"):
            expected[f"{verb}-{spanish}"] = f"{verb} {english}"
    for target, words in expected.items():
        said = subprocess.run(
            ["make", "--no-print-directory", "--dry-run", target],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert said.splitlines()[-1].rstrip().endswith(f"plainmed ops {words}"), target


def test_the_operations_page_shows_what_a_dry_run_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for name in ("MODEL_NAME", "MODEL_S3_BUCKET", "PLAINMED_ENV", "PLAINMED_STATE_BUCKET"):
        monkeypatch.delenv(name, raising=False)
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    blocks = re.findall(
        r"^```\n\$ plainmed (ops [^\n]+)\n(.*?)^```", page, re.MULTILINE | re.DOTALL
    )
    assert len(blocks) >= 4
    for command, shown in blocks:
        result = CliRunner().invoke(app, shlex.split(command))
        assert result.output == shown, command


def test_the_operations_page_names_every_verb() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    from serve_app.ops.cli import app as ops_app

    for command in ops_app.registered_commands:
        assert command.callback is not None
        assert f"`{command.callback.__name__.replace('_', '-')}`" in page
