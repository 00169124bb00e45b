"""Times things in turns, so that a busy moment hits all of them alike; knows nothing of metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass
class Timing:
    """What one side took, and what it gave the last time."""

    seconds: list[float] = field(default_factory=list)
    result: Any = None

    @property
    def median(self) -> float:
        return median(self.seconds)


def interleave(sides: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Timing]:
    """Runs every side once unmeasured, then `rounds` times in turns (A B C, A B C, ...)."""
    timings = {name: Timing() for name in sides}
    for side in sides.values():
        side()
    for _ in range(rounds):
        for name, side in sides.items():
            start = time.perf_counter()
            timings[name].result = side()
            timings[name].seconds.append(time.perf_counter() - start)
    return timings


@dataclass
class Row:
    """One line of the table: a case in one precision beside its peer.

    Attributes:
        case: what is computed.
        peer: what it is compared with.
        dtype: precision of our side; the peer's is always float32.
        peer_s: median seconds of the peer.
        ours_s: median seconds of ours.
        target: the ratio wanted, or None.
        deviation: largest difference of a score, or None where scores are not compared.
        note: what else the reader should know.
    """

    case: str
    peer: str
    dtype: str
    peer_s: float
    ours_s: float
    target: float | None = None
    deviation: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float:
        return self.peer_s / self.ours_s

    @property
    def reached(self) -> bool | None:
        return None if self.target is None else self.ratio >= self.target

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Row:
        """What `as_dict` gave."""
        return cls(**{name: value for name, value in values.items() if name != "ratio"})

    def as_dict(self) -> dict[str, Any]:
        """All of it with the ratio, for JSON."""
        return {**asdict(self), "ratio": self.ratio}
