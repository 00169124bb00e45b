"""The options of one generation: names, types, ranges and defaults, once for every layer.

Requests, settings, clients and engines take them from here. No engine and no HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self, TypedDict

from pydantic import Field, TypeAdapter, ValidationError

from serve_app.core.errors import InvalidInput

MaxNewTokens = Annotated[int, Field(ge=1, le=32768)]
Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
TopP = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
RepeatPenalty = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]


class SamplingOptions(TypedDict, total=False):
    """What a caller may choose; the server's settings fill in the rest."""

    max_new_tokens: int
    temperature: float
    top_p: float
    repeat_penalty: float
    seed: int


@dataclass(frozen=True)
class GenerationParams:
    """How to generate one summary.

    Attributes:
        max_new_tokens: longest summary in tokens (words, for engines without tokens).
        temperature: 0 decodes greedily.
        top_p: nucleus sampling threshold.
        repeat_penalty: 1 is none.
        seed: makes the output repeatable whatever it is batched with; None draws afresh.
        variant: index of a best-of-n candidate. 0 is the ordinary answer; every other variant is
            made to differ from it. The same seed and variant give the same output.
    """

    max_new_tokens: MaxNewTokens = 512
    temperature: Temperature = 0.2
    top_p: TopP = 0.9
    repeat_penalty: RepeatPenalty = 1.015
    seed: Seed | None = None
    variant: Annotated[int, Field(ge=0)] = 0

    @classmethod
    def over(cls, defaults: Any, given: Mapping[str, Any]) -> Self:
        """The options given, where not None, over the attributes of `defaults` (the settings)."""
        names = ("max_new_tokens", "temperature", "top_p", "repeat_penalty")
        values = {name: getattr(defaults, name) for name in names}
        return cls(**values | {name: one for name, one in given.items() if one is not None})

    def check(self) -> None:
        """Raises `InvalidInput` (`invalid_parameter`) naming the option that is out of range."""
        try:
            _PARAMS.validate_python(vars(self))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = str(first["loc"][0])
            rule = first["msg"].removeprefix("Input should be ")
            raise InvalidInput(
                f"{name} is {getattr(self, name)}; it must be {rule}",
                field=name,
                code="invalid_parameter",
            ) from None

    def seed_of(self, *, variant_step: int, below: int, window: int = 0) -> int | None:
        """The seed of this variant and one window; with one seed for all, they would draw alike.

        >>> GenerationParams(seed=5, variant=2).seed_of(variant_step=1000, below=2**31)
        2005

        Args:
            variant_step: distance between the seeds of two variants. It belongs to an engine for
                good: another one would give other summaries for the seeds of earlier requests.
            below: seeds are in [0, below).
            window: index of a window of a long text.

        Returns:
            None where there is no seed.
        """
        if self.seed is None:
            return None
        return (self.seed + window * _WINDOW_STEP + self.variant * variant_step) % below


_WINDOW_STEP = 1_000_003
_PARAMS = TypeAdapter(GenerationParams)
