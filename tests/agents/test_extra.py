"""`plainmed mcp` where the SDK is not installed."""

from __future__ import annotations

import sys

import pytest
from typer.testing import CliRunner

from serve_app.cli.main import app


def test_without_the_extra_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "mcp.server.mcpserver", None)
    done = CliRunner().invoke(app, ["mcp"])
    assert done.exit_code == 2
    assert "pip install 'plainmed[mcp]'" in done.stderr
