"""The state of a release, read from its RayService, pods and events; and its table.

Reads `ray.io/v1` as KubeRay 1.7 writes it. Asks nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rich.table import Table

_EVENTS = 8


@dataclass(frozen=True, slots=True)
class ReplicaGroup:
    """One deployment of a Serve application, or with an empty `deployment` the application."""

    application: str
    deployment: str
    status: str
    message: str


@dataclass(frozen=True, slots=True)
class PodState:
    """A pod and why it is not ready (empty when it is)."""

    name: str
    kind: str
    ready: bool
    reason: str


@dataclass(frozen=True, slots=True)
class EventLine:
    """A recent event about one of the release's objects."""

    when: datetime | None
    about: str
    reason: str
    message: str
    warning: bool


@dataclass(frozen=True, slots=True)
class ServiceState:
    """Everything known about one release."""

    name: str
    exists: bool
    conditions: dict[str, tuple[str, str]] = field(default_factory=dict)
    current: bool = False
    suspend: bool = False
    endpoints: int = 0
    workers: tuple[int, int] = (0, 0)
    upgrading: bool = False
    groups: tuple[ReplicaGroup, ...] = ()
    pods: tuple[PodState, ...] = ()
    events: tuple[EventLine, ...] = ()

    def condition(self, name: str) -> bool:
        """Whether a condition is True."""
        return self.conditions.get(name, ("", ""))[0] == "True"

    @property
    def ready(self) -> bool:
        """Whether the configuration last asked for is serving."""
        asked = self.exists and self.current and not self.suspend and not self.upgrading
        return asked and self.condition("Ready")

    @property
    def stopped(self) -> bool:
        """Whether it was asked to stop and has no pod left."""
        return self.exists and self.current and self.suspend and not self.pods

    @property
    def summary(self) -> str:
        """The state in a few words."""
        if not self.exists:
            return "not deployed"
        if self.suspend:
            return "stopped" if self.stopped else f"stopping, {len(self.pods)} pods left"
        if self.ready:
            return f"ready, {self.endpoints} endpoints"
        if self.upgrading:
            serving = self.condition("Ready")
            return "upgrading; the earlier version answers" if serving else "starting"
        return "not ready" if self.current else "waiting for KubeRay"

    @property
    def why_not_ready(self) -> str:
        """The likeliest causes, one a line, for an error."""
        lines = [
            f"{group.application} {group.deployment}: {group.status} {group.message}".strip()
            for group in self.groups
            if group.status not in ("RUNNING", "HEALTHY")
        ]
        lines += [f"pod {pod.name}: {pod.reason}" for pod in self.pods if not pod.ready]
        lines += [f"{e.about}: {e.reason} {e.message}" for e in self.events if e.warning][-3:]
        return "".join(f"\n  - {line}" for line in lines) or " KubeRay gives no reason"


def service_state(
    name: str, service: dict[str, Any] | None, pods: Iterable[Any], events: Iterable[Any]
) -> ServiceState:
    """The state of a release from its RayService (None: there is none), pods, and all events."""
    states = tuple(map(_pod, pods))
    if service is None:
        return ServiceState(name=name, exists=False, pods=states)
    spec, status = service["spec"], service.get("status") or {}
    active = status.get("activeServiceStatus") or {}
    pending = status.get("pendingServiceStatus") or {}
    conditions = {
        item["type"]: (item["status"], item.get("message") or item.get("reason") or "")
        for item in status.get("conditions") or []
    }
    cluster = active.get("rayClusterStatus") or {}
    upgrading = conditions.get("UpgradeInProgress", ("", ""))[0] == "True"
    return ServiceState(
        name=name,
        exists=True,
        conditions=conditions,
        current=(status.get("observedGeneration") or 0) >= service["metadata"]["generation"],
        suspend=bool(spec.get("suspend")),
        endpoints=int(status.get("numServeEndpoints") or 0),
        workers=(
            int(cluster.get("readyWorkerReplicas") or 0),
            int(cluster.get("desiredWorkerReplicas") or 0),
        ),
        upgrading=bool(pending.get("rayClusterName")) or upgrading,
        groups=(*_groups(active), *_groups(pending, suffix=" (next)")),
        pods=states,
        events=_events(name, events),
    )


def status_table(states: Sequence[ServiceState]) -> Table:
    """Conditions, applications, replicas, pods that are not ready, and events, in one table."""
    table = Table(title="PlainMed", show_lines=False)
    for heading in ("release", "what", "state", "detail"):
        table.add_column(heading, overflow="fold")
    for state in states:
        table.add_row(state.name, "service", state.summary, "")
        for row in _rows(state):
            table.add_row("", *row)
        table.add_section()
    return table


def _rows(state: ServiceState) -> list[tuple[str, str, str]]:
    rows = [(f"condition {name}", *found) for name, found in sorted(state.conditions.items())]
    for group in state.groups:
        kind = f"deployment {group.deployment}" if group.deployment else "application"
        rows.append((f"{kind} ({group.application})", group.status, group.message))
    if state.exists and not state.suspend:
        ready, desired = state.workers
        rows.append(("workers", f"{ready} of {desired} ready", ""))
    if state.pods:
        good = sum(pod.ready for pod in state.pods)
        rows.append(("pods", f"{good} of {len(state.pods)} ready", ""))
    rows += [
        (f"pod {pod.kind}", "not ready", f"{pod.name}: {pod.reason}")
        for pod in state.pods
        if not pod.ready
    ]
    for event in state.events:
        when = event.when.strftime("%H:%M:%S") if event.when else ""
        kind = "warning" if event.warning else "event"
        rows.append((f"{kind} {when}", event.reason, f"{event.about}: {event.message}"))
    return rows


def _groups(status: dict[str, Any], suffix: str = "") -> list[ReplicaGroup]:
    found = []
    for name, application in (status.get("applicationStatuses") or {}).items():
        deployments = application.get("serveDeploymentStatuses") or {}
        for deployment, item in {"": application, **deployments}.items():
            told = item.get("status") or "UNKNOWN"
            message = (item.get("message") or "").strip()
            found.append(ReplicaGroup(name + suffix, deployment, told, message))
    return found


def _events(name: str, events: Iterable[Any]) -> tuple[EventLine, ...]:
    """The newest events about the release's objects, whose names all begin with its name."""
    lines = [
        EventLine(
            item.last_timestamp or item.event_time or item.metadata.creation_timestamp,
            f"{item.involved_object.kind}/{item.involved_object.name}",
            item.reason or "",
            (item.message or "").strip(),
            item.type == "Warning",
        )
        for item in events
        if (item.involved_object.name or "").startswith(name)
    ]
    lines.sort(key=lambda line: line.when.timestamp() if line.when else 0.0)
    return tuple(lines[-_EVENTS:])


def _pod(item: Any) -> PodState:
    labels = item.metadata.labels or {}
    kind = labels.get("ray.io/group") or labels.get("ray.io/node-type") or "pod"
    status = item.status
    conditions = status.conditions or []
    if any(c.type == "Ready" and c.status == "True" for c in conditions):
        return PodState(item.metadata.name, kind, True, "")
    reason = status.reason or status.phase or "Unknown"
    for condition in conditions:
        if condition.type == "PodScheduled" and condition.status == "False":
            reason = f"{condition.reason}: {condition.message}"
    for container in (status.init_container_statuses or []) + (status.container_statuses or []):
        waiting = container.state.waiting if container.state else None
        ended = container.state.terminated if container.state else None
        if waiting is not None and waiting.reason:
            reason = f"{waiting.reason}: {waiting.message or container.image}"
        elif ended is not None and ended.exit_code:
            reason = f"{ended.reason or 'Error'}: {container.name} ended with {ended.exit_code}"
    return PodState(item.metadata.name, kind, False, reason)
