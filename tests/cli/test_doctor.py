"""`plainmed doctor`: what it finds on this machine, and on machines that lack something."""

from __future__ import annotations

import builtins
import json
import socket
import sys
import types
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray  # noqa: F401 - here: its log would write for good to the streams of whoever imports it

from serve_app.cli import doctor
from serve_app.cli.demo import free_port
from serve_app.cli.doctor import Finding
from serve_app.core.settings import load_settings
from tests.support.command import plainmed
from tests.support.servers import Answer, ScriptedServer

CONFIG: dict[str, Any] = {
    "applications": [{"import_path": "serve_app.app:build", "args": {}}],
    "http_options": {"host": "127.0.0.1"},
}


def only(findings: Iterator[Finding]) -> Finding:
    (found,) = findings
    return found


@pytest.fixture
def nothing_answers(monkeypatch: pytest.MonkeyPatch) -> str:
    """S3 and the hub are asked at an address where nobody listens."""
    from huggingface_hub import constants

    nowhere = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", nowhere)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return nowhere


@pytest.mark.usefixtures("nothing_answers")
def test_a_machine_is_looked_at_and_each_finding_that_is_not_ok_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PORT", str(free_port()))
    monkeypatch.setenv("CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("DEVICE", "cpu")
    result = plainmed("doctor", "--json")
    found = {one["name"]: one for one in json.loads(result.stdout)}
    names = "Python PyTorch Ray memory /dev/shm settings port dashboard CPUs device cache hub S3"
    assert list(found) == names.split()
    assert not [one for one in found.values() if one["message"].startswith("not checked")]
    assert [one["remedy"] for one in found.values() if one["state"] == "fail"].count("") == 0
    assert result.exit_code == int("fail" in [one["state"] for one in found.values()])
    assert found["settings"]["state"] == found["port"]["state"] == found["cache"]["state"] == "ok"
    assert found["hub"]["state"] == found["S3"]["state"] == "warn"
    assert "no setting needs it" in found["S3"]["message"]


def test_wrong_settings_fail_and_what_depends_on_them_is_said_to_be_unchecked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PORT", "99999999")
    result = plainmed("doctor")
    assert result.exit_code == 1
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("fail  settings"))
    assert "PORT" in line
    assert "warn  the rest     not checked" in result.stdout
    assert "ok    port" not in result.stdout


def test_a_taken_port_fails_unless_plainmed_has_it(url: str) -> None:
    config: dict[str, Any] = {**CONFIG, "http_options": {"host": "127.0.0.1"}}
    config["http_options"]["port"] = int(url.rpartition(":")[2])
    found = only(doctor._port(config))
    assert found.state == "warn"
    assert "already answers" in found.message
    with ScriptedServer([Answer(404)]) as server:
        config["http_options"]["port"] = int(server.url.rpartition(":")[2])
        found = only(doctor._port(config))
    assert found.state == "fail"
    assert "another program uses it" in found.message
    assert "--port" in found.remedy


def test_rays_taken_dashboard_port_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setattr(doctor, "DASHBOARD_PORT", other.getsockname()[1])
        assert only(doctor._dashboard()).state == "warn"


@pytest.mark.parametrize(("cpus", "state"), [(0.5, "fail"), (1, "warn"), (16, "ok")])
def test_cpus_are_those_that_ray_counts(
    cpus: float, state: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ray._private import utils

    monkeypatch.setattr(utils, "get_num_cpus", lambda: cpus)
    monkeypatch.setattr(doctor.os, "cpu_count", lambda: 16)
    found = only(doctor._cpus(CONFIG))
    assert found.state == state
    assert ("by a limit" in (found.message if state != "fail" else "by a limit")) == (cpus != 16)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("total", "used", "state"), [(2e9, 0, "fail"), (8e9, 6e9, "warn"), (64e9, 1e9, "ok")]
)
def test_memory_is_compared_with_what_the_server_takes(
    total: float, used: float, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._common import utils as common
    from ray._private import utils

    monkeypatch.setattr(common, "get_system_memory", lambda: total)
    monkeypatch.setattr(utils, "get_used_memory", lambda: used)
    assert only(doctor._memory()).state == state


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /dev/shm")
def test_a_containers_small_shared_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import utils

    monkeypatch.setattr(utils, "get_shared_memory_bytes", lambda: 64 << 20)
    found = only(doctor._shared_memory())
    assert found.state == "warn"
    assert "--shm-size" in found.remedy


def test_a_cache_that_cannot_be_written_fails_and_a_full_disk_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    found = only(doctor._cache(load_settings(cache_dir=str(tmp_path / "file"))))
    assert found.state == "fail"
    assert "CACHE_DIR" in found.remedy
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage(100e9, 99.9e9, 0.1e9))
    found = only(doctor._cache(load_settings(cache_dir=str(tmp_path))))
    assert found.state == "warn"
    assert "0.1 GB free" in found.message


def test_a_device_that_is_not_there_fails() -> None:
    found = only(doctor._device(load_settings(device="cuda:99")))
    assert found.state == "fail"
    assert found.remedy.startswith("use auto or cpu")


@pytest.mark.usefixtures("nothing_answers")
def test_a_hub_or_s3_that_a_setting_needs_and_that_does_not_answer_fails() -> None:
    settings = load_settings(bertscore_model="hf://org/encoder", model_path="s3://bucket/model/")
    hub, s3 = only(doctor._hub(settings)), only(doctor._s3(settings))
    assert hub.state == s3.state == "fail"
    assert "BERTSCORE_MODEL" in hub.message
    assert "MODEL_PATH" in s3.message
    assert hub.remedy
    assert s3.remedy


def test_an_offline_hub_is_not_called_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = only(doctor._hub(load_settings(model_path="hf://org/model")))
    assert found.state == "warn"
    assert found.message.startswith("not asked")
    assert "MODEL_PATH" in found.remedy


@pytest.mark.parametrize(("status", "state"), [(403, "ok"), (503, "warn")])
def test_an_answer_of_any_kind_but_a_servers_error_is_one(status: int, state: str) -> None:
    with ScriptedServer([Answer(status)]) as server:
        assert doctor._answer("S3", server.url, ["model_path"], "look").state == state


def test_what_the_settings_name_in_s3_is_looked_at(
    aws: str, new_bucket: str, s3_client: Any
) -> None:
    s3_client.put_object(Bucket=new_bucket, Key="model/config.json", Body=b"{}")
    found = {
        path: [
            one.state for one in doctor._s3(load_settings(model_path=f"s3://{new_bucket}/{path}/"))
        ]
        for path in ("model", "none")
    }
    assert found == {"model": ["ok", "ok"], "none": ["ok", "fail"]}
    _, missing = doctor._s3(load_settings(model_s3_bucket="no-such-bucket", model_name="m"))
    assert missing.state == "fail"
    assert "no bucket" in missing.message


def unimportable(name: str) -> Callable[..., Any]:
    real = builtins.__import__

    def load(wanted: str, *args: Any, **kwargs: Any) -> types.ModuleType:
        if wanted == name:
            raise OSError(f"lib{name}.so: cannot open shared object file")
        return real(wanted, *args, **kwargs)

    return load


@pytest.mark.parametrize(("name", "check"), [("torch", doctor._torch), ("ray", doctor._ray)])
def test_a_library_that_cannot_be_loaded_fails_with_its_reason(
    name: str, check: Callable[[], Iterator[Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builtins, "__import__", unimportable(name))
    found = only(check())
    assert found.state == "fail"
    assert f"lib{name}.so" in found.message
    assert found.remedy.startswith("pip install")


def test_gpu_builds_without_a_gpu_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = only(doctor._torch())
    assert found.state == "warn"
    assert "whl/cpu" in found.remedy


@pytest.mark.usefixtures("nothing_answers")
def test_a_cluster_that_was_not_asked_is_no_ok(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    found = only(doctor._ray())
    assert found.state == "warn"
    assert "were not looked at" in found.message
    names = {one.name for one in doctor.diagnose()}
    assert not names & {"port", "dashboard", "CPUs", "memory", "/dev/shm"}


def test_gpus_that_are_asked_for_and_not_there_fail() -> None:
    deployment = {"name": "Generator", "ray_actor_options": {"num_cpus": 1, "num_gpus": 99}}
    (application,) = CONFIG["applications"]
    config = {**CONFIG, "applications": [{**application, "deployments": [deployment]}]}
    found = only(doctor._cpus(config))
    assert found.state == "fail"
    assert "99 GPUs" in found.message
    assert "num_gpus" in found.remedy


def test_a_check_that_breaks_hides_no_other_and_is_no_ok(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Iterator[Finding]:
        raise KeyError("x")

    monkeypatch.setattr(doctor, "_memory", broken)
    monkeypatch.setenv("PORT", "0")  # ends after the settings
    found = {one.name: one for one in doctor.diagnose()}
    assert found["memory"].state == "warn"
    assert found["memory"].message.startswith("not checked: KeyError")
    assert "settings" in found
