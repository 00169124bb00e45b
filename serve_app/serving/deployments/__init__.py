"""The deployments of the graph, thin classes over the libraries, and the gateway's backend."""

__all__ = ["gateway", "generator", "handle_backend", "loss", "metrics"]
