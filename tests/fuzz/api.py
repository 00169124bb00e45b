"""Requests made from the OpenAPI document, good and bad ones: is every answer as it says?

schemathesis makes them: bodies that fit the schema, and bodies that break it in one place. What is
not about bodies (methods, paths, headers, bytes) is made here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

KINDS = {
    "good by the document": GenerationMode.POSITIVE,
    "good in every way": GenerationMode.POSITIVE,
    "bad by the document": GenerationMode.NEGATIVE,
}
"""What is sent. The document cannot say that lists must be of one length, or a text have a word: so
most of the first kind are refused, and of the second kind, where that is mended, none."""

ANSWERED = "good in every way"
REFUSED = "bad by the document"
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


class ServerFailed(AssertionError):
    """An answer of 500 or above that is not 503: no request may cause one."""


def operations(schema: Any) -> Iterator[Any]:
    """Every operation of a schema."""
    for result in schema.get_all_operations():
        yield result.ok()


def fuzz(operation: Any, kind: str, examples: int, call: Callable[[Any], Any]) -> Counter[int]:
    """Sends so many requests; counts the answers by status.

    Args:
        operation: of `operations`.
        kind: of `KINDS`.
        examples: how many.
        call: sends a case and gives its answer.

    Raises:
        ServerFailed: as above.
        schemathesis.FailureGroup: an answer is not as the document says.
    """
    counts: Counter[int] = Counter()

    @seed(7)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=KINDS[kind]))
    def send(case: Any) -> None:
        if kind == ANSWERED and isinstance(case.body, dict):
            case.body = mended(case.body)
        answer = call(case)
        counts[answer.status_code] += 1
        if answer.status_code >= 500 and answer.status_code != 503:
            raise ServerFailed(f"{operation.label}: {answer.status_code}: {answer.text[:300]}")
        case.validate_response(answer, checks=CHECKS)

    send()
    return counts


def mended(body: dict[str, Any]) -> dict[str, Any]:
    """A body that fits the document, with what the document cannot say put right."""
    if "messages" in body:
        return chat_mended(body)
    found = {name: value for name, value in body.items() if name != "weights"}
    lists = [name for name in found if name.startswith("texts") and found[name] is not None]
    count = min([2, *(len(found[name]) for name in lists)])
    for name in lists:
        given = found[name][: max(1, count)] or [""]
        found[name] = [f"Pain fell. {text[:200]}" for text in given]
    if "texts_original" in found:
        if found.get("texts_generated") is not None:
            found = {name: value for name, value in found.items() if name not in ("n", "seed")}
    elif operation_writes(found):
        if found.get("texts") is None:
            found["text"] = f"Pain fell. {(found.get('text') or '')[:200]}"
        else:
            found = {name: value for name, value in found.items() if name != "text"}
        if found.get("stream"):
            found = {"text": found.get("text", "Pain fell."), "stream": True}
    if found.get("profile") is not None:  # it has targets of its own, and is of a loss
        other = "texts_human" if "texts_original" in found else "profile"
        if other == "texts_human" or found.get("select") is None:
            found.pop(other, None)
    # JSON Schema has 10.0 for an integer, which is refused, and rounds the limit 2^63 - 1.
    for name, most in (("n", 2), ("seed", 2**63 - 1), ("max_new_tokens", 64)):
        if found.get(name) is not None:
            found[name] = min(int(found[name]), most)
    return found


def chat_mended(body: dict[str, Any]) -> dict[str, Any]:
    """The same for a chat: the model that runs, and a text of the user."""
    more: dict[str, Any] = {"model": "plainmed"}
    for name, most in (("n", 1), ("seed", 2**63 - 1), ("max_tokens", 64)):
        if body.get(name) is not None:
            more[name] = min(int(body[name]), most)
    messages = [*body["messages"][:3], {"role": "user", "content": "Pain fell."}]
    return {**body, **more, "messages": messages, "max_completion_tokens": None}


def operation_writes(body: dict[str, Any]) -> bool:
    """Whether a body is one of `/generate`; that of readability has nothing but `texts`."""
    return set(body) != {"texts"} or body["texts"] is None


def of_application(app: Any) -> Any:
    """The schema of an ASGI application; its cases call that application."""
    return schemathesis.openapi.from_asgi("/openapi.json", app)


def of_server(url: str) -> Any:
    """The schema of a running server."""
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


TEXT = "Aspirin lowered the risk of stroke."
PAIR = b'{"texts_original": ["%b"], "texts_generated": ["%b"]}' % ((TEXT.encode(),) * 2)
JSON = {"content-type": "application/json"}
FORM = {"content-type": "application/x-www-form-urlencoded"}


def named(name: bytes) -> bytes:
    """A good body with one more name."""
    return PAIR[:-1] + b', "%b": 1}' % name


def names(count: int) -> bytes:
    """A body of so many names that no request has."""
    return b"{" + b",".join(b'"k%d":1' % number for number in range(count)) + b"}"


def numbers(count: int) -> bytes:
    """A body with so many numbers in the place of texts."""
    return b'{"texts_original": [' + b",".join([b"1"] * count) + b"]}"


def timed(seconds: str) -> dict[str, str]:
    return {**JSON, "x-request-timeout": seconds}


# What is wrong, method, path, headers, body, statuses that answer it.
ODD: list[tuple[str, str, str, dict[str, str], bytes, tuple[int, ...]]] = [
    ("a lone surrogate in a text", "POST", "/generate", JSON, b'{"text": "a \\ud800"}', (422,)),
    ("a lone surrogate as a name", "POST", "/loss", JSON, named(b"\\ud800"), (422,)),
    ("a NUL in a text", "POST", "/metrics/readability", JSON, b'{"texts": ["a\\u0000b"]}', (200,)),
    ("a name of 100,000 letters", "POST", "/loss", JSON, named(b"a" * 100_000), (422,)),
    ("5,000 digits", "POST", "/generate", JSON, b'{"seed": %b}' % (b"9" * 5000), (400, 422)),
    ("400 digits", "POST", "/generate", JSON, b'{"text": "a", "top_p": %b}' % (b"9" * 400), (422,)),
    ("1e999 as a number", "POST", "/generate", JSON, b'{"text": "a", "top_p": 1e999}', (422,)),
    ("a body nested 100,000 deep", "POST", "/loss", JSON, b'{"weights":' + b"[" * 100_000, (400,)),
    ("a name twice", "POST", "/generate", JSON, b'{"text": "a", "text": "b"}', (422,)),
    ("a hundred thousand wrong names", "POST", "/loss", JSON, names(100_000), (413,)),
    ("a hundred thousand numbers for texts", "POST", "/loss", JSON, numbers(100_000), (413,)),
    ("ten thousand numbers for texts", "POST", "/loss", JSON, numbers(10_000), (422,)),
    ("a compressed body", "POST", "/loss", {**JSON, "content-encoding": "gzip"}, PAIR, (415,)),
    ("two JSON documents", "POST", "/loss", JSON, PAIR + PAIR, (400,)),
    ("a byte order mark", "POST", "/loss", JSON, b"\xef\xbb\xbf" + PAIR, (200, 400)),
    ("UTF-16", "POST", "/loss", JSON, PAIR.decode().encode("utf-16"), (400,)),
    ("a form", "POST", "/loss", FORM, b"a=1", (422,)),
    ("XML", "POST", "/loss", {"content-type": "application/xml"}, b"<a/>", (422,)),
    ("no content type", "POST", "/loss", {}, PAIR, (422,)),
    ("a time that is no number", "POST", "/loss", timed("soon"), PAIR, (400,)),
    ("a time below 0", "POST", "/loss", timed("-1"), PAIR, (400,)),
    ("NaN as a time", "POST", "/loss", timed("nan"), PAIR, (400,)),
    ("a time of 1e-9 s", "POST", "/loss", timed("1e-9"), PAIR, (200, 503)),
    ("a method nobody serves", "TRACE", "/loss", {}, b"", (405,)),
    ("an unknown method", "BREW", "/loss", {}, b"", (400, 405, 501)),
    ("a path of dots", "GET", "/page/..%2f..%2fsettings.py", {}, b"", (404,)),
    ("a path of bad UTF-8", "GET", "/%ff%fe", {}, b"", (404,)),
    ("a path with a NUL", "GET", "/healthz%00", {}, b"", (404,)),
    ("a body on a GET", "GET", "/healthz", JSON, b"{}", (400,)),
    ("bad UTF-8 on a GET", "GET", "/healthz", JSON, b"\xff", (400,)),
]  # fmt: skip
