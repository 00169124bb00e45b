"""The routes of the API by service: the one list that routing, keys, limits and statistics read."""

from __future__ import annotations

CALLS = frozenset(
    {
        "/metrics/relevance",
        "/metrics/factuality",
        "/metrics/readability",
        "/loss",
        "/evaluate",
        "/generate",
    }
)
"""What is counted: routes that compute. Load balancers and the page ask others all the time."""
