"""What the server's own Ray exports to Prometheus, from every port where it does."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import psutil

from tests.serving.live.conftest import Server


def exporters(server: Server) -> Iterator[tuple[int, str]]:
    """Each port and what it exports."""
    for process in psutil.Process(server.process.pid).children(recursive=True):
        try:
            listening = [c for c in process.net_connections("tcp") if c.status == "LISTEN"]
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        for connection in listening:
            address = connection.laddr.ip.replace("0.0.0.0", "127.0.0.1").replace("::", "127.0.0.1")
            try:
                answer = httpx.get(f"http://{address}:{connection.laddr.port}/metrics", timeout=3)
            except httpx.HTTPError:
                continue
            if answer.status_code == 200 and "# TYPE" in answer.text:
                yield connection.laddr.port, answer.text


def exported_text(server: Server) -> str:
    """All of it, one port after another."""
    return "\n".join(text for _, text in exporters(server))
