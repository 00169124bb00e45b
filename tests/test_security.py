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
from lock import LOCKS, Lock, versions

from tests.slow import slow


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


@slow(13)
def test_what_is_shipped_holds_no_secret() -> None:
    """The rest of the repository takes `make security`; it is slow."""
    names = security.tracked(["serve_app", "helm", "k8s", "Dockerfile", "serve_config.yaml"])
    assert len(names) > 100
    assert security.unexplained(security.secrets_in(names)) == []


def test_a_secret_is_found_and_its_value_is_not_shown(tmp_path: Path) -> None:
    secret = "AKIA" + "Z7Q3M5N2" * 2
    (tmp_path / "settings.py").write_text(f'AWS_ACCESS_KEY_ID = "{secret}"\n')
    (line,) = security.unexplained(security.secrets_in(["settings.py"], tmp_path))[:1]
    assert line.startswith("settings.py:1:")
    assert secret not in line


def test_one_finding_more_than_is_explained_is_reported() -> None:
    name, (count, _) = next(iter(security.ALLOWED.items()))
    places = [(number, "Secret Keyword") for number in range(1, count + 2)]
    assert len(security.unexplained({name: places})) == count + 1
    assert security.unexplained({name: places[:count]}) == []


def test_every_explanation_is_of_a_file_that_is_there() -> None:
    missing = [name for name in security.ALLOWED if not (security.ROOT / name).is_file()]
    assert missing == []


# The largest takes three times as long, and its lines are of the same kinds.
@slow(20)
@pytest.mark.parametrize("lock", LOCKS[:2], ids=lambda lock: lock.name)
def test_the_bill_of_materials_is_valid_and_names_what_the_lock_names(
    lock: Lock, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "sbom.json"
    sbom.write(lock.path, out)
    text = out.read_text(encoding="utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    assert document["metadata"]["component"]["name"] == "plainmed"
    components = {item["name"]: item for item in document["components"]}
    named = {name: item["version"] for name, item in components.items()}
    locked = versions(lock.path.read_text(encoding="utf-8"))
    torch = sbom.torch_version().partition("==")[2]
    assert named == locked | {"torch": torch}
    for name in locked:
        assert components[name]["purl"].startswith(f"pkg:pypi/{name}@")
        references = components[name]["externalReferences"]
        assert any("hashes" in reference for reference in references), name
