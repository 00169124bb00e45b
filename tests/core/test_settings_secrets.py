"""Secrets among the settings: Ray is not given them to keep, and no process goes on without one."""

from __future__ import annotations

import pytest
from ray import cloudpickle

from serve_app.app import build
from serve_app.core.errors import ConfigError
from serve_app.core.settings import load_settings, secret_settings

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
