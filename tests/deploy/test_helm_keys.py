"""The chart's API keys: every pod gets them as a file that can change, or is told to do without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve_app.api.auth.api_keys import dump_keys, new_key
from serve_app.api.auth.host_gate import Unprotected, check_exposure
from serve_app.api.auth.key_source import KeySource
from serve_app.core.settings import load_settings
from tests.support.helm_releases import RELEASES, objects, pods, serve_config


def environment(template: dict[str, Any]) -> dict[str, str]:
    (container,) = template["spec"]["containers"]
    return {item["name"]: item.get("value", "") for item in container["env"]}


@pytest.mark.parametrize("release", sorted(set(RELEASES) - {"no-keys"}))
def test_every_pod_reads_the_keys_from_a_file_of_the_secret(release: str) -> None:
    for name, template in pods(objects(release)).items():
        assert "ALLOW_NO_KEYS" not in environment(template), name
        file = Path(environment(template)["API_KEYS_FILE"])
        (mount,) = [
            item
            for item in template["spec"]["containers"][0]["volumeMounts"]
            if item["mountPath"] == str(file.parent)
        ]
        # A file mounted by subPath would never change, and a key could not be taken back.
        assert "subPath" not in mount
        assert mount["readOnly"] is True
        (volume,) = [v for v in template["spec"]["volumes"] if v["name"] == mount["name"]]
        assert volume["secret"]["secretName"] == "plainmed-api-keys"
        assert volume["secret"]["items"] == [{"key": file.name, "path": file.name}]
        # Read by the group that fsGroup gives, by nobody else.
        assert volume["secret"]["defaultMode"] == 0o440
        assert template["spec"]["securityContext"]["fsGroup"] == 1000


def test_without_keys_every_pod_is_told_so_and_gets_no_secret() -> None:
    for template in pods(objects("no-keys")).values():
        assert environment(template)["ALLOW_NO_KEYS"] == "true"
        assert "API_KEYS_FILE" not in environment(template)
        assert not [v for v in template["spec"]["volumes"] if "secret" in v]


@pytest.mark.parametrize("release", ["cpu-metrics", "no-keys", "dev"])
def test_the_application_starts_with_what_the_chart_sets_and_not_without(
    release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Gateway's own check, with the pod's environment and the address it serves on."""
    items = objects(release)
    host = serve_config(items)["http_options"]["host"]
    with pytest.raises(Unprotected):
        check_exposure(load_settings(), host)
    for name, value in environment(next(iter(pods(items).values()))).items():
        if "KEYS" in name:
            monkeypatch.setenv(name, value)
    check_exposure(load_settings(), host)


def test_a_secret_changed_under_a_running_pod_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the kubelet does it: a new folder, and the link to it replaced."""
    monkeypatch.setattr("serve_app.api.auth.key_source.LOOK_EVERY_S", 0.0)
    first, second = new_key(), new_key()
    for name, made in (("..1", first), ("..2", second)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "keys.json").write_text(dump_keys([made.entry]))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "keys.json").symlink_to("..data/keys.json")
    source = KeySource(tmp_path / "keys.json", None)
    assert source.ring().find(first.key)
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert source.ring().find(second.key)
    assert source.ring().find(first.key) is None


def test_the_notes_say_how_to_make_the_keys_and_how_to_call_with_one() -> None:
    from tests.support.helm_releases import render

    notes = render("plainmed", *RELEASES["cpu-metrics"])["NOTES.txt"]
    assert "create secret generic plainmed-api-keys --from-file=keys.json" in notes
    assert '-H "authorization: Bearer $KEY"' in notes
    open_notes = render("plainmed", *RELEASES["no-keys"])["NOTES.txt"]
    assert "everybody who reaches the port may call" in open_notes
    assert "Bearer" not in open_notes
