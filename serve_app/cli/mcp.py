"""`plainmed mcp`: the MCP server on standard input and output, for agents that start it."""

from __future__ import annotations

from contextlib import ExitStack

from serve_app.cli.options import Url


def mcp(url: Url = None) -> None:
    """Serve score, check, explain, generate and glossary to an agent (MCP over stdio).

    For the configuration of an agent, which starts this command and speaks to it. Models are
    loaded when a tool first needs them. Needs `plainmed[mcp]`.
    """
    from serve_app.agents.desk import Desk, LocalDesk, RemoteDesk
    from serve_app.agents.mcp_server import create_server
    from serve_app.client.clients import PlainMedClient
    from serve_app.core.settings import load_settings

    with ExitStack() as stack:
        desk: Desk
        if url is None:
            desk = LocalDesk(load_settings())
        else:
            desk = RemoteDesk(stack.enter_context(PlainMedClient(url)))
        create_server(desk).run("stdio")
