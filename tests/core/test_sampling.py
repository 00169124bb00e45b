"""The options of a generation: one range for every layer, and seeds that stay the same for good."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from serve_app.core.errors import ConfigError, InvalidInput
from serve_app.core.sampling import GenerationParams
from serve_app.core.schemas import GenerateRequest
from serve_app.core.settings import load_settings
from serve_app.generation.causal.engine import _window_params


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", 32769),
        ("temperature", 2.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("repeat_penalty", 10.5),
        ("repeat_penalty", float("inf")),
        ("seed", -1),
        ("seed", 2**63),
    ],
)
def test_requests_settings_and_engines_refuse_the_same_values(name: str, value: Any) -> None:
    with pytest.raises(InvalidInput, match=name) as caught:
        GenerationParams(**{name: value}).check()
    assert (caught.value.field, caught.value.code) == (name, "invalid_parameter")
    with pytest.raises(ValidationError, match=name):
        GenerateRequest(text="A cat.", **{name: value})
    if name != "seed":
        with pytest.raises(ConfigError, match=name.upper()):
            load_settings(**{name: value})


def test_the_defaults_of_settings_and_engines_are_the_same_and_a_request_overrides_them() -> None:
    assert GenerationParams.over(load_settings(), {}) == GenerationParams()
    given = {"temperature": 0.0, "top_p": None, "seed": 7}
    found = GenerationParams.over(load_settings(top_p=0.5), given)
    assert found == GenerationParams(temperature=0.0, top_p=0.5, seed=7)


def test_the_seeds_of_the_transformers_engine_stay_what_they_were() -> None:
    """Other numbers would be other summaries for the seeds of earlier requests."""
    params = GenerationParams(seed=5)
    assert _window_params(params, 0) == params
    assert _window_params(params, 2).seed == 2_000_011
    assert _window_params(GenerationParams(seed=5, variant=3), 1).seed == 23_757_001_000_107
    assert _window_params(GenerationParams(seed=2**63 - 1, variant=1), 0).seed == 7_919_000_000_032


def test_variants_and_windows_have_seeds_apart_and_none_stays_none() -> None:
    found = [
        GenerationParams(seed=seed, variant=variant).seed_of(variant_step=7, below=2**31)
        for seed in (0, 100, 2**63 - 1)
        for variant in range(5)
    ]
    assert len(set(found)) == 15
    assert all(seed is not None and 0 <= seed < 2**31 for seed in found)
    assert GenerationParams(variant=3).seed_of(variant_step=7, below=2**31, window=2) is None
