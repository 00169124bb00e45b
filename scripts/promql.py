"""Prometheus expressions over the exported metrics, for dashboard.py and alerts.py.

Our own metrics come from `serve_app.core.observability.instruments` and are checked for their kind,
so no expression can name a missing one. A test compares Ray's metrics, and all labels, with a
running application (tests/serving/live/test_telemetry.py).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from serve_app.api.endpoints import ENDPOINTS
from serve_app.core.observability.instruments import SPECS, exported

COMPUTING = f'route=~"{"|".join(sorted(ENDPOINTS))}"'
"""Selects routes that compute: load balancers and the page ask the others all the time."""

_SERVE = "ray_serve_"
_APPLICATION = 'application="plainmed"'


@dataclass(frozen=True, slots=True)
class Queries:
    """Expressions about one release.

    Attributes:
        release: the selector of its series, without braces, such as `release="plainmed"`.
        window: over which rates are taken.
    """

    release: str
    window: str = "5m"

    def of(self, name: str, more: str = "") -> str:
        """The series of an exported metric; `more` selects further, as `status=~"5.."`.

        Serve's own metrics are limited to our application: another may run beside it, as vLLM does.
        """
        ours = _APPLICATION if name.startswith(_SERVE) else ""
        return f"{name}{{{','.join(filter(None, (self.release, ours, more)))}}}"

    def rate(self, name: str, by: str = "", more: str = "") -> str:
        """A counter's increase per second."""
        _must_be(name, "counter")
        return self.ray_rate(exported(name), by, more)

    def quantile(self, share: float, name: str, by: str = "", more: str = "") -> str:
        """A quantile of a histogram."""
        _must_be(name, "histogram")
        groups = f"le, {by}" if by else "le"
        buckets = self.ray_rate(f"{exported(name)}_bucket", groups, more)
        return f"histogram_quantile({share:g}, {buckets})"

    def mean(self, name: str, by: str = "") -> str:
        """The mean of a histogram's values."""
        _must_be(name, "histogram")
        parts = [self.ray_rate(f"{exported(name)}_{part}", by) for part in ("sum", "count")]
        return " / ".join(parts)

    def gauge(self, name: str, by: str) -> str:
        """The sum of a gauge over replicas."""
        _must_be(name, "gauge")
        return self.ray(exported(name), by)

    def ray(self, name: str, by: str) -> str:
        """The sum of a metric, by its exported name."""
        return f"sum{_by(by)}({self.of(name)})"

    def ray_rate(self, name: str, by: str = "", more: str = "") -> str:
        """A counter's increase per second, by its exported name."""
        return f"sum{_by(by)}(rate({self.of(name, more)}[{self.window}]))"

    def started(self, time: str) -> str:
        """One series for each replica that started within `time`, as `30m`.

        A replica's series lives as long as its node, so new ones are counted.
        """
        series = self.of("ray_serve_deployment_replica_starts_total")
        return f"count_over_time({series}[{time}]) unless {series} offset {time}"


def _must_be(name: str, kind: str) -> None:
    if SPECS[name].kind != kind:
        raise ValueError(f"{name} is not a {kind}")


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else ""


def write_or_check(file: Path, wanted: str) -> int:
    """Writes a generated file, or with --check says whether it is stale; the exit status."""
    parser = argparse.ArgumentParser(description=f"Writes {file.name}.")
    parser.add_argument("--check", action="store_true", help="write nothing")
    if not parser.parse_args().check:
        file.write_text(wanted, encoding="utf-8")
        return 0
    stale = file.read_text(encoding="utf-8") != wanted
    if stale:
        print(f"{file.name} is stale: run python scripts/{Path(sys.argv[0]).name}", file=sys.stderr)
    return int(stale)
