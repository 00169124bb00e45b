"""What a public forge reads: workflows, templates, citation, policies; and the version bump.

Each is read as the forge reads it, and what it names (make targets, files, build targets, versions)
must exist here.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app import __version__
from serve_app.cli.doctor import PYTHONS
from tests.docs.blocks import read_page
from tests.docs.commands import commands, problems
from tests.support.paths import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
BY_BRANCH = {"pypa/gh-action-pypi-publish@release/v1"}
"""Its maintainers' own way to follow it; a commit of it could not be looked up."""


def read(path: Path) -> dict[Any, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def jobs(path: Path) -> dict[str, dict[str, Any]]:
    return read(path)["jobs"]


def program(name: str) -> str | None:
    """A program of this environment or of the machine."""
    own = Path(sys.executable).parent / name
    return str(own) if own.is_file() else shutil.which(name)


# --- workflows --------------------------------------------------------------------------------


def test_actionlint_finds_nothing() -> None:
    actionlint = program("actionlint")
    if actionlint is None:
        pytest.skip("needs actionlint (https://github.com/rhysd/actionlint)")
    done = subprocess.run([actionlint, *WORKFLOWS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_one_commit_and_its_version_is_said(path: Path) -> None:
    used = re.findall(r"uses: (\S+)(.*)", path.read_text(encoding="utf-8"))
    assert used
    for action, comment in used:
        if action not in BY_BRANCH:
            assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", action)
            assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), action


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_job_may_only_read_unless_it_says_more_and_ends(path: Path) -> None:
    assert read(path)["permissions"] == {"contents": "read"}
    for name, job in jobs(path).items():
        assert job["timeout-minutes"] <= 120, name
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False
            # An expression in a script is code that whoever names a branch may write.
            assert "${{" not in step.get("run", ""), name


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_what_a_step_calls_exists(path: Path) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    for name, job in jobs(path).items():
        for step in job["steps"]:
            for line in step.get("run", "").splitlines():
                for command in commands(re.sub(r">+ *\S+", "", line)):
                    wrong = [one for one in problems(command) if "neither a setting" not in one]
                    assert not wrong, f"{name}: {line}"
                    for word in command.words:
                        if word.startswith("helm/"):
                            assert (ROOT / word).exists(), word
            target = step.get("with", {}).get("target")
            matrix = job.get("strategy", {}).get("matrix", {})
            targets = [one["target"] for one in matrix.get("include", [])] or [target]
            for one in targets if target else []:
                assert re.search(rf"^FROM runtime AS {one}$", dockerfile, re.MULTILINE), one


def test_the_tests_run_on_every_python_that_is_supported() -> None:
    matrix = jobs(ROOT / ".github/workflows/ci.yml")["tests"]["strategy"]["matrix"]["python"]
    (major, oldest), (_, newest) = PYTHONS
    assert matrix == [f"{major}.{minor}" for minor in range(oldest, newest + 1)]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == f">={matrix[0]}"


def test_everything_that_is_published_is_attested() -> None:
    release = jobs(ROOT / ".github/workflows/release.yml")
    for name in ("package", "images"):
        uses = [step.get("uses", "") for step in release[name]["steps"]]
        assert any(one.startswith("actions/attest-build-provenance@") for one in uses), name
        assert release[name]["permissions"]["attestations"] == "write"
    assert set(release["release"]["needs"]) == {"pypi", "images", "chart"}


# --- templates and policies -------------------------------------------------------------------


@pytest.mark.parametrize("path", [p for p in FORMS if p.stem != "config"], ids=lambda p: p.name)
def test_an_issue_form_is_one(path: Path) -> None:
    form = read(path)
    assert form["name"]
    assert form["description"]
    fields = [one for one in form["body"] if one["type"] != "markdown"]
    assert fields
    assert len({one["id"] for one in fields}) == len(fields)
    for one in form["body"]:
        assert one["type"] in {"markdown", "textarea", "input", "dropdown", "checkboxes"}
        assert one["attributes"]["value" if one["type"] == "markdown" else "label"]
    for command in re.findall(r"`(plainmed [^`]+)`", path.read_text(encoding="utf-8")):
        assert not [problem for one in commands(command) for problem in problems(one)]


@pytest.mark.parametrize("name", ["SECURITY.md", "CODE_OF_CONDUCT.md"])
def test_a_policy_names_no_mailbox_and_its_links_lead_somewhere(name: str) -> None:
    path = ROOT / name
    assert not re.search(r"[\w.]+@[\w-]+\.\w+", path.read_text(encoding="utf-8"))
    for _, target in read_page(path).links:
        assert target.startswith("https://") or (ROOT / target).is_file(), target


def test_the_citation_is_valid_and_of_this_version() -> None:
    citation = read(ROOT / "CITATION.cff")
    assert citation["version"] == __version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["license"] == project["license"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    if cffconvert := program("cffconvert"):
        done = subprocess.run(
            [cffconvert, "--validate"], cwd=ROOT, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr


# --- the release ------------------------------------------------------------------------------

BUMP = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["bumpversion"]
# A version that stays: what made a file, or what was released then.
HISTORY = {
    "CHANGELOG.md",
    "docs/calibration.md",
    "docs/report.md",
    "serve_app/resources/targets-embedded.json",
    "tests/support/calibration_corpus.py",
}
GENERATED = ("k8s/generator.yaml", "k8s/metrics.yaml", "tests/fixtures/helm/")
_VERSION = re.compile(rf"(?<![\d.]){re.escape(__version__)}(?![\d.])")


def test_the_bump_finds_all_that_it_changes() -> None:
    assert BUMP["current_version"] == __version__
    for entry in BUMP["files"]:
        text = (ROOT / entry["filename"]).read_text(encoding="utf-8")
        search = (
            entry["search"].format(current_version=__version__) if not entry.get("regex") else None
        )
        if search is None:
            unreleased = re.search(entry["search"], text)
            assert unreleased or f"## {__version__}" in text
        else:
            assert search in text, entry


def test_no_file_keeps_the_old_version_after_a_bump() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if name in HISTORY or name.startswith(GENERATED) or path.is_symlink() or not path.is_file():
            continue
        if (
            path.suffix in {".lock", ".png", ".svg", ".safetensors", ".ipynb"}
            or "constraints" in name
        ):
            continue
        text = path.read_bytes().decode("utf-8", "replace")
        for entry in BUMP["files"]:
            if entry["filename"] == name and not entry.get("regex"):
                text = text.replace(entry["search"].format(current_version=__version__), "")
        text = re.sub(
            rf'"[\w-]+[>=]={re.escape(__version__)}"|current_version = .*', "", text
        )  # dependencies'
        assert not _VERSION.search(text), name


def test_one_command_writes_commits_and_tags_the_next_version(tmp_path: Path) -> None:
    bump = program("bump-my-version")
    if bump is None:
        pytest.skip("needs bump-my-version: uv tool install bump-my-version")
    clone = tmp_path / "clone"
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    done = subprocess.run([*git, "clone", "-q", "--no-local", ROOT, clone], check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    for key, value in (("user.name", "a"), ("user.email", "a@example.org")):
        subprocess.run(["git", "config", key, value], cwd=clone, check=True)
    changelog = clone / "CHANGELOG.md"
    if "## Unreleased" not in changelog.read_text(encoding="utf-8"):
        pytest.skip("nothing is unreleased")
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    subprocess.run(
        [bump, "bump", "minor"],
        cwd=clone,
        check=True,
        env={"PATH": path, "HOME": str(tmp_path), "PYTHONPATH": str(clone)},
    )
    major, minor, _ = __version__.split(".")
    after = f"{major}.{int(minor) + 1}.0"
    tags = subprocess.run(
        ["git", "tag", "--points-at", "HEAD"], cwd=clone, capture_output=True, text=True, check=True
    )
    assert tags.stdout.split() == [f"v{after}"]
    state = subprocess.run(
        ["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True
    )
    assert state.stdout == ""
    assert f'__version__ = "{after}"' in (clone / "serve_app/__init__.py").read_text()
    assert f"plainmed-{after}" in (clone / "k8s/metrics.yaml").read_text()
    text = changelog.read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(after)}, \d{{4}}-\d\d-\d\d$", text, re.MULTILINE)
    notes = ["make", "--silent", "release-notes", f"VERSION={after}"]
    said = subprocess.run(notes, cwd=clone, capture_output=True, text=True, check=True).stdout
    assert said.strip() == text.split("\n## ")[1].partition("\n")[2].strip()
