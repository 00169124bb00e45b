"""The command `plainmed`: one module per command, which parses, calls the library and prints.

Knows nothing of how anything is computed.
"""

from serve_app.cli.main import main

__all__ = ["main"]
