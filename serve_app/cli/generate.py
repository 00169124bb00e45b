"""`plainmed generate`: a summary, or the best of several, from an engine loaded here or a server.

Both sources yield what the client's `generate_stream` yields: pieces, then the answer.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from serve_app.client.clients import PlainMedClient
from serve_app.core.documents import read_input
from serve_app.core.errors import InvalidInput
from serve_app.core.sampling import GenerationParams, SamplingOptions
from serve_app.core.schemas import GenerateResponse, ProfileName, Select

if TYPE_CHECKING:
    from serve_app.core.settings import Settings
    from serve_app.generation.best_of import Candidates


@dataclass(frozen=True, slots=True)
class BestOf:
    """How many candidates to write and how to select among them, as in `/generate`."""

    n: int | None = None
    select: Select | None = None
    weights: Sequence[float] | None = None
    profile: ProfileName | None = None


def read_source(name: str) -> str:
    """The text of a file, or of standard input where the name is `-`.

    Raises:
        InvalidInput: it cannot be read, is not UTF-8, or is empty.
    """
    if name != "-":
        text = read_input(Path(name))
    else:
        try:
            text = sys.stdin.buffer.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InvalidInput(f"standard input is not UTF-8 text (byte {error.start})") from error
    if not text.strip():
        raise InvalidInput(f"{'standard input' if name == '-' else name} is empty")
    return text


def generate_there(
    client: PlainMedClient, text: str, sampling: SamplingOptions, stream: bool, best: BestOf
) -> Iterator[str | GenerateResponse]:
    """Pieces, if streamed, and the answer of a server."""
    if stream:
        yield from client.generate_stream(text, **sampling)
    else:
        yield client.generate(
            text,
            n=best.n,
            select=best.select,
            weights=best.weights,
            profile=best.profile,
            **sampling,
        )


def generate_here(
    text: str, sampling: SamplingOptions, stream: bool, best: BestOf
) -> Iterator[str | GenerateResponse]:
    """Pieces, if streamed, and the answer of the engine that the settings name, loaded now.

    Raises:
        ConfigError: a setting or model is wrong.
        InvalidInput: the text cannot be summarised, or the weights are wrong.
    """
    # Importing these takes seconds.
    from serve_app.api.routes.generate import generate_out, summary_out
    from serve_app.core.settings import load_settings
    from serve_app.generation import best_of
    from serve_app.generation.loading import load_generator
    from serve_app.metrics.profiles import check_profile, weights_of
    from serve_app.text.validation import require_text

    require_text(text, "text")
    weights = None
    if best.select is not None:
        weights = weights_of(check_profile(best.profile), best.weights)
    settings = load_settings()
    params = GenerationParams.over(settings, sampling)
    engine = load_generator(settings)
    if stream:
        for item in engine.stream(text, params):
            yield item if isinstance(item, str) else summary_out(item)
        return
    n = 1 if best.n is None else best.n
    groups = best_of.grouped(engine.generate(*best_of.jobs([text], params, n)), n)
    if best.select is not None:
        groups = _ranked(text, groups, settings, weights, best.profile)
    yield generate_out(groups[0], best.select, weights, best.profile)


def _ranked(
    text: str,
    groups: list[Candidates],
    settings: Settings,
    weights: Sequence[float] | None,
    profile: ProfileName | None,
) -> list[Candidates]:
    """The candidates of the text, scored with the metrics of the settings, loaded now."""
    from serve_app.generation import best_of
    from serve_app.metrics.profiles import load_profile
    from serve_app.metrics.suite import MetricSuite

    chosen = load_profile(profile, settings)
    places = best_of.to_score(groups)
    pairs = [text] * len(places), [summary for _, summary in places]
    measured = MetricSuite.from_settings(settings).measure(*pairs)
    evaluations = chosen.evaluate(measured, *pairs, weights=weights)
    return best_of.best_first(groups, places, evaluations)
