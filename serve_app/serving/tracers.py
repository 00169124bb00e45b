"""Which tracer the settings ask for. OpenTelemetry is imported only where they do."""

from __future__ import annotations

from importlib.util import find_spec

from serve_app.core.errors import ConfigError
from serve_app.core.observability.tracing import Tracer, Untraced
from serve_app.core.settings import Settings


def check_traces(settings: Settings) -> None:
    """Raises `ConfigError` where spans are asked for and cannot be sent."""
    if settings.traces_endpoint is not None and find_spec("opentelemetry.exporter.otlp") is None:
        raise ConfigError(
            "TRACES_ENDPOINT needs the extra `traces`: pip install 'plainmed[traces]', or unset it"
        )


def load_tracer(settings: Settings, part: str) -> Tracer:
    """The tracer of one process; `part` names the deployment that runs in it.

    Raises:
        ConfigError: as `check_traces`.
    """
    if settings.traces_endpoint is None:
        return Untraced()
    check_traces(settings)
    from serve_app.core.observability.otlp import OtlpTracer

    return OtlpTracer(settings.traces_endpoint, settings.traces_ratio, part)
