"""`make security` and `make sbom`: clean, and shown to find what they are for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("detect_secrets", reason="needs detect-secrets, of the dev extra")
pytest.importorskip("cyclonedx_py", reason="needs cyclonedx-bom, of the dev extra")

import sbom
import security
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from lock import LOCKS, Lock, entries, versions

from tests.support.slow import slow


def test_our_code_has_nothing_that_bandit_warns_of() -> None:
    assert security.bandit() == []


def test_bandit_finds_a_shell_and_a_pickle(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "import pickle, subprocess\n"
        "def run(text, data):\n"
        "    subprocess.run(text, shell=True)\n"
        "    return pickle.loads(data)\n"
    )
    found = " ".join(security.bandit(["bad.py"], tmp_path))
    assert "B602" in found
    assert "B301" in found


def test_nothing_that_git_tracks_holds_a_secret() -> None:
    names = security.tracked()
    assert len(names) > 500
    found = security.secrets_in(names)
    assert security.unexplained(found) == []
    there = {one.identity for findings in found.values() for one in findings}
    assert set(security.ALLOWED) - there == set()  # every explanation is of something


def test_a_secret_is_found_and_its_value_is_not_shown(tmp_path: Path) -> None:
    secret = "AKIA" + "Z7Q3M5N2" * 2
    (tmp_path / "settings.py").write_text(f'AWS_ACCESS_KEY_ID = "{secret}"\n')
    (line,) = security.unexplained(security.secrets_in(["settings.py"], tmp_path))[:1]
    assert line.startswith("settings.py:1:")
    assert secret not in line


def test_another_secret_in_the_place_of_one_explained_is_reported(tmp_path: Path) -> None:
    """The same file, the same line, the same kind."""
    settings = tmp_path / "values.yaml"
    for name, reported in (("plainmed-api-keys", 0), ("correct-horse-battery", 1)):
        settings.write_text(f"secretName: {name}\n")
        found = security.secrets_in(["values.yaml"], tmp_path)
        assert len(found["values.yaml"]) == 1
        assert len(security.unexplained(found)) == reported


def check_bill(lock: Path, tmp_path: Path) -> None:
    """Makes the bill of materials of a lock: valid, and with what the lock names."""
    out = tmp_path / "new" / "sbom.json"
    sbom.write(lock, out)
    text = out.read_text(encoding="utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    assert document["metadata"]["component"]["name"] == "plainmed"
    components = {item["name"]: item for item in document["components"]}
    named = {name: item["version"] for name, item in components.items()}
    locked = versions(lock.read_text(encoding="utf-8"))
    torch = sbom.torch_version().partition("==")[2]
    assert named == locked | {"torch": torch}
    for name in locked:
        assert components[name]["purl"].startswith(f"pkg:pypi/{name}@")
        references = components[name]["externalReferences"]
        assert any("hashes" in reference for reference in references), name


def test_the_bill_of_materials_is_valid_and_names_what_the_lock_names(tmp_path: Path) -> None:
    """Of the first packages; of whole locks it takes many times as long."""
    first = tmp_path / "first.lock"
    first.write_text("".join(entries(LOCKS[0].path.read_text(encoding="utf-8"))[:5]))
    check_bill(first, tmp_path)


@slow(25)
@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_so_does_the_bill_of_each_image(lock: Lock, tmp_path: Path) -> None:
    check_bill(lock.path, tmp_path)
