"""Settings: Ray is given no secret to keep, no process goes on without one, and old names warn."""

from __future__ import annotations

import pytest
from ray import cloudpickle

from serve_app.app import build
from serve_app.core.errors import ConfigError
from serve_app.core.settings import RETIRED, Settings, load_settings, secret_settings

SECRETS = ["api_keys", "openai_api_key", "hf_token"]
VALUE = "a-value-nobody-may-keep"


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.delenv(name.upper(), raising=False)


def test_these_settings_are_secret() -> None:
    assert secret_settings() == SECRETS


@pytest.mark.parametrize("name", SECRETS)
def test_pickled_settings_hold_no_secret_and_read_it_again(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name.upper(), VALUE)
    settings = load_settings(max_texts=3)
    pickled = cloudpickle.dumps(settings)
    assert VALUE.encode() not in pickled
    monkeypatch.setenv("MAX_TEXTS", "4")  # all else is as it was where the application was built
    again = cloudpickle.loads(pickled)
    assert again == settings
    assert getattr(again, name).get_secret_value() == VALUE


@pytest.mark.parametrize("name", SECRETS)
def test_a_process_that_lacks_the_secret_does_not_start(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name.upper(), VALUE)
    pickled = cloudpickle.dumps(load_settings())
    monkeypatch.delenv(name.upper())
    with pytest.raises(ConfigError, match=name.upper()):
        cloudpickle.loads(pickled)


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_of_the_serve_config_is_refused_and_not_shown(name: str) -> None:
    with pytest.raises(ConfigError, match=name.upper()) as caught:
        cloudpickle.dumps(load_settings(**{name: VALUE}))
    assert VALUE not in caught.value.message


def test_the_application_graph_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Serve keeps of a deployment are its pickled arguments."""
    for name in SECRETS:
        monkeypatch.setenv(name.upper(), VALUE)
    gateway = build({})
    nodes = [gateway._bound_deployment]
    for node in nodes:
        arguments = [*node.init_args, *node.init_kwargs.values()]
        nodes += [one._bound_deployment for one in arguments if hasattr(one, "_bound_deployment")]
        kept = [one for one in arguments if not hasattr(one, "_bound_deployment")]
        assert kept
        assert VALUE.encode() not in cloudpickle.dumps(kept)
    assert {node.name for node in nodes} >= {"Gateway", "Loss", "Relevance", "Generator"}


def test_settings_without_secrets_travel_as_they_are() -> None:
    settings = load_settings(max_texts=3)
    again = cloudpickle.loads(cloudpickle.dumps(settings))
    assert again == settings
    assert again.model_fields_set == settings.model_fields_set


def test_a_setting_of_an_earlier_version_is_ignored_with_a_warning_of_what_holds_instead(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TOKEN_BUDGET", "512")
    assert load_settings(retry_after_s=7) == load_settings()
    said = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("RETRY_AFTER_S is no longer a setting") for line in said)
    assert any("TOKEN_BUDGET" in line and "8192 tokens" in line for line in said)


def test_retired_settings_are_no_settings_and_an_unknown_name_is_refused() -> None:
    assert not RETIRED.keys() & Settings.model_fields.keys()
    with pytest.raises(ConfigError, match="TOKEN_BUDGETS: there is no such setting"):
        load_settings(token_budgets=1)
