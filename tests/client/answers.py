"""Answers that a scripted server gives to the clients, right and wrong."""

from __future__ import annotations

import json
from typing import Any

from tests.support.servers import Answer

FAST: dict[str, Any] = {"backoff": 0.01}
RELEVANCE = Answer(body=b'{"relevance": [0.5], "model": "m", "device": "cpu"}')
SUMMARY = {
    "summary": "Plain words.",
    "model": "m",
    "finish_reason": "stop",
    "truncated": False,
    "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    "sentences": [],
}


def error_body(code: str = "unavailable", message: str = "busy", field: str | None = None) -> bytes:
    return json.dumps({"error": {"code": code, "message": message, "field": field}}).encode()


def busy(**headers: str) -> Answer:
    return Answer(503, error_body(), headers)
