"""The routes that compute, by service: the one list for routing, keys, limits and statistics."""

from __future__ import annotations

from serve_app.core.schemas import Service

ENDPOINTS: dict[str, Service] = {
    "/metrics/relevance": "metrics",
    "/metrics/factuality": "metrics",
    "/metrics/readability": "metrics",
    "/loss": "metrics",
    "/evaluate": "metrics",
    "/generate": "generator",
    "/v1/chat/completions": "generator",
}
"""The service each POST route belongs to. Statistics count these only: load balancers and the page
ask the others all the time."""

SAME_QUEUE = {"/v1/chat/completions": "/generate"}
"""Routes whose work is that of another one: admission counts both together."""

OPENAI = "/v1/"
"""Where routes begin that OpenAI's clients call; errors there have two more fields."""
