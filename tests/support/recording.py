"""Keeps what is recorded, where the application would give it to Prometheus."""

from __future__ import annotations

from serve_app.core.observability.instruments import check


class Kept:
    """Keeps what is recorded."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, float, dict[str, str]]] = []

    def record(self, name: str, value: float = 1.0, **labels: str) -> None:
        check(name, labels)
        self.seen.append((name, value, labels))

    def of(self, name: str) -> list[tuple[float, dict[str, str]]]:
        return [(value, labels) for seen, value, labels in self.seen if seen == name]
