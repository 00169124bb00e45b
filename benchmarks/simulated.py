"""The served graph over simulated nodes: is the gateway, the batching or the routing the limit?

    python -m benchmarks.simulated 8 --seconds-per-pair 0.05

Starts a Ray cluster of N worker nodes on this machine, each with one Factuality replica whose
model sleeps for a measured time instead of computing (so that two cores can stand for many),
and the real gateway, loss, batching and routing before them. Prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from typing import Annotated, Any

import httpx
import ray
import typer
from ray import serve
from ray.cluster_utils import Cluster

from benchmarks import servers, serving, texts
from serve_app import app as graph
from serve_app.core.context import RequestContext
from serve_app.core.settings import Settings, load_settings
from serve_app.metrics.results import AlignScoreResult, BertScoreResult, ClaimSentence
from serve_app.serving.deployments import metrics
from serve_app.serving.deployments.gateway import Gateway
from serve_app.serving.deployments.loss import Loss

# The models of the shipped targets, so that no warning is logged for each request.
_NAMES = {"relevance": "all-MiniLM-L6-v2", "factuality": "alignscore-mini"}


class SleepingScorer:
    """Answers as a scorer does after `seconds` a pair, using no processor time."""

    device = "cpu"
    tokens = 0

    def __init__(self, metric: str, seconds: float) -> None:
        self.name = _NAMES[metric]
        self._seconds = seconds
        self._metric = metric

    def score(self, originals: Sequence[str], generated: Sequence[str]) -> list[Any]:
        time.sleep(self._seconds * len(originals))
        if self._metric == "relevance":
            return [BertScoreResult(0.5, 0.5, 0.5, False, False) for _ in originals]
        return [
            AlignScoreResult(0.5, (ClaimSentence(text, 0.5, 0, text),), False) for text in generated
        ]


@serve.deployment
class SimulatedMetric(metrics._PairMetric):
    """A model metric whose model sleeps; batching and hand-over are the real ones."""

    def __init__(self, settings: Settings, metric: str, seconds: float) -> None:
        super().__init__(SleepingScorer(metric, seconds), settings)

    async def score(
        self,
        originals: Sequence[str],
        generated: Sequence[str],
        context: RequestContext | None = None,
    ) -> list[Any]:
        return await self._results(originals, generated, context)


def application(nodes: int, seconds: float) -> Any:
    """The graph with one Factuality replica a node; relevance costs a tenth of it, beside it."""
    settings = load_settings()

    def simulated(name: str, each: float) -> Any:
        return SimulatedMetric.options(  # type: ignore[attr-defined]
            name=name,
            num_replicas=nodes,
            max_ongoing_requests=64,
            ray_actor_options={"num_cpus": 0.4, "resources": {"node": 0.5}},
        ).bind(settings, name.lower(), each)

    relevance, factuality = simulated("Relevance", seconds / 10), simulated("Factuality", seconds)
    readability = graph._options(metrics.ReadabilityDeployment, "Readability", 0.1).bind(settings)
    loss = graph._options(Loss, "Loss", 0.1).bind(settings, relevance, factuality, readability)
    gateway = graph._options(Gateway, "Gateway", 0.1).options(user_config={"draining": False})
    return gateway.bind(
        settings,
        Relevance=relevance, Factuality=factuality, Readability=readability, Loss=loss,
    )  # fmt: skip


async def _drive(url: str, body: dict[str, Any], clients: int, seconds: float) -> int:
    """Requests answered within `seconds` by a steady crowd, after a warm-up of a fifth of it."""
    done = 0
    begin = time.perf_counter() + seconds / 5
    end = begin + seconds
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(timeout=120, limits=limits) as client:

        async def one() -> None:
            nonlocal done
            while time.perf_counter() < end:
                (await client.post(url, json=body)).raise_for_status()
                done += begin <= time.perf_counter() <= end

        await asyncio.gather(*(one() for _ in range(clients)))
    return done


def main(
    nodes: Annotated[int, typer.Argument(min=1)],
    seconds_per_pair: Annotated[float, typer.Option(min=0.001)] = 0.05,
    measure_s: Annotated[float, typer.Option(min=1)] = 15.0,
) -> None:
    """Runs one cluster size."""
    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4})
    for _ in range(nodes):
        cluster.add_node(num_cpus=1, resources={"node": 1})
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    port = servers.free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port}, proxy_location="HeadOnly")
    serve.run(application(nodes, seconds_per_pair), name="plainmed", route_prefix="/")
    pairs = serving.sample(texts.load(), serving.PAIRS, 0)
    url = f"http://127.0.0.1:{port}/loss"
    answered = asyncio.run(_drive(url, serving.body(pairs), 4 * nodes, measure_s))
    rate = answered * len(pairs) / measure_s
    ideal = nodes / seconds_per_pair
    print(
        json.dumps(
            {
                "nodes": nodes,
                "pairs_per_s": rate,
                "ideal_pairs_per_s": ideal,
                "share": rate / ideal,
            }
        )
    )
    serve.shutdown()
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    typer.run(main)
