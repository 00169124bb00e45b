"""The application graph: what its deployments are given whatever the Serve config says."""

from __future__ import annotations

from typing import Any

from ray.serve.deployment import Application

from serve_app.app import build


def deployments(application: Application) -> dict[str, Any]:
    """All of the graph, by name."""
    found: dict[str, Any] = {}
    left = [application]
    while left:
        one = left.pop()._bound_deployment
        found[one.name] = one
        given = [*one.init_args, *one.init_kwargs.values()]
        left += [node for node in given if isinstance(node, Application)]
    return found


def test_an_update_lets_every_replica_end_the_longest_request() -> None:
    found = deployments(build({"settings": {"request_timeout_s": 120.0}}))
    assert set(found) == {
        *("Gateway", "Loss", "Relevance", "Factuality", "Readability", "Generator"),
    }
    for name, one in found.items():
        assert one._deployment_config.graceful_shutdown_timeout_s > 120, name
