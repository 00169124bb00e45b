"""Writes helm/plainmed/templates/prometheusrule.yaml, the alerts of the chart, from the list below.

The expressions are `promql.Queries`, like the dashboard's; a test compares every metric they name
with those that the running application exports. Thresholds are values of the chart.

    python scripts/alerts.py           # writes the file
    python scripts/alerts.py --check   # exit status 1 where it is stale
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from promql import COMPUTING, Queries, write_or_check

FILE = Path(__file__).resolve().parent.parent / "helm" / "plainmed" / "templates"
FILE /= "prometheusrule.yaml"

RULES = "$.Values.monitoring.rules"
NAME = "{{ $name }}"
OURS = "@RELEASE@"
Q, SLOW = Queries(OURS), Queries(OURS, "10m")


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert.

    Attributes:
        name: of the alert.
        expr: fires while it has series; may contain values of the chart.
        minutes: how long it must fire first; 0: at once.
        severity: `critical` or `warning`.
        summary: what is wrong; `[label]` stands for a label of the series.
        action: what to do.
        running: whether to leave it out for a release that is stopped on purpose.
    """

    name: str
    expr: str
    minutes: int
    severity: str
    summary: str
    action: str
    running: bool = False


_OVERLOADED = 'code="overloaded"'
_STATUS = "ray_serve_deployment_status"
_RUNNING = "ray_serve_replica_processing_queries"
# A client's own errors do not count: a flood of them must not hide failures.
_FAILURES = Q.rate("plainmed_requests", "", f'{COMPUTING},status=~"5.."')
_REQUESTS = Q.rate("plainmed_requests", "", f'{COMPUTING},status!~"4.."')
_FAILED = 'code=~"metric_failed|generation_failed|internal_error"'

ALERTS = [
    Alert(
        "PlainMedDown",
        f"absent({Q.of('ray_serve_application_status')} == 6)",
        10,
        "critical",
        f"No cluster of {NAME} reports its application as running.",
        f"kubectl -n {{{{ $.Release.Namespace }}}} describe rayservice {NAME}",
        running=True,
    ),
    Alert(
        "PlainMedDeploymentUnhealthy",
        f"max by (deployment, ray_io_cluster) ({Q.of(_STATUS)} == 1 or {Q.of(_STATUS)} == 2) > 0",
        5,
        "warning",
        f"Deployment [deployment] of {NAME} failed to deploy or is unhealthy.",
        "Look for its replicas in the Serve logs of the head and the workers.",
    ),
    Alert(
        "PlainMedErrors",
        f"{_FAILURES} / {_REQUESTS} > {{{{ {RULES}.errorRatio }}}}",
        10,
        "warning",
        f"{NAME} answers more than {{{{ mulf {RULES}.errorRatio 100 }}}}% of what it is to compute "
        "with 5xx.",
        "503 means overload (add replicas) or start-up; 500 names its cause in the log by request "
        "id.",
    ),
    Alert(
        "PlainMedFailures",
        f"{SLOW.rate('plainmed_errors', 'code', _FAILED)} > 0",
        10,
        "warning",
        f"{NAME} keeps answering 500 [code]: texts that cannot be computed, or a bug.",
        "Find the requests in the gateways' log by their code; the deployment's log says where.",
    ),
    Alert(
        "PlainMedSlow",
        SLOW.quantile(0.95, "plainmed_request_seconds", "route", COMPUTING)
        + f" > {{{{ {RULES}.latencySeconds }}}}",
        15,
        "warning",
        f"One answer in twenty of [route] of {NAME} takes more than "
        f"{{{{ {RULES}.latencySeconds }}}} s.",
        "Compare the stages of a request and the queues on the dashboard; add replicas to what is "
        "slow.",
    ),
    Alert(
        "PlainMedQueue",
        # The first: in replicas, where the metrics' requests wait, once begun or given up. The
        # second: for a replica, where the generator's do.
        f"{SLOW.quantile(0.95, 'plainmed_queue_seconds', 'deployment')}"
        f" > {{{{ {RULES}.latencySeconds }}}} / 2"
        f" or {Q.ray('ray_serve_deployment_queued_queries', 'deployment')}"
        f" > {{{{ {RULES}.queuedRequests }}}}",
        10,
        "warning",
        f"Requests wait long for deployment [deployment] of {NAME}.",
        "Raise its max_replicas (serve.deployments) and, if pods are short, the group's "
        "maxReplicas.",
    ),
    Alert(
        "PlainMedOverloaded",
        f"{Q.rate('plainmed_errors', '', _OVERLOADED)} > 0",
        10,
        "warning",
        f"{NAME} keeps refusing requests because too much waits already.",
        "See on the dashboard which deployment has texts waiting, and raise its max_replicas; then "
        "the group's maxReplicas.",
    ),
    Alert(
        # Started lately and gone already. Replicas that load scales down live longer than that, and
        # those of an update run on.
        "PlainMedRestarts",
        f"count by (deployment) (({Q.started('10m')})"
        f" unless on (deployment, replica) {Q.of(_RUNNING)}) > 2",
        5,
        "warning",
        f"Replicas of [deployment] of {NAME} keep dying soon after their start.",
        "Usually memory. Compare the pods' use with their limits, or give the deployment fewer "
        "replicas a pod.",
    ),
    Alert(
        "PlainMedMemory",
        f"max by (pod) ({Q.of('ray_node_mem_used')} / {Q.of('ray_node_mem_total')}) > 0.92",
        10,
        "warning",
        f"Pod [pod] of {NAME} is close to its memory limit.",
        "Raise the limit, or serve fewer replicas a pod.",
    ),
]

_HEAD = """\
{{- /* Made by scripts/alerts.py; do not edit. */}}
{{- if .Values.monitoring.rules.enabled }}
{{- $name := include "plainmed.name" . }}
{{- $release := printf "release=%q" .Release.Name }}
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: {{ $name }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "plainmed.labels" . | nindent 4 }}
    {{- with .Values.monitoring.rules.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  groups:
    - name: {{ $name }}
      rules:
"""


def template() -> str:
    """The chart's template."""
    return _HEAD + "".join(_rule(alert) for alert in ALERTS) + "{{- end }}\n"


def _rule(alert: Alert) -> str:
    lines = [
        f"- alert: {alert.name}",
        "  expr: >-",
        # Helm needs the space to tell the selector's brace from its own.
        f"    {alert.expr.replace('{' + OURS, '{ {{- $release }}')}",
        *([f"  for: {alert.minutes}m"] if alert.minutes else []),
        f"  labels: {{ severity: {alert.severity} }}",
        "  annotations:",
        "    summary: >-",
        f"      {_with_labels(alert.summary)}",
        "    action: >-",
        f"      {alert.action}",
    ]
    text = "".join(f"        {line}\n" for line in lines)
    if not alert.running:
        return text
    return f"        {{{{- if not .Values.suspend }}}}\n{text}        {{{{- end }}}}\n"


def _with_labels(summary: str) -> str:
    """`[pod]` as Prometheus takes a label, which Helm must leave as it is."""
    before, bracket, rest = summary.partition("[")
    if not bracket:
        return summary
    label, _, after = rest.partition("]")
    return f"{before}{{{{ `{{{{ $labels.{label} }}}}` }}}}{after}"


if __name__ == "__main__":
    sys.exit(write_or_check(FILE, template()))
