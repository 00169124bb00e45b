"""`compose.yaml` and the dev container: they parse, and what they name exists and fits together.

No container engine is needed: the schema is Compose's own, and each service's command runs here
where a package brings its program.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import httpx
import jsonschema
import pytest
import yaml

from serve_app.cli.demo import free_port, running
from serve_app.cli.doctor import DASHBOARD_PORT
from serve_app.core.settings import Settings
from serve_app.serving.server import STOP_S, load_document
from tests.docs.commands import commands, problems
from tests.support.helm_releases import objects, one
from tests.support.paths import ROOT
from tests.support.servers import wait_for

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
DEVCONTAINER = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))
CACHE = "/var/cache/plainmed"


def content(name: str) -> dict[str, Any]:
    """A file that compose.yaml writes into a container."""
    return yaml.safe_load(COMPOSE["configs"][name]["content"])


def test_the_file_is_a_compose_file() -> None:
    schema = ROOT / "tests/support/vendor/compose-spec/compose-spec.json"
    jsonschema.validate(COMPOSE, json.loads(schema.read_text(encoding="utf-8")))
    assert set(SERVICES) == {"plainmed", "prometheus", "grafana", "s3"}


def test_every_image_is_ours_or_has_an_exact_version() -> None:
    for name, service in SERVICES.items():
        if "build" not in service:
            assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name
    target = SERVICES["plainmed"]["build"]["target"]
    assert re.search(rf"^FROM runtime AS {target}$", DOCKERFILE, re.MULTILINE)


def test_what_is_mounted_and_configured_exists() -> None:
    for service in SERVICES.values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert source in COMPOSE["volumes"] or (ROOT / source).is_file()
        for one_config in service.get("configs", []):
            assert one_config["source"] in COMPOSE["configs"]


def test_only_this_machine_reaches_a_published_port() -> None:
    """Nothing asks for a key here."""
    published = {port for one in SERVICES.values() for port in one.get("ports", [])}
    assert published
    assert all(re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port) for port in published)
    said = (ROOT / "compose.yaml").read_text(encoding="utf-8").partition("name:")[0]
    assert all(f"http://{port.rpartition(':')[0]}" in said for port in published)


def test_the_application_starts_with_its_environment_and_drains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = SERVICES["plainmed"]
    runtime = re.search(r"^FROM base AS runtime$.*?^ARG BASE_IMAGE$", DOCKERFILE, re.M | re.S)
    assert runtime is not None
    (host,) = re.findall(r"\bHOST=(\S+)", runtime[0])
    for name, value in {"HOST": host, **service["environment"]}.items():
        monkeypatch.setenv(name, value)
    document = load_document(ROOT / "serve_config.yaml")  # refused without keys, but for one line
    port = document["http_options"]["port"]
    assert f"127.0.0.1:{port}:{port}" in service["ports"]
    monkeypatch.delenv("ALLOW_NO_KEYS")
    with pytest.raises(Exception, match="API_KEYS_FILE"):
        load_document(ROOT / "serve_config.yaml")
    grace = int(service["stop_grace_period"].removesuffix("s"))
    assert grace >= Settings.model_fields["drain_timeout_s"].default + STOP_S
    # A new volume gets owner and mode of the image's folder: user 1000 can write there.
    assert f"install -d -o 1000 -g 1000 {CACHE}" in runtime[0]
    assert f"cache:{CACHE}" in service["volumes"]


def test_prometheus_reads_the_list_of_ports_where_ray_writes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray._common.utils import get_default_ray_temp_dir
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    folder = SERVICES["plainmed"]["environment"]["RAY_TMPDIR"]
    monkeypatch.setenv("RAY_TMPDIR", folder)
    (scrape,) = content("prometheus")["scrape_configs"]
    (discovery,) = scrape["file_sd_configs"]
    assert discovery["files"] == [
        f"{get_default_ray_temp_dir()}/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"
    ]
    assert folder == CACHE
    assert f"cache:{CACHE}:ro" in SERVICES["prometheus"]["volumes"]
    # In the application's network, whose Ray keeps its ports to itself; published there, too.
    assert SERVICES["prometheus"]["network_mode"] == "service:plainmed"
    assert "ports" not in SERVICES["prometheus"]
    assert "127.0.0.1:9090:9090" in SERVICES["plainmed"]["ports"]


def test_grafana_shows_the_charts_dashboard_with_the_label_that_prometheus_adds(
    tmp_path: Path,
) -> None:
    service = SERVICES["grafana"]
    (mount,) = service["volumes"]
    source, inside, _ = mount.split(":")
    shell, option, script = service["entrypoint"]
    # The container's own command, without what starts Grafana.
    made, _, started = script.rpartition(" && ")
    assert started == "exec /run.sh"
    made = made.replace(inside, str(ROOT / source)).replace("/tmp/dashboards", str(tmp_path))
    subprocess.run([shell, option, made], check=True)
    (file,) = tmp_path.iterdir()
    (charts,) = one(objects("ha"), "ConfigMap")["data"].values()
    assert json.loads(file.read_text(encoding="utf-8")) == json.loads(charts)
    (scrape,) = content("prometheus")["scrape_configs"]
    assert {"target_label": "release", "replacement": "plainmed"} in scrape["relabel_configs"]
    (provider,) = content("dashboards")["providers"]
    assert provider["options"]["path"] == "/tmp/dashboards"
    home = service["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"/tmp/dashboards/{file.name}"
    (datasource,) = content("datasource")["datasources"]
    assert datasource["type"] == json.loads(charts)["templating"]["list"][0]["query"]
    assert datasource["url"] == "http://plainmed:9090"


def test_s3_answers_by_its_own_command(tmp_path: Path) -> None:
    service = SERVICES["s3"]
    version = re.search(r"^moto==(\d+\.\d+)\.", (ROOT / "constraints.txt").read_text(), re.M)
    assert version is not None
    assert service["image"].startswith(f"motoserver/moto:{version[1]}.")
    environment = SERVICES["plainmed"]["environment"]
    assert environment["AWS_ENDPOINT_URL"] == "http://s3:5000"
    port = str(free_port())
    arguments = [{"0.0.0.0": "127.0.0.1", "5000": port}.get(one, one) for one in service["command"]]
    program = Path(sys.executable).parent / "moto_server"
    with running([str(program), *arguments], tmp_path / "log") as process:
        client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name=environment["AWS_REGION"],
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        )
        wait_for(lambda: process.poll() is not None or answers(f"http://127.0.0.1:{port}"))
        client.create_bucket(Bucket="models")
        assert [one["Name"] for one in client.list_buckets()["Buckets"]] == ["models"]


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code < 500
    except httpx.HTTPError:
        return False


def test_prometheus_takes_its_command_and_adds_the_label(tmp_path: Path) -> None:
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("needs Prometheus: apt-get install prometheus")
    from prometheus_client import start_http_server

    exporter, thread = start_http_server(0, "127.0.0.1")
    listed = tmp_path / "ports.json"
    target = f"127.0.0.1:{exporter.server_port}"
    listed.write_text(json.dumps([{"labels": {"job": "ray"}, "targets": [target]}]))
    config = content("prometheus")
    config["scrape_configs"][0]["file_sd_configs"] = [{"files": [str(listed)]}]
    config["global"]["scrape_interval"] = "1s"
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    places = {"/etc/prometheus": str(tmp_path), "/prometheus": str(tmp_path / "data")}
    arguments = []
    for argument in SERVICES["prometheus"]["command"]:
        option, _, value = argument.partition("=")
        place = next(place for place in places if value.startswith(place))
        arguments.append(f"{option}={value.replace(place, places[place], 1)}")
    url = f"http://127.0.0.1:{free_port()}"
    listen = f"--web.listen-address={url.removeprefix('http://')}"
    found: list[Any] = []

    def scraped() -> bool:
        if answers(f"{url}/-/ready"):
            asked = httpx.get(f"{url}/api/v1/query", params={"query": 'up{release="plainmed"}'})
            found[:] = asked.json()["data"]["result"]
        return bool(found)

    try:
        with running([program, *arguments, listen], tmp_path / "log"):
            wait_for(scraped)
    finally:
        exporter.shutdown()
        thread.join()
    assert found[0]["metric"]["job"] == "ray"
    assert found[0]["value"][1] == "1"


# --- .devcontainer ----------------------------------------------------------------------------


def test_the_dev_container_makes_the_environment_that_it_opens() -> None:
    for command in commands(DEVCONTAINER["postCreateCommand"]):
        assert command.program == "make"
        assert not problems(command)
    interpreter = DEVCONTAINER["customizations"]["vscode"]["settings"]
    assert interpreter["python.defaultInterpreterPath"].endswith("/.venv/bin/python")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (version,) = re.findall(r"command -v python(3\.\d+) ", makefile)
    assert f"python:{version}-" in DEVCONTAINER["image"]


def test_the_dev_container_shows_the_ports_that_a_server_has() -> None:
    assert DEVCONTAINER["forwardPorts"] == [Settings.model_fields["port"].default, DASHBOARD_PORT]
    assert set(DEVCONTAINER["portsAttributes"]) == set(map(str, DEVCONTAINER["forwardPorts"]))
    assert os.environ.get("HF_HUB_OFFLINE") == DEVCONTAINER["containerEnv"]["HF_HUB_OFFLINE"]
