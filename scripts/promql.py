"""Prometheus expressions over the metrics that there are, for dashboard.py and alerts.py.

Our own metrics are named by `serve_app.core.observability.instruments` and checked for their kind,
so no expression can name one that is not there. Those of Ray, and the labels of all, are held
against a running application by a test (tests/serving/live/test_telemetry.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.api.endpoints import CALLS
from serve_app.core.observability.instruments import SPECS, exported

COMPUTING = f'route=~"{"|".join(sorted(CALLS))}"'
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

        Of Serve's own those of our application: another may run beside it, as with vLLM.
        """
        ours = _APPLICATION if name.startswith(_SERVE) else ""
        return f"{name}{{{','.join(filter(None, (self.release, ours, more)))}}}"

    def rate(self, name: str, by: str = "", more: str = "") -> str:
        """A counter's increase a second."""
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
        """A metric as it is exported, summed."""
        return f"sum{_by(by)}({self.of(name)})"

    def ray_rate(self, name: str, by: str = "", more: str = "") -> str:
        """A counter as it is exported, its increase a second."""
        return f"sum{_by(by)}(rate({self.of(name, more)}[{self.window}]))"

    def started(self, time: str) -> str:
        """A series of each replica that was started within `time`, as `30m`.

        Every replica has its own, which stays while its node does, so what is new is counted.
        """
        series = self.of("ray_serve_deployment_replica_starts_total")
        return f"count_over_time({series}[{time}]) unless {series} offset {time}"


def _must_be(name: str, kind: str) -> None:
    if SPECS[name].kind != kind:
        raise ValueError(f"{name} is no {kind}")


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else ""
