"""The command `plainmed`: one module a command, which only parses and prints.

How anything is computed is known to the packages that the commands import when they run.
"""

from serve_app.cli.main import main

__all__ = ["main"]
