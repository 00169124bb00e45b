"""What every other package may use: settings, errors, the HTTP contract's types, request context.

Knows JSON and YAML documents, header names and how logs, metrics and spans are made. Knows
nothing of what texts mean, of models, of Ray or of HTTP servers, and imports no other package.
"""

__all__ = ["context", "documents", "errors", "headers", "resources", "schemas", "settings"]
