"""The running application exports every metric that its list, its dashboard and its alerts name."""

from __future__ import annotations

import re
import time
from typing import Any

import httpx
import psutil

from serve_app.telemetry import SPECS, exported
from tests.serve.conftest import WRITER, Server
from tests.texts import GENERATED, ORIGINALS

SERIES = {"counter": [""], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
"""What a metric's series end with, by its kind."""


def exported_text(server: Server) -> str:
    """What every metrics port of the server's own Ray has."""
    found = []
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
                found.append(answer.text)
    return "\n".join(found)


def test_what_the_list_names_is_exported(server: Server, http: httpx.Client) -> None:
    # The same original twice, for the cache; an error; a summary.
    long = " ".join(ORIGINALS * 30)  # more than the relevance model reads
    pairs: dict[str, Any] = {"texts_original": [long], "texts_generated": [GENERATED[0]]}
    for _ in range(2):
        assert http.post("/evaluate", json=pairs).status_code == 200
    assert http.post("/loss", json={"texts_original": [""]}).status_code == 422
    # The extractive engine counts no tokens; the language model beside it does.
    written = {"text": ORIGINALS[0], "max_new_tokens": 4}
    assert http.post(f"/{WRITER}/generate", json=written).status_code == 200

    wanted = {exported(name) + end for name, spec in SPECS.items() for end in SERIES[spec.kind]}
    time.sleep(20)  # by then Ray has forgotten gauges that were set once
    deadline = time.monotonic() + 40
    missing = wanted
    while missing and time.monotonic() < deadline:
        text = exported_text(server)
        missing = wanted - set(re.findall(r"^(ray_plainmed_\w+)[{ ]", text, re.MULTILINE))
        time.sleep(1)
    assert not missing
    assert ORIGINALS[0][:40] not in text
    model = re.search(r'ray_plainmed_model\{[^}]*deployment="Factuality"[^}]*\} (\S+)', text)
    assert model is not None
    assert float(model[1]) == 1.0
