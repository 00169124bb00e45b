"""The application's own metrics: their one list, and the interface that records them.

Knows no Ray and no HTTP. Tests hold the chart's dashboard and alerts and the documentation to this
list. No label or value ever comes from a text; labels have few values (unknown routes are `other`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_SHARES = tuple(round(0.05 * step, 2) for step in range(1, 21))
_GRADES = tuple(float(grade) for grade in range(2, 25))
_COUNTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1024.0)
_TOKENS = tuple(float(2**power) for power in range(4, 16))
_RATES = (1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0)
_BYTES = tuple(float(4**power) for power in range(4, 13))


@dataclass(frozen=True, slots=True)
class Spec:
    """One metric.

    Attributes:
        kind: a counter only rises, a gauge is the last value, a histogram counts values by size.
        help: what it measures, with its unit.
        labels: its own, besides those Serve adds (application, deployment, replica).
        buckets: upper bounds of a histogram.
    """

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


SPECS = {
    "plainmed_requests": Spec("counter", "Requests answered.", ("route", "status")),
    "plainmed_errors": Spec("counter", "Errors answered, by their code.", ("code",)),
    "plainmed_request_seconds": Spec(
        "histogram",
        "From the head of a request to its answer, errors left out, seconds.",
        ("route",),
        _SECONDS,
    ),
    "plainmed_stage_seconds": Spec(
        "histogram",
        "Time of a request's stages, as its log line has them, seconds.",
        ("stage",),
        _SECONDS,
    ),
    "plainmed_request_bytes": Spec("histogram", "Size of bodies, bytes.", ("route",), _BYTES),
    "plainmed_requests_under_way": Spec("gauge", "Requests a gateway has under way."),
    "plainmed_batch_items": Spec("histogram", "Texts or pairs of a batch.", (), _COUNTS),
    "plainmed_batch_tokens": Spec("histogram", "Tokens of a batch.", (), _TOKENS),
    "plainmed_batch_seconds": Spec("histogram", "Time to compute a batch, seconds.", (), _SECONDS),
    "plainmed_queue_seconds": Spec(
        "histogram",
        "Until the first text of a request was begun, or nobody waited, seconds.",
        (),
        _SECONDS,
    ),
    "plainmed_queued_items": Spec("gauge", "Texts or pairs that wait in a replica."),
    "plainmed_tokens": Spec("counter", "Tokens that went through an encoder."),
    "plainmed_cache_hits": Spec("counter", "Texts whose embeddings were kept."),
    "plainmed_cache_misses": Spec("counter", "Texts whose embeddings had to be computed."),
    "plainmed_truncations": Spec(
        "counter", "Pairs of which a model did not read all.", ("metric",)
    ),
    "plainmed_score": Spec("histogram", "Relevance and factuality.", ("metric", "model"), _SHARES),
    "plainmed_grade": Spec("histogram", "FKGL, SMOG and Dale-Chall.", ("metric", "model"), _GRADES),
    "plainmed_loss": Spec(
        "histogram",
        "Loss of profile cochrane, with the weights of each request.",
        ("relevance_model", "factuality_model"),
        _SHARES,
    ),
    "plainmed_summaries": Spec(
        "counter", "Summaries written, by how they ended.", ("model", "finish_reason")
    ),
    "plainmed_prompt_tokens": Spec("counter", "Tokens a generator has read.", ("model",)),
    "plainmed_completion_tokens": Spec("counter", "Tokens a generator has written.", ("model",)),
    "plainmed_generation_seconds": Spec(
        "histogram", "Time of a generator's call, seconds.", ("model",), _SECONDS
    ),
    "plainmed_generation_rate": Spec(
        "histogram", "Tokens a second of a generator's call.", ("model",), _RATES
    ),
    "plainmed_model": Spec("gauge", "1 for the model a replica runs.", ("model", "device")),
}
"""By name. Ray exports them with the prefix `ray_`, and counters with the suffix `_total`."""


class Telemetry(Protocol):
    """Where metrics go."""

    def record(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Adds to a counter, sets a gauge, or adds a value to a histogram.

        Raises:
            KeyError: there is no such metric, or it has other labels.
        """


def check(name: str, labels: dict[str, str]) -> Spec:
    """The metric of that name, or `KeyError` as of `Telemetry.record`."""
    spec = SPECS[name]
    if set(labels) != set(spec.labels):
        raise KeyError(f"{name} has the labels {spec.labels}, not {tuple(labels)}")
    return spec


class Unrecorded:
    """For a process without Ray: checks names and labels, drops the values."""

    def record(self, name: str, value: float = 1.0, **labels: str) -> None:
        """See `Telemetry`."""
        check(name, labels)


def exported(name: str) -> str:
    """A metric's name in Prometheus (of a histogram, the prefix of its series).

    >>> exported("plainmed_requests"), exported("plainmed_loss")
    ('ray_plainmed_requests_total', 'ray_plainmed_loss')
    """
    return f"ray_{name}_total" if SPECS[name].kind == "counter" else f"ray_{name}"
