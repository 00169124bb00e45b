"""Logs, metrics, timings and spans: their names and units, and how texts are kept out of them.

Does not know who collects metrics: `serve_app.serving` gives them to Ray.
"""

__all__ = ["instruments", "log_redaction", "otlp", "tracing"]
