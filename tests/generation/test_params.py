"""The seed of each variant and window: apart from one another, and the same for good."""

from __future__ import annotations

from serve_app.generation.causal.engine import _seeded
from serve_app.generation.params import own_seed
from serve_app.generation.protocol import GenerationParams


def test_the_seeds_of_the_transformers_engine_stay_what_they_were() -> None:
    """Other numbers would be other summaries for the seeds of earlier requests."""
    params = GenerationParams(seed=5)
    assert _seeded(params, 0) == params
    assert _seeded(params, 2).seed == 2_000_011
    assert _seeded(GenerationParams(seed=5, variant=3), 1).seed == 23_757_001_000_107
    assert _seeded(GenerationParams(seed=2**63 - 1, variant=1), 0).seed == 7_919_000_000_032


def test_variants_and_windows_have_seeds_apart_and_none_stays_none() -> None:
    found = [
        own_seed(GenerationParams(seed=seed, variant=variant), variant_step=7, below=2**31)
        for seed in (0, 100, 2**63 - 1)
        for variant in range(5)
    ]
    assert len(set(found)) == 15
    assert all(seed is not None and 0 <= seed < 2**31 for seed in found)
    assert own_seed(GenerationParams(variant=3), variant_step=7, below=2**31, window=2) is None
