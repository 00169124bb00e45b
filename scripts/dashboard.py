"""Writes helm/plainmed/files/grafana-dashboard.json, the Grafana dashboard of the chart.

The expressions are `promql.Queries`; a test holds every metric they name against what the running
application exports.

python scripts/dashboard.py           # writes the file
python scripts/dashboard.py --check   # exit status 1 where it is stale
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promql import COMPUTING, Queries, write_or_check

FILE = Path(__file__).resolve().parent.parent / "helm" / "plainmed" / "files"
FILE /= "grafana-dashboard.json"

SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart; `lines` are a legend and an expression each."""

    title: str
    description: str
    unit: str
    lines: Sequence[tuple[str, str]]


Q = Queries('release="$release"')

_FAILED = f'{COMPUTING},status=~"5.."'

PANELS = [
    Panel("Requests", "Answers a second, by route and status.", "reqps",
          [("{{route}} {{status}}", Q.rate("plainmed_requests", "route, status"))]),
    Panel("Share answered with 5xx",
          "Of what computes. 503 is overload or start-up; 500 is a failure.", "percentunit",
          [("5xx", f'{Q.rate("plainmed_requests", "", _FAILED)} / '
                   f'{Q.rate("plainmed_requests", "", COMPUTING)}')]),
    Panel("Errors by code", "What docs/api.md lists; `overloaded` calls for replicas.", "reqps",
          [("{{code}}", Q.rate("plainmed_errors", "code"))]),
    Panel("Answer time", "Of what computes: in the gateway, from a request's head to its answer.",
          "s", [(f"p{share * 100:g}",
                 Q.quantile(share, "plainmed_request_seconds", "", COMPUTING))
           for share in (0.5, 0.95, 0.99)]),
    Panel("Answer time by route, p95", "Which route is slow.", "s",
          [("{{route}}", Q.quantile(0.95, "plainmed_request_seconds", "route"))]),
    Panel("Stages of a request, p95", "As in its log line: `_queue` waits, `_compute` works.",
          "s", [("{{stage}}", Q.quantile(0.95, "plainmed_stage_seconds", "stage"))]),
    Panel("Time to compute a batch, p95", "Which model is slow.", "s",
          [("{{deployment}}", Q.quantile(0.95, "plainmed_batch_seconds", "deployment"))]),
    Panel("Wait for a replica's batch, p95", "Until a request was begun, or nobody waited.", "s",
          [("{{deployment}}", Q.quantile(0.95, "plainmed_queue_seconds", "deployment"))]),
    Panel("Texts waiting in replicas", "A deployment that always has some needs more replicas.",
          "short", [("{{deployment}}", Q.gauge("plainmed_queued_items", "deployment"))]),
    Panel("Size of bodies", "Bytes of a request, on average.", "bytes",
          [("{{route}}", Q.mean("plainmed_request_bytes", "route"))]),
    Panel("Requests under way", "In the gateways; MAX_PENDING_REQUESTS bounds them.", "short",
          [("{{replica}}", Q.gauge("plainmed_requests_under_way", "replica"))]),
    Panel("Batch size", "Texts or pairs computed together, on average.", "short",
          [("{{deployment}}", Q.mean("plainmed_batch_items", "deployment"))]),
    Panel("Tokens of a batch", "Computed together, on average, padding not counted.", "short",
          [("{{deployment}}", Q.mean("plainmed_batch_tokens", "deployment"))]),
    Panel("Encoder tokens", "Tokens a second, padding not counted.", "short",
          [("{{deployment}}", Q.rate("plainmed_tokens", "deployment"))]),
    Panel("Originals found in the cache", "Of the texts that relevance was asked for.",
          "percentunit",
          [("hits", f'{Q.rate("plainmed_cache_hits")} / '
                    f'({Q.rate("plainmed_cache_hits")} + {Q.rate("plainmed_cache_misses")})')]),
    Panel("Loss", "Of the summaries scored; a jump says that texts, targets or a model changed.",
          "short", [(f"p{share * 100:g}", Q.quantile(share, "plainmed_loss"))
                    for share in (0.1, 0.5, 0.9)]),
    Panel("Loss by model, median", "By the models that measured relevance and factuality.", "short",
          [("{{relevance_model}} {{factuality_model}}",
            Q.quantile(0.5, "plainmed_loss", "relevance_model, factuality_model"))]),
    Panel("Relevance and factuality, median", "By the model that scored.", "short",
          [("{{metric}} {{model}}", Q.quantile(0.5, "plainmed_score", "metric, model"))]),
    Panel("Grade levels, median", "FKGL, SMOG and Dale-Chall of the summaries scored.", "short",
          [("{{metric}} {{model}}", Q.quantile(0.5, "plainmed_grade", "metric, model"))]),
    Panel("Pairs not read whole", "A model's limit cut the text: its score is of a part.", "cps",
          [("{{metric}}", Q.rate("plainmed_truncations", "metric"))]),
    Panel("Tokens generated", "A second, by model.", "short",
          [("{{model}}", Q.rate("plainmed_completion_tokens", "model"))]),
    Panel("Tokens a second of one call", "How fast a summary is written, median.", "short",
          [("{{model}}", Q.quantile(0.5, "plainmed_generation_rate", "model"))]),
    Panel("Time to write, p95", "Of a generator's call, by model.", "s",
          [("{{model}}", Q.quantile(0.95, "plainmed_generation_seconds", "model"))]),
    Panel("Tokens read by the generator", "A second, by model.", "short",
          [("{{model}}", Q.rate("plainmed_prompt_tokens", "model"))]),
    Panel("Summaries by how they ended", "`length` and `time` are cut off by a limit.", "cps",
          [("{{finish_reason}}", Q.rate("plainmed_summaries", "finish_reason"))]),
    Panel("Models", "Replicas that run each; during an update both show.", "short",
          [("{{deployment}} {{model}} {{device}}",
            Q.gauge("plainmed_model", "deployment, model, device"))]),
    Panel("Healthy replicas", "During an upgrade both clusters show.", "short",
          [("{{deployment}} {{ray_io_cluster}}",
            Q.ray("ray_serve_deployment_replica_healthy", "deployment, ray_io_cluster"))]),
    Panel("Replicas started in 30 minutes", "Far above the healthy ones: replicas keep dying.",
          "short", [("{{deployment}}", f"count by (deployment) ({Q.started('30m')})")]),
    Panel("Memory of each pod", "Of the limit.", "percentunit",
          [("{{pod}}", f"{Q.of('ray_node_mem_used')} / {Q.of('ray_node_mem_total')}")]),
    Panel("CPU of each pod", "Of the CPUs the pod sees.", "percent",
          [("{{pod}}", Q.of("ray_node_cpu_utilization"))]),
    Panel("GPU of each pod", "Empty without GPUs.", "percent",
          [("{{pod}}", Q.of("ray_node_gpus_utilization"))]),
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


if __name__ == "__main__":
    sys.exit(write_or_check(FILE, json.dumps(document(), indent=2) + "\n"))
