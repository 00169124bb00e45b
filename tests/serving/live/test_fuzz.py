"""A few requests made from the OpenAPI document, against the application as a user starts it.

The many are `make fuzz`; those of the gateway alone are tests/api/test_openapi.py.
"""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.fuzz.api import ANSWERED, KINDS, ODD, fuzz, of_server, operations
from tests.serving.live.conftest import Server

EXAMPLES = 6


@pytest.fixture(scope="module")
def served(server: Server) -> list[Any]:
    return list(operations(of_server(server.url)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_of_the_running_application_is_as_documented(
    server: Server, served: list[Any], kind: str
) -> None:
    for operation in served:
        if operation.method == "post":
            counts = fuzz(operation, kind, EXAMPLES, lambda case: case.call(base_url=server.url))
            assert sum(counts.values()) >= EXAMPLES / 2, operation.label
            assert kind != ANSWERED or set(counts) == {200}, operation.label


def test_what_is_odd_beside_the_body_is_answered_as_by_the_gateway_alone(
    http: httpx.Client,
) -> None:
    for name, method, path, headers, body, statuses in ODD:
        answer = http.request(method, path, content=body, headers=headers)
        assert answer.status_code in statuses, name
