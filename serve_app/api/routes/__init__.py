"""The routes, one module a family; each adds its own to a FastAPI application."""

__all__ = ["generate", "health", "page", "reference", "scoring"]
