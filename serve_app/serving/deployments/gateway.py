"""The ingress deployment: the HTTP API over `HandleBackend`, its drain and its statistics."""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.handle import DeploymentHandle

from serve_app.api.app import create_app
from serve_app.api.auth.host_gate import check_exposure, listened_on
from serve_app.api.middleware.request_guard import RequestGuard, Traffic
from serve_app.api.request_stats import RequestStats, StatsWindow
from serve_app.core.settings import Settings
from serve_app.serving.deployments.handle_backend import GATEWAY, HandleBackend
from serve_app.serving.ray_metrics import ServeTelemetry
from serve_app.serving.tracers import load_tracer


def _host_of_serve() -> str:
    """The address that the running Serve was started with, which a later config cannot change."""
    return str(_get_global_client().http_config.host)


@serve.deployment
@serve.ingress()
class Gateway:
    """The ingress; with `user_config: {draining: true}` it finishes what it has, no more."""

    def __init__(self, settings: Settings, **handles: DeploymentHandle) -> None:
        # Here, where nobody gets round it: `serve run` and KubeRay tell only Serve where to listen.
        check_exposure(settings, listened_on(_host_of_serve()))
        app_name = serve.get_replica_context().app_name
        self._settings = settings
        self._traffic = Traffic()
        self._recent = RequestStats()
        self._tracer = load_tracer(settings, GATEWAY)
        self._backend = HandleBackend(handles, app_name, self._recent)

    def __serve_build_asgi_app__(self) -> RequestGuard:
        return create_app(
            self._backend,
            self._settings,
            self._traffic,
            ServeTelemetry(),
            recent=self._recent,
            tracer=self._tracer,
            host=listened_on(_host_of_serve()),
        )

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Serve calls this on every replica when only `user_config` changes."""
        self._traffic.draining = bool(config.get("draining", False))

    async def window(self) -> StatsWindow:
        """What this replica has answered lately."""
        return self._recent.window()

    async def traffic(self) -> tuple[str, int]:
        """This replica's id and how many requests it has under way."""
        return serve.get_replica_context().replica_id.unique_id, self._traffic.in_flight

    def __del__(self) -> None:
        # Serve calls it when it stops a replica in peace; after a failed start there is no tracer.
        if tracer := getattr(self, "_tracer", None):
            tracer.close()
