"""Which tracer the settings ask for. OpenTelemetry is imported only where they do."""

from __future__ import annotations

from importlib.util import find_spec

from serve_app.errors import ConfigError
from serve_app.settings import Settings
from serve_app.traces import Tracer, Untraced


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
    from serve_app.otlp import OtlpTracer

    return OtlpTracer(settings.traces_endpoint, settings.traces_ratio, part)
