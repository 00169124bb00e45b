"""Where the API listens, by which names it is called and who may: refused where everybody could,
and each way round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.api.app import create_app
from serve_app.api.auth.api_keys import dump_keys, new_key
from serve_app.api.auth.host_gate import Unprotected, check_exposure, is_loopback, is_own_name
from serve_app.api.middleware.request_guard import Traffic
from serve_app.core.errors import ConfigError
from serve_app.core.settings import load_settings
from serve_app.serving.server import load_document
from tests.support.servers import LightBackend

PUBLIC = ["0.0.0.0", "::", "", "10.1.2.3", "2001:db8::1", "example.org", "127.0.0.1.example.org"]
PRIVATE = ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST", "::ffff:127.0.0.1"]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOST", "PORT", "API_KEYS", "API_KEYS_FILE", "ALLOW_NO_KEYS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("RAY_SERVE_ENABLE_HA_PROXY", raising=False)


@pytest.mark.parametrize("host", PUBLIC)
def test_an_address_that_others_reach_needs_keys(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(Unprotected, match="plainmed keys new") as caught:
        check_exposure(load_settings(), host)
    # Each way out is named.
    for word in ("API_KEYS_FILE", "127.0.0.1", "ALLOW_NO_KEYS"):
        assert word in caught.value.message


@pytest.mark.parametrize("host", PRIVATE)
def test_a_machine_of_ones_own_needs_none(host: str) -> None:
    check_exposure(load_settings(), host)


@pytest.mark.parametrize(
    "given",
    [
        {"allow_no_keys": True},
        {"api_keys_file": "keys.json"},
        {"api_keys": dump_keys([new_key().entry])},
    ],
)
def test_keys_or_a_word_of_the_operator_open_it(given: dict[str, Any]) -> None:
    check_exposure(load_settings(**given), "0.0.0.0")


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_serve_refuses_before_anything_starts_wherever_the_address_comes_from(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="API_KEYS_FILE"):
        load_document(None, host=host)
    config = tmp_path / "serve.yaml"
    config.write_text(
        f'http_options: {{host: "{host}"}}\napplications: [{{import_path: serve_app.app:build}}]\n'
    )
    with pytest.raises(ConfigError, match="API_KEYS_FILE"):
        load_document(config)
    assert load_document(config, host="127.0.0.1")["http_options"]["host"] == "127.0.0.1"
    monkeypatch.setenv("HOST", host)
    with pytest.raises(ConfigError, match="API_KEYS_FILE"):
        load_document(None)
    monkeypatch.setenv("ALLOW_NO_KEYS", "true")
    assert load_document(None)["http_options"]["host"] == host


def test_haproxy_listens_on_every_address_whatever_the_config_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
    with pytest.raises(ConfigError, match=r"0\.0\.0\.0 can be reached"):
        load_document(None, host="127.0.0.1")


def test_the_settings_of_the_config_file_count_too(tmp_path: Path) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text(
        "http_options: {host: 0.0.0.0}\n"
        "applications:\n- import_path: serve_app.app:build\n"
        "  args: {settings: {allow_no_keys: true}}\n"
    )
    assert load_document(config)["http_options"]["host"] == "0.0.0.0"


async def test_the_gateway_refuses_where_serve_was_told_to_listen_to_everybody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What `serve run` and KubeRay meet: their address is no setting, Serve alone knows it."""
    from serve_app.serving.deployments import gateway

    monkeypatch.setattr(gateway, "_host_of_serve", lambda: "0.0.0.0")
    # Serve makes the object and awaits its constructor; what goes with Serve's end is not there.
    kind = gateway.Gateway.func_or_class
    monkeypatch.delattr(kind, "__del__")
    made = object.__new__(kind)
    with pytest.raises(Unprotected, match="ALLOW_NO_KEYS"):
        await made.__init__(load_settings())  # type: ignore[misc]


OWN = ["localhost", "LOCALHOST:8000", "localhost.", "a.localhost:80", "127.0.0.1", "127.9.9.9:8000"]
OWN += ["[::1]", "[::1]:8000"]
OTHERS = ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example"]
OTHERS += ["notlocalhost", "10.0.0.1:8000", "0.0.0.0", "[2001:db8::1]", "", ":8000", "[::1"]


@pytest.mark.parametrize("host", OWN)
def test_names_that_can_only_mean_this_machine(host: str) -> None:
    assert is_own_name(host)


@pytest.mark.parametrize("host", OTHERS)
def test_names_that_somebody_else_may_point_here(host: str) -> None:
    assert not is_own_name(host)


async def ask(named: str, method: str, path: str, host: str | None, **settings: Any) -> Any:
    app = create_app(LightBackend(), load_settings(**settings), Traffic(), host=host)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        body = {"texts": ["It helps."]} if method == "POST" else None
        return await http.request(method, path, json=body, headers={"Host": named})


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/livez"), ("POST", "/metrics/readability"), ("GET", "/none")],
)
async def test_a_page_whose_name_points_here_is_refused_and_told_what_to_do(
    method: str, path: str
) -> None:
    answer = await ask("evil.example:8000", method, path, "127.0.0.1")
    assert answer.status_code == 403
    error = answer.json()["error"]
    assert error["code"] == "host_not_allowed"
    assert "evil" not in error["message"]
    for word in ("127.0.0.1", "API_KEYS_FILE", "ALLOW_NO_KEYS"):
        assert word in error["message"]
    for named in ("localhost:8000", "127.0.0.1:8000", "[::1]:8000"):
        assert (await ask(named, method, path, "127.0.0.1")).status_code in (200, 404)


@pytest.mark.parametrize(
    ("host", "settings"),
    [
        (None, {}),
        ("127.0.0.1", {"allow_no_keys": True}),
        ("127.0.0.1", {"api_keys": dump_keys([new_key().entry])}),
        ("0.0.0.0", {"api_keys": dump_keys([new_key().entry])}),
    ],
)
async def test_where_something_asks_who_calls_any_name_will_do(
    host: str | None, settings: dict[str, Any]
) -> None:
    assert (await ask("plainmed.example", "GET", "/livez", host, **settings)).status_code == 200
