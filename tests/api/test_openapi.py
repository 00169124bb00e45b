"""Every answer is as the OpenAPI document says, whatever is sent; no request causes a 5xx."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from serve_app.api.app import create_app
from serve_app.api.middleware.request_guard import Traffic
from serve_app.core.settings import load_settings
from tests.fuzz.api import ANSWERED, KINDS, ODD, REFUSED, fuzz, of_application, operations
from tests.support.servers import LightBackend

EXAMPLES = 15
LIMITS = {"max_texts": 4, "max_text_chars": 500, "max_body_bytes": 200_000}
APP = create_app(LightBackend(), load_settings(**LIMITS), Traffic())
OPERATIONS = {one.label: one for one in operations(of_application(APP))}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("label", OPERATIONS)
def test_every_answer_is_as_documented(label: str, kind: str) -> None:
    operation = OPERATIONS[label]
    if operation.method == "get" and kind != ANSWERED:
        pytest.skip("takes nothing that could be bad")
    counts = fuzz(operation, kind, EXAMPLES, lambda case: case.call())
    assert sum(counts.values()) >= (1 if operation.method == "get" else EXAMPLES / 2)
    if kind == ANSWERED:
        assert set(counts) == {200}
    if kind == REFUSED:
        assert not counts[200]


@pytest.mark.parametrize("case", ODD, ids=[one[0] for one in ODD])
async def test_what_is_odd_beside_the_body_is_refused_in_the_one_shape(case: Any) -> None:
    _, method, path, headers, body, statuses = case
    transport = httpx.ASGITransport(app=APP)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        answer = await http.request(method, path, content=body, headers=headers)
    assert answer.status_code in statuses, answer.text
    if answer.status_code >= 400:
        assert set(answer.json()["error"]) == {"code", "message", "field"}
        assert len(answer.content) < 2000
    assert ("retry-after" in answer.headers) is (answer.status_code == 503)


def test_the_document_names_every_status_of_the_application() -> None:
    always = {"200", "400", "401", "403", "404", "413", "422", "429", "500", "503"}
    for label, operation in OPERATIONS.items():
        if operation.method == "post":
            assert set(map(str, operation.responses.status_codes)) == always, label


async def test_a_server_that_fails_is_seen_by_the_fuzzer() -> None:
    """The checks themselves: an answer that the document does not have is found."""

    class Undocumented(LightBackend):
        async def readability(self, texts: Any) -> Any:
            raise RuntimeError(texts)

    app = create_app(Undocumented(), load_settings(), Traffic())
    (operation,) = (
        one for one in operations(of_application(app)) if one.path == "/metrics/readability"
    )
    with pytest.raises(BaseException, match="500") as caught:
        fuzz(operation, ANSWERED, 5, lambda case: case.call())
    assert "ServerFailed" in repr(caught.value)
