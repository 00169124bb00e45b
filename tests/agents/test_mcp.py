"""The MCP server, asked by the SDK's own client: here, and as `plainmed mcp` over stdio."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serve_app.agents.desk import Desk, LocalDesk, RemoteDesk
from serve_app.agents.mcp_server import create_server
from serve_app.client import PlainMedClient
from serve_app.core.settings import load_settings
from serve_app.evidence import check
from tests.docs.blocks import read_page
from tests.docs.run import Runner
from tests.support.paths import ROOT
from tests.support.servers import MODELS, api_server, lead
from tests.support.texts import GENERATED, ORIGINALS

pytest.importorskip("mcp.server.mcpserver", reason="the extra `mcp` (2.3 or later) is missing")
mcp = pytest.importorskip("mcp")

TOOLS = {"score", "check", "explain", "generate", "glossary"}
PAIR = {"original": ORIGINALS[0], "summary": GENERATED[0]}
WRONG = {
    "original": "We included 15 trials with 3490 women. Serious harms were more frequent.",
    "summary": "We included 15 trials with 349 women.",
}


@asynccontextmanager
async def here(desk: Desk) -> AsyncIterator[Any]:
    """A client of a server in this process, over a desk."""
    async with mcp.Client(create_server(desk)) as client:
        yield client


@asynccontextmanager
async def agent(*options: str, **environment: str) -> AsyncIterator[Any]:
    """A client of a fresh `plainmed mcp`."""
    command = mcp.StdioServerParameters(
        command=sys.executable,
        args=["-m", "serve_app.cli", "mcp", *options],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **environment},
    )
    async with mcp.Client(command, read_timeout_seconds=120) as client:
        yield client


async def call(client: Any, tool: str, **arguments: Any) -> Any:
    """The structured result of a tool, which its text repeats."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert json.loads(result.content[0].text) == result.structured_content
    return result.structured_content


async def refused(client: Any, tool: str, **arguments: Any) -> str:
    """What a tool says that refuses."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    return str(result.content[0].text)


def no_models() -> Desk:
    return LocalDesk(load_settings(bertscore_model="/nowhere", alignscore_model="/nowhere"))


async def test_the_tools_give_what_the_library_gives() -> None:
    desk = LocalDesk(load_settings())
    expected = desk.evaluate([ORIGINALS[0]], [GENERATED[0]], explain=True, findings=True)
    (result,) = expected.results
    async with here(desk) as client:
        assert client.server_info.name == "plainmed"
        assert {one.name for one in (await client.list_tools()).tools} == TOOLS
        score = await call(client, "score", **PAIR)
        explained = await call(client, "explain", **PAIR)
        written = await call(client, "generate", text=ORIGINALS[0], max_new_tokens=60)
    assert score["loss"] == pytest.approx(result.loss, abs=1e-6)
    assert score["metrics"] == pytest.approx(result.metrics.model_dump(), abs=1e-6)
    assert score["models"] == expected.models
    assert score.items() <= explained.items()
    assert [one["text"] for one in explained["sentences"]] == [one.text for one in result.sentences]
    assert all(one["closest"] in ORIGINALS[0] for one in explained["sentences"] if one["closest"])
    assert [one["verdict"] for one in explained["sentences"]] == [
        one.verdict for one in result.sentences
    ]
    assert len(written["summary"].split()) <= 60
    assert all(one["original"] in ORIGINALS[0] for one in written["sentences"])


async def test_rules_quote_both_sides_and_load_no_model() -> None:
    async with here(no_models()) as client:
        found = await call(client, "check", **WRONG)
        plain = await call(client, "glossary", text="An RCT of hypertension.")
        broken = await refused(client, "score", **WRONG)
    assert found["severe"] == check(WRONG["original"], WRONG["summary"]).severe > 0
    (finding,) = (one for one in found["findings"] if one["kind"] == "number")
    assert finding["summary"] == WRONG["summary"]
    assert finding["original"] == ["We included 15 trials with 3490 women."]
    assert found["omissions"][0]["original"] == "Serious harms were more frequent."
    assert plain["text"] == "A study with groups chosen by chance of high blood pressure."
    assert {"term": "hypertension", "plain": "high blood pressure"} in plain["replaced"]
    assert "/nowhere" in broken


async def test_what_cannot_be_done_is_said_to_the_agent() -> None:
    async with here(no_models()) as client:
        assert "summary: " in await refused(client, "check", **PAIR | {"summary": " . "})
        assert "sum" in await refused(client, "score", **PAIR, weights=[1.0, 1.0, 0.0, 0.0, 0.0])
        assert "text" in await refused(client, "generate", text="")
        assert "max_new_tokens" in await refused(
            client, "generate", text=ORIGINALS[0], max_new_tokens=0
        )
        assert "original" in await refused(client, "check", summary="Pain fell.")


async def test_targets_and_pages_are_resources() -> None:
    async with here(no_models()) as client:
        listed = {str(one.uri) for one in (await client.list_resources()).resources}
        assert {"plainmed://targets", "plainmed://docs/metrics", "plainmed://docs/api"} <= listed
        for uri in listed:
            (content,) = (await client.read_resource(uri)).contents
            if uri == "plainmed://targets":
                targets = json.loads(content.text)
                assert targets == json.loads(json.dumps(LocalDesk(load_settings()).targets()))
            else:
                page = ROOT / "docs" / f"{uri.rsplit('/', 1)[1]}.md"
                assert content.text == page.read_text(encoding="utf-8")


async def test_a_server_computes_where_its_address_is_given() -> None:
    nowhere = {"BERTSCORE_MODEL": "/nowhere", "ALIGNSCORE_MODEL": "/nowhere"}
    with api_server() as url:
        async with agent("--url", url, **nowhere) as client:
            score = await call(client, "score", **PAIR)
            explained = await call(client, "explain", **WRONG)
            checked = await call(client, "check", **WRONG)
            written = await call(client, "generate", text=ORIGINALS[0])
            (content,) = (await client.read_resource("plainmed://targets")).contents
            assert "text" in await refused(client, "generate", text="?")
    assert score["models"] == MODELS
    assert explained["findings"] == checked["findings"]
    assert explained["omissions"] == checked["omissions"]
    assert (written["summary"], written["model"]) == (lead(ORIGINALS[0]), "lead-2")
    assert json.loads(content.text)["TARGET_FKGL"] == score["targets"]["fkgl"]


async def test_a_server_that_is_not_there_is_said_to_the_agent() -> None:
    with PlainMedClient("http://127.0.0.1:9", retries=0) as nobody:
        async with here(RemoteDesk(nobody)) as client:
            assert "127.0.0.1:9" in await refused(client, "score", **PAIR)
            assert not (await client.call_tool("check", PAIR)).is_error


def test_the_pages_client_prints_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The documentation's tests leave the block out, as they run without the extra."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    blocks = [
        one
        for one in read_page(ROOT / "docs" / "agents.md").blocks
        if one.language == "python" and "StdioServerParameters" in one.text
    ]
    (block,) = blocks
    here = f'command="{sys.executable}", args=["-m", "serve_app.cli", '
    text = block.text.replace('command="plainmed", args=[', here)
    assert not Runner(tmp_path).run([replace(block, text=text)])
