"""The state of a release, read from its RayService, Ray clusters, pods and events; and its table.

Reads `ray.io/v1` as KubeRay 1.7 writes it. Asks nobody.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

REVISION = "plainmed.io/revision"
"""Annotation of a RayService: the Helm revision it was rendered for; the chart writes it."""
READY_REVISIONS = "plainmed.io/ready-revisions"
"""Annotation of a RayService: revisions that were ready, comma-separated, the last one newest."""
_CONFIG = "plainmed.io/serve-config"
_HASH = "ray.io/hash-without-replicas-and-workers-to-delete"
_EVENTS = 8
_MOST_RECORDED = 20  # as many as Helm keeps


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
class Condition:
    """A condition of the RayService."""

    status: str = ""
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class ServiceState:
    """Everything known about one release.

    Attributes:
        current: whether KubeRay has seen the last change.
        as_asked: whether the active cluster was made with the Serve configuration asked for.
        upgrading: whether KubeRay is building another cluster.
        redundant: whether that cluster is the same as the active one.
        keeps_state: whether Ray's state is in a Redis.
        revision: Helm's, of what is asked for; empty where the chart was older.
        ready_revisions: those that were ready, the last one newest.
        groups, next_groups: applications of the active cluster, and of the one being built.
    """

    name: str
    exists: bool
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    current: bool = False
    as_asked: bool = False
    suspend: bool = False
    upgrading: bool = False
    redundant: bool = False
    keeps_state: bool = False
    revision: str = ""
    ready_revisions: tuple[str, ...] = ()
    endpoints: int = 0
    workers: tuple[int, int] = (0, 0)
    groups: tuple[ReplicaGroup, ...] = ()
    next_groups: tuple[ReplicaGroup, ...] = ()
    pods: tuple[PodState, ...] = ()
    events: tuple[EventLine, ...] = ()

    def condition(self, name: str) -> Condition:
        """A condition; empty where it is not there."""
        return self.conditions.get(name, Condition())

    @property
    def serves(self) -> bool:
        """Whether some version has endpoints."""
        return self.condition("Ready").status == "True"

    @property
    def _asked(self) -> bool:
        """Whether the active cluster has the configuration last asked for."""
        return self.current and self.as_asked and not self.upgrading

    @property
    def ready(self) -> bool:
        """Whether every application runs, with the configuration last asked for."""
        applications = [group.status for group in self.groups if not group.deployment]
        running = bool(applications) and set(applications) == {"RUNNING"}
        return self.exists and self._asked and not self.suspend and self.serves and running

    @property
    def stopped(self) -> bool:
        """Whether it was asked to stop and has no pod left."""
        return self.exists and self.current and self.suspend and not self.pods

    @property
    def failure(self) -> str:
        """Why it will not become ready by itself, in Serve's or KubeRay's words; else empty."""
        ready = self.condition("Ready")
        if ready.reason == "InitializingTimeout":
            service = self.name.rpartition("-")[2]
            return (
                f"{ready.message}. KubeRay has given up, and ignores changes until the service was "
                f"stopped: `plainmed ops stop {service}`, then `plainmed ops redeploy {service}`"
            )
        if ready.reason == "ValidationFailed":
            return ready.message
        failed = [
            f"application {group.application} {group.status}: {group.message}"
            for group in self.next_groups or self.groups
            if not group.deployment and group.status == "DEPLOY_FAILED" and self.current
        ]
        return "; ".join(failed)

    @property
    def summary(self) -> str:
        """The state in a few words."""
        if not self.exists:
            return "not deployed"
        if self.suspend:
            return "stopped" if self.stopped else f"stopping, {len(self.pods)} pods left"
        if self.ready:
            return f"ready, {self.endpoints} endpoint{'s' * (self.endpoints != 1)}"
        if self.upgrading:
            return "upgrading; the earlier version answers" if self.serves else "starting"
        if not self._asked:
            return "waiting for KubeRay"
        waiting = [g for g in self.groups if not g.deployment and g.status != "RUNNING"]
        return (
            f"application {waiting[0].application} {waiting[0].status}" if waiting else "not ready"
        )

    @property
    def consequence(self) -> str:
        """What serves where the last change failed."""
        if not self.serves or self.suspend:
            return "Nothing serves."
        if not self._asked:
            return "The earlier version still serves."
        return "It was changed in place: whatever failed answers errors."

    @property
    def why_not_ready(self) -> str:
        """The likeliest causes, one a line, for an error."""
        lines = [
            f"{group.application} {group.deployment}: {group.status} {group.message}".strip()
            for group in (*self.next_groups, *self.groups)
            if group.status not in ("RUNNING", "HEALTHY")
            and not (group.message and group.message in self.failure)
        ]
        lines += [f"pod {pod.name}: {pod.reason}" for pod in self.pods if not pod.ready]
        lines += [f"{e.about}: {e.reason} {e.message}" for e in self.events if e.warning][-3:]
        return "".join(f"\n  - {line}" for line in lines) or " KubeRay gives no reason"

    def recorded(self) -> list[str]:
        """`ready_revisions` with the present one as the newest."""
        others = [one for one in self.ready_revisions if one != self.revision]
        return [*others, self.revision][-_MOST_RECORDED:]


def cluster_names(service: dict[str, Any] | None) -> list[str]:
    """The Ray clusters of a RayService: the active one and the one being built, if any."""
    status = (service or {}).get("status") or {}
    parts = (status.get(part) or {} for part in ("activeServiceStatus", "pendingServiceStatus"))
    return [part["rayClusterName"] for part in parts if part.get("rayClusterName")]


def service_state(
    name: str,
    service: dict[str, Any] | None,
    clusters: Mapping[str, dict[str, Any] | None],
    pods: Iterable[Any],
    events: Iterable[Any],
) -> ServiceState:
    """The state of a release.

    Args:
        name: of the release.
        service: its RayService; None: there is none.
        clusters: the RayClusters of `cluster_names`, by name; None: there is none.
        pods: of the release.
        events: of the namespace.
    """
    states = tuple(map(_pod, pods))
    if service is None:
        return ServiceState(name=name, exists=False, pods=states)
    spec, status = service["spec"], service.get("status") or {}
    active = status.get("activeServiceStatus") or {}
    pending = status.get("pendingServiceStatus") or {}
    conditions = {
        item["type"]: Condition(item["status"], item.get("reason") or "", item.get("message") or "")
        for item in status.get("conditions") or []
    }
    serving = clusters.get(active.get("rayClusterName", "")) or {}
    building = clusters.get(pending.get("rayClusterName", "")) or {}
    hashes = [_annotations(cluster).get(_HASH) for cluster in (serving, building)]
    asked = _head_annotations(spec.get("rayClusterConfig") or {}).get(_CONFIG)
    current = (status.get("observedGeneration") or 0) >= service["metadata"]["generation"]
    strategy = (spec.get("upgradeStrategy") or {}).get("type") or "NewCluster"
    marks = _annotations(service)
    counts = active.get("rayClusterStatus") or {}
    return ServiceState(
        name=name,
        exists=True,
        conditions=conditions,
        current=current,
        # Without the annotation (an older chart, or upgrades in place) KubeRay's word has to do.
        as_asked=asked in (None, _head_annotations(serving.get("spec") or {}).get(_CONFIG)),
        suspend=bool(spec.get("suspend")),
        upgrading=bool(pending.get("rayClusterName"))
        or conditions.get("UpgradeInProgress", Condition()).status == "True",
        redundant=current
        and strategy == "NewCluster"
        and hashes[0] is not None
        and hashes[0] == hashes[1],
        keeps_state="gcsFaultToleranceOptions" in (spec.get("rayClusterConfig") or {}),
        revision=marks.get(REVISION, ""),
        ready_revisions=tuple(filter(None, marks.get(READY_REVISIONS, "").split(","))),
        endpoints=int(status.get("numServeEndpoints") or 0),
        workers=(
            int(counts.get("readyWorkerReplicas") or 0),
            int(counts.get("desiredWorkerReplicas") or 0),
        ),
        groups=_groups(active),
        next_groups=_groups(pending),
        pods=states,
        events=_events(name, events),
    )


def status_lines(states: Sequence[ServiceState], width: int) -> list[str]:
    """The state of each release with conditions, applications, replicas, pods that are not ready
    and events, a line each; a detail that does not fit goes below. No word is broken.

    Args:
        states: of the releases.
        width: of the terminal, in columns.
    """
    lines: list[str] = []
    for state in states:
        lines += ["", f"{state.name}: {state.summary}"]
        rows = _rows(state)
        first = max((len(what) for what, _, _ in rows), default=0)
        second = max((len(told) for _, told, _ in rows), default=0)
        for what, told, detail in rows:
            # Messages come from elsewhere; a terminal must not take orders from them.
            text = "".join(c if c.isprintable() else " " for c in detail)
            line = f"  {what:<{first}}  {told:<{second}}  {text}".rstrip()
            if len(line) <= width:
                lines.append(line)
                continue
            lines.append(f"  {what:<{first}}  {told}".rstrip())
            lines += textwrap.wrap(
                text,
                max(width, 40),
                initial_indent=" " * 6,
                subsequent_indent=" " * 6,
                break_long_words=False,
                break_on_hyphens=False,
            )
    return lines[1:]


def _rows(state: ServiceState) -> list[tuple[str, str, str]]:
    rows = [
        (f"condition {name}", found.status, found.message or found.reason)
        for name, found in sorted(state.conditions.items())
    ]
    for suffix, groups in (("", state.groups), (" (next)", state.next_groups)):
        for group in groups:
            kind = (
                f"  {group.deployment}" if group.deployment else f"application {group.application}"
            )
            rows.append((kind + suffix, group.status, group.message))
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


def _annotations(item: Mapping[str, Any]) -> Mapping[str, str]:
    return (item.get("metadata") or {}).get("annotations") or {}


def _head_annotations(cluster: Mapping[str, Any]) -> Mapping[str, str]:
    """Annotations of the head pod in a RayCluster's specification."""
    return _annotations((cluster.get("headGroupSpec") or {}).get("template") or {})


def _groups(status: dict[str, Any]) -> tuple[ReplicaGroup, ...]:
    found = []
    for name, application in (status.get("applicationStatuses") or {}).items():
        deployments = application.get("serveDeploymentStatuses") or {}
        for deployment, item in {"": application, **deployments}.items():
            told = item.get("status") or "UNKNOWN"
            found.append(ReplicaGroup(name, deployment, told, (item.get("message") or "").strip()))
    return tuple(found)


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
