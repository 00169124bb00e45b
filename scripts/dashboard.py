"""Writes helm/plainmed/files/grafana-dashboard.json, the Grafana dashboard of the chart.

Panels of the application's own metrics name them by `serve_app.telemetry`, so none can name one
that is not there; those of Ray and of the pods are held against Ray's sources by a test.

python scripts/dashboard.py           # writes the file
python scripts/dashboard.py --check   # exit status 1 where it is stale
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.telemetry import SPECS, exported

FILE = Path(__file__).resolve().parent.parent / "helm" / "plainmed" / "files"
FILE /= "grafana-dashboard.json"

OF = '{release="$release"}'
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart; `lines` are a legend and an expression each."""

    title: str
    description: str
    unit: str
    lines: Sequence[tuple[str, str]]


def rate(name: str, by: str = "", labels: str = OF) -> str:
    """A counter's increase a second."""
    if SPECS[name].kind != "counter":
        raise ValueError(f"{name} is no counter")
    return f"sum{_by(by)}(rate({exported(name)}{labels}[5m]))"


def quantile(share: float, name: str, by: str = "") -> str:
    """A quantile of a histogram."""
    if SPECS[name].kind != "histogram":
        raise ValueError(f"{name} is no histogram")
    groups = f"le, {by}" if by else "le"
    series = f"sum by ({groups}) (rate({exported(name)}_bucket{OF}[5m]))"
    return f"histogram_quantile({share:g}, {series})"


def mean(name: str, by: str = "") -> str:
    """The mean of a histogram's values."""
    parts = [f"sum{_by(by)}(rate({exported(name)}_{part}{OF}[5m]))" for part in ("sum", "count")]
    return " / ".join(parts)


def gauge(name: str, by: str) -> str:
    """The sum of a gauge over replicas."""
    if SPECS[name].kind != "gauge":
        raise ValueError(f"{name} is no gauge")
    return f"sum{_by(by)}({exported(name)}{OF})"


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else ""


def ray(name: str, by: str, window: str = "") -> str:
    """A metric of Ray's own, summed."""
    series = f"ray_{name}{OF}"
    return f"sum by ({by}) ({f'rate({series}[{window}])' if window else series})"


_FAILED = '{release="$release",status=~"5.."}'

PANELS = [
    Panel("Requests", "Answers a second, by route and status.", "reqps",
          [("{{route}} {{status}}", rate("plainmed_requests", "route, status"))]),
    Panel("Share answered with 5xx", "503 is overload or start-up; 500 is a failure.",
          "percentunit",
          [("5xx", f'{rate("plainmed_requests", "", _FAILED)} / {rate("plainmed_requests")}')]),
    Panel("Errors by code", "What docs/api.md lists; `overloaded` calls for replicas.", "reqps",
          [("{{code}}", rate("plainmed_errors", "code"))]),
    Panel("Answer time", "In the gateway, from the head of a request to its answer.", "s",
          [(f"p{share * 100:g}", quantile(share, "plainmed_request_seconds"))
           for share in (0.5, 0.95, 0.99)]),
    Panel("Answer time by route, p95", "Which route is slow.", "s",
          [("{{route}}", quantile(0.95, "plainmed_request_seconds", "route"))]),
    Panel("Time to compute a batch, p95", "Which model is slow.", "s",
          [("{{deployment}}", quantile(0.95, "plainmed_batch_seconds", "deployment"))]),
    Panel("Wait for a replica's batch, p95", "Until the first text of a request was begun.", "s",
          [("{{deployment}}", quantile(0.95, "plainmed_queue_seconds", "deployment"))]),
    Panel("Texts waiting in replicas", "A deployment that always has some needs more replicas.",
          "short", [("{{deployment}}", gauge("plainmed_queued_items", "deployment"))]),
    Panel("Requests under way", "In the gateways; MAX_PENDING_REQUESTS bounds them.", "short",
          [("{{replica}}", gauge("plainmed_requests_under_way", "replica"))]),
    Panel("Batch size", "Texts or pairs computed together, on average.", "short",
          [("{{deployment}}", mean("plainmed_batch_items", "deployment"))]),
    Panel("Encoder tokens", "Tokens a second, padding not counted.", "short",
          [("{{deployment}}", rate("plainmed_tokens", "deployment"))]),
    Panel("Originals found in the cache", "Of the texts that relevance was asked for.",
          "percentunit",
          [("hits", f'{rate("plainmed_cache_hits")} / '
                    f'({rate("plainmed_cache_hits")} + {rate("plainmed_cache_misses")})')]),
    Panel("Loss", "Of the summaries scored; a jump says that texts, targets or a model changed.",
          "short", [(f"p{share * 100:g}", quantile(share, "plainmed_loss"))
                    for share in (0.1, 0.5, 0.9)]),
    Panel("Relevance and factuality, median", "By the model that scored.", "short",
          [("{{metric}} {{model}}", quantile(0.5, "plainmed_score", "metric, model"))]),
    Panel("Grade levels, median", "FKGL, SMOG and Dale-Chall of the summaries scored.", "short",
          [("{{metric}}", quantile(0.5, "plainmed_grade", "metric"))]),
    Panel("Pairs not read whole", "A model's limit cut the text: its score is of a part.", "cps",
          [("{{metric}}", rate("plainmed_truncations", "metric"))]),
    Panel("Tokens generated", "A second, by model.", "short",
          [("{{model}}", rate("plainmed_completion_tokens", "model"))]),
    Panel("Summaries by how they ended", "`length` and `time` are cut off by a limit.", "cps",
          [("{{finish_reason}}", rate("plainmed_summaries", "finish_reason"))]),
    Panel("Models", "Replicas that run each; during an update both show.", "short",
          [("{{deployment}} {{model}} {{device}}",
            gauge("plainmed_model", "deployment, model, device"))]),
    Panel("Healthy replicas", "During an upgrade both clusters show.", "short",
          [("{{deployment}} {{ray_io_cluster}}",
            ray("serve_deployment_replica_healthy", "deployment, ray_io_cluster"))]),
    Panel("Replicas seen in 30 minutes", "Far above the healthy ones: replicas keep dying.",
          "short",
          [("{{deployment}}", "count by (deployment) (count_over_time("
            f"ray_serve_deployment_replica_starts_total{OF}[30m]))")]),
    Panel("Memory of each pod", "Of the limit.", "percentunit",
          [("{{pod}}", f"ray_node_mem_used{OF} / ray_node_mem_total{OF}")]),
    Panel("CPU of each pod", "Of the CPUs the pod sees.", "percent",
          [("{{pod}}", f"ray_node_cpu_utilization{OF}")]),
    Panel("GPU of each pod", "Empty without GPUs.", "percent",
          [("{{pod}}", f"ray_node_gpus_utilization{OF}")]),
]  # fmt: skip


def document() -> dict[str, Any]:
    """The dashboard, as Grafana imports it; the chart puts its release in for `@RELEASE@`."""
    variables = [
        {
            "name": "datasource", "type": "datasource", "query": "prometheus",
            "label": "Data source",
        },
        {"name": "release", "type": "constant", "query": "@RELEASE@", "label": "Release"},
    ]  # fmt: skip
    return {
        "uid": "plainmed-@RELEASE@",
        "title": "PlainMed @RELEASE@",
        "tags": ["plainmed"],
        "timezone": "browser",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": variables},
        "panels": [_panel(number, panel) for number, panel in enumerate(PANELS)],
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": {"x": 12 * (number % 2), "y": 8 * (number // 2), "w": 12, "h": 8},
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + at), "expr": expression, "legendFormat": legend}
            for at, (legend, expression) in enumerate(panel.lines)
        ],
    }


def main() -> int:
    """Writes or checks the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    wanted = json.dumps(document(), indent=2) + "\n"
    if parser.parse_args().check:
        stale = FILE.read_text(encoding="utf-8") != wanted
        if stale:
            print(f"{FILE.name} is stale: run python scripts/dashboard.py", file=sys.stderr)
        return int(stale)
    FILE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
