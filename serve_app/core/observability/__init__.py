"""Logs, metrics, timings and spans: what each is called and how a text is kept out of them.

Knows names and units; who collects them is decided elsewhere (`serve_app.serving` for Ray, OTLP
for spans).
"""

__all__ = ["instruments", "log_redaction", "otlp", "timings", "tracing"]
