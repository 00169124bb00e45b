"""The application with metrics and a generator that stumble over marked texts.

As a library or a bug would: with an error whose message quotes the text. Everything around them is
the real thing: batches, loss, gateway. Beside the project's own in the tests' server.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray import serve

from serve_app.app import _options
from serve_app.core.context import RequestContext
from serve_app.core.settings import load_settings
from serve_app.generation.protocol import GenerationParams, Summary
from serve_app.serving.deployments.gateway import Gateway
from serve_app.serving.deployments.generator import FairExecutor, Generator
from serve_app.serving.deployments.loss import Loss
from serve_app.serving.deployments.metrics import _PairMetric

FAULTS: dict[str, type[Exception]] = {
    "uncomputable": ValueError,  # a computation that fails
    "buggy": AssertionError,  # an error of no kind we know
    "treacherous": KeyError,  # one that only the gateway meets
}
"""Which word of a text raises what."""


def stumble(texts: Sequence[str]) -> None:
    """Raises the error of the first marked text, with all of it in its message."""
    for text in texts:
        for word, kind in FAULTS.items():
            if word in text and word != "treacherous":
                raise kind(f"cannot take {text!r}")


class Score:
    """A result that raises where it is read, in the gateway."""

    def __init__(self, text: str) -> None:
        self.text = text

    @property
    def f1(self) -> float:
        if "treacherous" in self.text:
            raise FAULTS["treacherous"](self.text)
        return 0.5


class Scorer:
    """As a metric's."""

    name, device, tokens = "faulty", "cpu", 0

    def score(self, originals: Sequence[str], generated: Sequence[str]) -> list[Score]:
        stumble(generated)
        return [Score(text) for text in generated]


class Engine:
    """As a generator's; what it writes begins with what it was given."""

    name, device, batch_size, candidates_together = "faulty", "cpu", 1, False

    def validate(self, text: str, params: GenerationParams) -> None:
        """Takes any."""

    def generate(
        self, texts: Sequence[str], params: Sequence[GenerationParams], **_: Any
    ) -> list[Summary]:
        stumble(texts)
        return [Summary(text, self.name) for text in texts]

    def stream(self, text: str, params: GenerationParams, **_: Any) -> Iterator[str | Summary]:
        yield text[:20]
        stumble([text])
        yield Summary(text, self.name)


class _Both(_PairMetric, Generator.func_or_class):  # type: ignore[misc, name-defined]
    """Every metric and the generator in one replica."""

    def __init__(self, settings: Any) -> None:
        super().__init__(Scorer(), settings)
        self._engine = Engine()
        self._turns = FairExecutor(ThreadPoolExecutor(2))

    async def score(self, first: Sequence[str], *rest: Any) -> list[Any]:
        """Of pairs, or (as readability is asked) of texts."""
        second = first if isinstance(rest[0], RequestContext) else rest[0]
        return await super().score(first, second, rest[-1])


Faulty = serve.deployment(_Both)


def build(arguments: dict[str, Any]) -> Any:
    """As `serve_app.app.build`."""
    settings = load_settings(**arguments)
    faulty = _options(Faulty, "Faulty", num_cpus=0.02).bind(settings)
    loss = _options(Loss, "Loss", num_cpus=0.02).bind(settings, faulty, faulty, faulty)
    return _options(Gateway, "Gateway", num_cpus=0.02).bind(
        settings, Relevance=faulty, Factuality=faulty, Readability=faulty, Loss=loss,
        Generator=faulty,
    )  # fmt: skip
