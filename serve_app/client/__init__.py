"""Calls a PlainMed server, synchronously or asynchronously, with types and retries.

Knows the HTTP contract (`serve_app.core.schemas`); knows nothing of how anything is computed.
"""

from serve_app.client.clients import AsyncPlainMedClient, PlainMedClient
from serve_app.client.errors import PlainMedAPIError, PlainMedConnectionError
from serve_app.client.wire import SamplingOptions, Texts

__all__ = [
    "AsyncPlainMedClient",
    "PlainMedAPIError",
    "PlainMedClient",
    "PlainMedConnectionError",
    "SamplingOptions",
    "Texts",
]
