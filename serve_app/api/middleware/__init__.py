"""ASGI middleware of the application: the guard, the gates it asks, admission by expected wait."""

__all__ = ["admission", "gate", "request_guard"]
