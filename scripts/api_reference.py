"""Writes the generated parts of docs/api.md: the reference of every route, and real examples.

    python scripts/api_reference.py                                  # the reference
    python scripts/api_reference.py --examples http://127.0.0.1:8000 # and the examples, asked there
    python scripts/api_reference.py --check                          # exit 1 where it is stale

The reference comes from the application's OpenAPI document, so it needs neither Ray nor a model.
The examples are requests to a running server with default settings, and its answers. The rest of
the page is written by hand.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx

from serve_app.api.app import create_api
from serve_app.api.backend import Backend
from serve_app.api.routes.reference import type_words
from serve_app.core.settings import Settings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "api.md"
BASE = "http://127.0.0.1:8000"
DIGITS = 4
"""Decimals kept of the numbers in examples; the tests compare them with this precision."""

_REFERENCE = "reference"
_EXAMPLES = "examples"

_ORIGINAL = (
    "Compared with placebo, aspirin reduced the incidence of stroke. "
    "Bleeding was more common. Six trials were included."
)
_SUMMARY = "Aspirin prevents strokes. It can cause bleeding."


@dataclass(frozen=True)
class Example:
    """One request that the page shows.

    Attributes:
        title: its heading.
        path: where it is sent.
        body: as JSON; None for a GET.
        say: what to see in the answer.
        varies: why the tests cannot ask again and compare; empty where they can.
    """

    title: str
    path: str
    body: dict[str, Any] | None
    say: str
    varies: str = ""


_PAIR = {"texts_original": [_ORIGINAL], "texts_generated": [_SUMMARY]}
EXAMPLES = (
    Example("Is it ready?", "/healthz", None, "Which models run where, and which targets hold."),
    Example("Is the process alive?", "/livez", None, "Asks no model and no controller."),
    Example(
        "Ready, in short", "/readyz", None, "What load balancers ask; `waiting` names the rest."
    ),
    Example(
        "What is it doing?",
        "/status",
        None,
        "What `plainmed status` draws. Rates are over the last five minutes and all gateways.",
        varies="its rates are another time's",
    ),
    Example("Relevance", "/metrics/relevance", _PAIR, "One number for each pair, in order."),
    Example("Factuality", "/metrics/factuality", _PAIR, "The same form."),
    Example(
        "Readability",
        "/metrics/readability",
        {"texts": [_SUMMARY, _ORIGINAL]},
        "The first text has two sentences, and SMOG is 0 below three: "
        "[what the metrics cannot see](metrics.md#smog).",
    ),
    Example("Loss of one pair", "/loss", _PAIR, "A bare number; a list where there are several."),
    Example(
        "Everything about a pair",
        "/evaluate",
        {**_PAIR, "weights": [0.1, 0.6, 0.1, 0.1, 0.1]},
        "`sentences` says where the factuality comes from.",
    ),
    Example("A summary", "/generate", {"text": _ORIGINAL}, "Each sentence names its source."),
    Example(
        "The best of four",
        "/generate",
        {"text": _ORIGINAL, "n": 4, "select": "loss", "seed": 1},
        "The best is the answer's own `summary`, and first among `candidates`.",
    ),
    Example(
        "The models of OpenAI's clients",
        "/v1/models",
        None,
        "[agents.md](agents.md#openais-api) has both with the `openai` package.",
        varies="`created` is another time's",
    ),
    Example(
        "A summary in OpenAI's form",
        "/v1/chat/completions",
        {"model": "plainmed", "messages": [{"role": "user", "content": _ORIGINAL}]},
        "This engine counts no tokens, so there is no `usage`.",
        varies="`id` and `created` are another request's",
    ),
    Example(
        "A refused request",
        "/loss",
        {"texts_original": [_ORIGINAL, _ORIGINAL], "texts_generated": [_SUMMARY, "..."]},
        "`field` says which text it is about.",
    ),
)


def document() -> dict[str, Any]:
    """The OpenAPI document of an application with both services and default settings."""
    # The routes are described, not called, so a backend that only has its services will do.
    nothing = cast(Backend, SimpleNamespace(services=frozenset({"metrics", "generator"})))
    return create_api(nothing, Settings.model_construct()).openapi()


def reference(api: Mapping[str, Any]) -> str:
    """The routes, their bodies and answers as Markdown."""
    schemas = api["components"]["schemas"]
    parts = []
    sent = set()
    for path, operations in api["paths"].items():
        for method, operation in operations.items():
            parts.append(_route(f"{method.upper()} {path}", operation))
            if body := operation.get("requestBody"):
                sent.add(_type(body["content"]["application/json"]["schema"]))
    requests = [name for name in schemas if _link(name) in sent]
    answers = [name for name in schemas if name not in requests]
    parts.append(
        "### What is sent\n\nAny other field is refused with 422 `unknown_field`, in a chat with "
        "400 `unsupported_field`."
    )
    parts += [_object(name, schemas[name], request=True) for name in requests]
    parts.append("### What comes back")
    parts += [_object(name, schemas[name], request=False) for name in answers]
    return "\n\n".join(parts)


def _route(name: str, operation: Mapping[str, Any]) -> str:
    lines = [f"### {name}", ""]
    if said := operation.get("description"):
        lines += [" ".join(said.split()), ""]
    if body := operation.get("requestBody"):
        lines.append(f"- Request: {_type(body['content']['application/json']['schema'])}")
    for parameter in operation.get("parameters", []):
        lines.append(f"- Parameter `{parameter['name']}`: {_type(parameter['schema'])}")
    errors = []
    for status, answer in operation["responses"].items():
        content = answer.get("content", {})
        kinds = [
            _type(kind["schema"]) if kind.get("schema") else f"`{media}`"
            for media, kind in content.items()
        ]
        if kinds == ["[ErrorResponse](#errorresponse)"]:
            errors.append(status)
        else:
            lines.append(f"- {status}: {', or '.join(kinds)}")
    if errors:
        lines.append(f"- {', '.join(errors)}: [an error](#errors)")
    return "\n".join(lines)


def _object(name: str, schema: Mapping[str, Any], *, request: bool) -> str:
    lines = [f"#### {name}", ""]
    if said := schema.get("description"):
        lines += [" ".join(said.split()), ""]
    fields = schema.get("properties", {})
    required = schema.get("required", [])
    explained = any(kind.get("description") for kind in fields.values())
    head = ["field", "type", *(["default"] if request else []), *(["meaning"] if explained else [])]
    lines += [_row(head), _row(["---"] * len(head))]
    for field, kind in fields.items():
        cells = [f"`{field}`", _type(kind)]
        if request:
            cells.append("required" if field in required else _default(kind))
        elif field not in required:
            cells[1] += ", or absent"
        if explained:
            cells.append(kind.get("description", ""))
        lines.append(_row(cells))
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(kind: Mapping[str, Any]) -> str:
    return f"`{json.dumps(kind['default'])}`" if "default" in kind else "absent"


def _type(kind: Mapping[str, Any]) -> str:
    return type_words(kind, _link)


def _link(name: str) -> str:
    return f"[{name}](#{name.lower()})"


def examples(url: str) -> str:
    """Every example, asked of the server at `url`, as Markdown."""
    with httpx.Client(base_url=url, timeout=300) as client:
        return "\n\n".join(_example(client, one) for one in EXAMPLES)


def _example(client: httpx.Client, example: Example) -> str:
    body = example.body
    if body is None:
        answer = client.get(example.path)
        command = f"curl -s {BASE}{example.path}"
    else:
        answer = client.post(example.path, json=body)
        sent = json.dumps(body, indent=2)
        if "'" in sent:
            raise ValueError(f"{example.title}: a quote would end the shell's own")
        head = f"curl -s {BASE}{example.path} -H 'content-type: application/json'"
        command = f"{head} -d '{sent}'"
    status = "" if answer.status_code == 200 else f" (status {answer.status_code})"
    shown = json.dumps(_rounded(answer.json()), indent=2, ensure_ascii=False)
    before = f"<!-- not run: {example.varies} -->\n" if example.varies else ""
    compared = "" if example.varies else "<!-- output -->\n"
    return (
        f"### {example.title}\n\n{example.say}\n\n{before}```bash\n{command}\n```\n\n"
        f"Answer{status}:\n\n{compared}```json\n{shown}\n```"
    )


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return value


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- {name} -->", f"<!-- end of {name} -->"


def put(page: str, name: str, text: str) -> str:
    """`page` with `text` between the markers of `name`.

    Raises:
        ValueError: the page has no such markers.
    """
    start, end = _markers(name)
    before, found, rest = page.partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{PAGE.name} has no {start} ... {end}")
    return f"{before}{start}\n{text}\n{end}{after}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--examples", metavar="URL", help="a running server to ask")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 where stale")
    options = parser.parse_args(arguments)
    page = PAGE.read_text(encoding="utf-8")
    text = put(page, _REFERENCE, reference(document()))
    if options.check:
        if text != page:
            print(f"{PAGE.name} is stale: run python scripts/api_reference.py", file=sys.stderr)
        return int(text != page)
    if options.examples:
        text = put(text, _EXAMPLES, examples(options.examples))
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
