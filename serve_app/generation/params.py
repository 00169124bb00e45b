"""What every engine asks of the settings of a summary: their ranges, and a seed for each draw.

Knows numbers only: no engine, no text and no random generator.
"""

from __future__ import annotations

import math

from serve_app.core.errors import InvalidInput
from serve_app.generation.protocol import GenerationParams

_WINDOW_STEP = 1_000_003


def require_params(params: GenerationParams) -> None:
    """Raises `InvalidInput` (`invalid_parameter`) naming the parameter that is out of range."""
    checks = (
        ("max_new_tokens", params.max_new_tokens >= 1, "at least 1"),
        ("temperature", 0 <= params.temperature <= 2, "between 0 and 2"),
        ("top_p", 0 < params.top_p <= 1, "above 0 and at most 1"),
        (
            "repeat_penalty",
            params.repeat_penalty > 0 and math.isfinite(params.repeat_penalty),
            "a finite number above 0",
        ),
        ("seed", params.seed is None or 0 <= params.seed < 2**63, "between 0 and 2^63 - 1"),
        ("variant", params.variant >= 0, "at least 0"),
    )
    for name, holds, rule in checks:
        if not holds:
            raise InvalidInput(
                f"{name} is {getattr(params, name)}; it must be {rule}",
                field=name,
                code="invalid_parameter",
            )


def own_seed(
    params: GenerationParams, *, variant_step: int, below: int, window: int = 0
) -> int | None:
    """The seed of one variant and window; with one seed for all, they would draw alike.

    >>> own_seed(GenerationParams(seed=5, variant=2), variant_step=1000, below=2**31)
    2005

    Args:
        params: their `seed` and `variant` count.
        variant_step: how far apart the seeds of two variants are. It belongs to an engine for
            good: another one would give other summaries for the seeds of earlier requests.
        below: seeds are in [0, below).
        window: which part of a long text.

    Returns:
        None where `params` have no seed.
    """
    if params.seed is None:
        return None
    return (params.seed + window * _WINDOW_STEP + params.variant * variant_step) % below
