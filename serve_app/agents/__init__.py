"""PlainMed for agents: `desk` scores and writes, here or on a server; `mcp_server` offers it.

Knows the library, the client and how MCP calls tools; knows no HTTP server and no Ray.
"""

__all__ = ["desk", "mcp_server"]
