"""`plainmed generate`: one summary, from this process's engine or from a server.

Both sources are seen as what `generate_stream` of the client gives: pieces, then the answer.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from serve_app.cli_tables import read_text
from serve_app.client import PlainMedClient, SamplingOptions
from serve_app.errors import InvalidInput
from serve_app.schemas import GenerateResponse


def read_input(name: str) -> str:
    """The text of a file, or of standard input where the name is `-`.

    Raises:
        InvalidInput: it cannot be read, is not UTF-8, or is empty.
    """
    if name != "-":
        text = read_text(Path(name))
    else:
        try:
            text = sys.stdin.buffer.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InvalidInput(f"standard input is not UTF-8 text (byte {error.start})") from error
    if not text.strip():
        raise InvalidInput(f"{'standard input' if name == '-' else name} is empty")
    return text


def generate_there(
    client: PlainMedClient, text: str, sampling: SamplingOptions, stream: bool
) -> Iterator[str | GenerateResponse]:
    """Pieces (where streamed) and the answer of a server."""
    if stream:
        yield from client.generate_stream(text, **sampling)
    else:
        yield client.generate(text, **sampling)


def generate_here(
    text: str, sampling: SamplingOptions, stream: bool
) -> Iterator[str | GenerateResponse]:
    """Pieces (where streamed) and the answer of the engine the settings name, loaded now.

    Raises:
        ConfigError: a setting or model is wrong.
        InvalidInput: the text cannot be summarised.
    """
    # Seconds of imports, so not before they are needed.
    from serve_app.generation.loading import load_generator
    from serve_app.generation.protocol import GenerationParams
    from serve_app.metrics.text import require_text
    from serve_app.responses import summary_out
    from serve_app.settings import load_settings

    require_text(text, "text")
    settings = load_settings()
    params = GenerationParams(
        max_new_tokens=sampling.get("max_new_tokens", settings.max_new_tokens),
        temperature=sampling.get("temperature", settings.temperature),
        top_p=sampling.get("top_p", settings.top_p),
        repeat_penalty=sampling.get("repeat_penalty", settings.repeat_penalty),
        seed=sampling.get("seed"),
    )
    engine = load_generator(settings)
    if not stream:
        yield summary_out(engine.generate([text], [params])[0])
        return
    for item in engine.stream(text, params):
        yield item if isinstance(item, str) else summary_out(item)
