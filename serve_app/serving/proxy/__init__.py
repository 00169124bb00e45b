"""ASGI middleware around Ray Serve's HTTP proxy; knows no settings and no routes."""

__all__ = ["middleware", "retry"]
