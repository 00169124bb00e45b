"""Ray Serve: deployments, scheduling, the middleware around Serve's proxy, `plainmed serve`.

Knows batching, replicas, health and retries; knows no maths.
"""

__all__ = ["deployments", "proxy", "remote_calls", "scheduling", "server"]
