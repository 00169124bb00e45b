"""Turns what was found into tables for a terminal. Asks nobody."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from serve_app.ops.kube import ServiceState


def status_table(states: Sequence[ServiceState]) -> Table:
    """Conditions, applications, replicas, pods that are not ready, and events, in one table."""
    table = Table(title="PlainMed", show_lines=False)
    for heading in ("release", "what", "state", "detail"):
        table.add_column(heading, overflow="fold")
    for state in states:
        for row in _rows(state):
            table.add_row(*row)
        table.add_section()
    return table


def _rows(state: ServiceState) -> list[tuple[str, str, str, str]]:
    rows = [(state.name, "service", state.summary, "")]
    for name, (status, message) in sorted(state.conditions.items()):
        rows.append(("", f"condition {name}", status, message))
    for group in state.groups:
        kind = f"deployment {group.deployment}" if group.deployment else "application"
        rows.append(("", f"{kind} ({group.application})", group.status, group.message))
    if state.exists and not state.suspend:
        ready, desired = state.workers
        rows.append(("", "workers", f"{ready} of {desired} ready", ""))
    good = sum(pod.ready for pod in state.pods)
    if state.pods:
        rows.append(("", "pods", f"{good} of {len(state.pods)} ready", ""))
    for pod in state.pods:
        if not pod.ready:
            rows.append(("", f"pod {pod.kind}", "not ready", f"{pod.name}: {pod.reason}"))
    for event in state.events:
        when = event.when.strftime("%H:%M:%S") if event.when else ""
        kind = "warning" if event.warning else "event"
        rows.append(("", f"{kind} {when}", event.reason, f"{event.about}: {event.message}"))
    return rows


def why_not_ready(state: ServiceState) -> str:
    """The likeliest causes, one a line, for an error."""
    lines = [
        f"{group.application} {group.deployment}: {group.status} {group.message}".strip()
        for group in state.groups
        if group.status not in ("RUNNING", "HEALTHY")
    ]
    lines += [f"pod {pod.name}: {pod.reason}" for pod in state.pods if not pod.ready]
    lines += [f"{e.about}: {e.reason} {e.message}" for e in state.events if e.warning][-3:]
    return "".join(f"\n  - {line}" for line in lines) or " KubeRay gives no reason"
