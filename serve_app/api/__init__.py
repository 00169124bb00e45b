"""The HTTP API as an ASGI application: routes, validation, serializers, middleware, keys, the page.

`app.create_app` wraps any `backend.Backend`. Knows HTTP; knows nothing of Ray or of models.
"""

__all__ = ["app", "auth", "backend", "endpoints", "middleware", "routes"]
