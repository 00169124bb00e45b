"""python -m benchmarks.growth: how cost grows with the texts, the load and the replicas.

Measures the library against document length, claim sentences and batch size; the application
over HTTP against concurrent clients, offered load and replicas; and the graph over simulated
nodes (benchmarks.simulated). `--write` puts tables in docs/scaling.md and charts beside it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import psutil
import torch
import typer
from rich.console import Console

from benchmarks import load, machine, plots, report, servers, serving, texts
from serve_app.core.settings import Settings
from serve_app.metrics.suite import MetricSuite

DOCS = Path(__file__).resolve().parent.parent / "docs"
LENGTHS, CLAIMS, BATCHES = (100, 200, 400, 800), (1, 5, 10, 20), (1, 4, 16)
# Ray Serve's own switches; both are read when Serve starts.
INGRESSES: dict[str, dict[str, str]] = {
    "Serve's proxy": {},
    "Serve's proxy, RAY_SERVE_THROUGHPUT_OPTIMIZED=1": {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"},
    # HAProxy listens on every address, which is refused without keys.
    "HAProxy, RAY_SERVE_ENABLE_HA_PROXY=1": {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "ALLOW_NO_KEYS": "true",
    },
}
CLIENTS, SHARES, NODES = (1, 2, 4, 8, 16, 32), (0.25, 0.5, 0.75, 1.0), (1, 2, 4, 8)
console = Console(stderr=True)
Points = list[tuple[float, float]]
Pairs = list[tuple[str, str]]


def _rate(run: Callable[[Pairs], Any], pairs: Pairs, rounds: int = 3) -> float:
    run(pairs)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run(pairs)
        seconds.append(time.perf_counter() - start)
    return len(pairs) / median(seconds)


def library(found: texts.Texts) -> dict[str, dict[str, Points]]:
    """Pairs a second of all five metrics, and of each model metric, in one process."""
    suite = MetricSuite.from_settings(Settings(bertscore_cache_mb=0))

    def split(pairs: Pairs) -> tuple[list[str], list[str]]:
        return [original for original, _ in pairs], [summary for _, summary in pairs]

    parts: dict[str, Callable[[Pairs], Any]] = {
        "all five metrics": lambda pairs: suite.measure(*split(pairs)),
        "relevance": lambda pairs: suite.relevance.score(*split(pairs)),
        "factuality": lambda pairs: suite.factuality.score(*split(pairs)),
    }

    def curve(cases: dict[int, Pairs]) -> dict[str, Points]:
        return {
            name: [(float(x), _rate(run, pairs)) for x, pairs in cases.items()]
            for name, run in parts.items()
        }

    pool = texts.documents(found, max(BATCHES), words=200, claims=5)
    return {
        "length": curve({n: texts.documents(found, 2, words=n, claims=5) for n in LENGTHS}),
        "claims": curve({n: texts.documents(found, 2, words=300, claims=n) for n in CLAIMS}),
        "batch": curve({n: pool[:n] for n in BATCHES}),
    }


def _requests(found: texts.Texts, count: int, each: int) -> list[dict[str, Any]]:
    pairs = serving.sample(found, count * each, 5)
    return [serving.body(pairs[at : at + each]) for at in range(0, len(pairs), each)]


def clients(url: str, found: texts.Texts) -> list[dict[str, float]]:
    """Throughput and latency of `/loss` with one pair a request, by concurrent clients."""
    rows = []
    for count in CLIENTS:
        bodies = _requests(found, max(32, 2 * count), 1)
        shares = [bodies[n::count] for n in range(count)]
        load.closed_loop(f"{url}/loss", [share[:1] for share in shares])
        start = time.perf_counter()
        answers = load.closed_loop(f"{url}/loss", shares)
        wall = time.perf_counter() - start
        seconds = [s for answer in answers for s, _ in answer]
        rows.append({"clients": count, "pairs_per_s": len(bodies) / wall, **_percentiles(seconds)})
        console.print(rows[-1])
    return rows


def _percentiles(seconds: list[float]) -> dict[str, float]:
    return {f"p{q}": float(np.percentile(seconds, q)) for q in (50, 95, 99)}


def latency(url: str, found: texts.Texts, highest: float) -> list[dict[str, float]]:
    """Latency from when a request was due, at shares of the highest sustained load."""
    rows = []
    for share in SHARES:
        rate = share * highest
        bodies = _requests(found, round(max(40, 25 * rate)), 1)
        outcomes = load.open_loop(f"{url}/loss", bodies, rate)
        refused = sum(status != 200 for _, status in outcomes)
        rows.append(
            {
                "share": share,
                "per_s": rate,
                "refused": refused,
                **_percentiles([s for s, status in outcomes if status == 200]),
            }
        )
        console.print(rows[-1])
    return rows


def memory() -> dict[str, float]:
    """MiB each replica has to itself (unique set size), by deployment."""
    found: dict[str, float] = {}
    for process in psutil.process_iter():
        try:
            title = " ".join(process.cmdline())
            if "ServeReplica:" in title:
                name = title.split("ServeReplica:")[1].split()[0].split(":")[-1]
                found[name] = process.memory_full_info().uss / 2**20
        except psutil.Error:
            continue
    return found


def replicas(found: texts.Texts) -> list[dict[str, float]]:
    """Pairs a second with 16 clients of 8 pairs: Factuality replicas and their threads."""
    rows = []
    pairs = serving.sample(found, serving.CLIENTS * serving.PAIRS, 0)
    for count, threads in ((1, 1), (1, 2), (2, 1)):
        changes = {"Factuality": {"num_replicas": count, "autoscaling_config": None}}
        with servers.plainmed(changes, TORCH_NUM_THREADS=str(threads)) as url:
            run = serving.over_http(url, pairs, serving.PAIRS)
            rate = _rate(lambda _, run=run: run(), pairs)  # type: ignore[misc]
        rows.append({"replicas": count, "threads": threads, "pairs_per_s": rate})
        console.print(rows[-1])
    return rows


def ingress(found: texts.Texts) -> list[dict[str, Any]]:
    """Requests a second of the cheapest route, by what stands before the gateway."""
    rows = []
    bodies = [{"texts": [summary]} for _, summary in serving.sample(found, 32, 7)]
    shares = [bodies[n :: serving.CLIENTS] * 8 for n in range(serving.CLIENTS)]
    for name, environment in INGRESSES.items():
        with servers.plainmed(**environment) as url:
            run = partial(load.closed_loop, f"{url}/metrics/readability", shares)
            run()
            start = time.perf_counter()
            seconds = [s for _ in range(3) for answers in run() for s, _ in answers]
            wall = time.perf_counter() - start
        row = {"ingress": name, "requests_per_s": len(seconds) / wall, **_percentiles(seconds)}
        rows.append(row)
        console.print(row)
    return rows


def simulated(seconds_per_pair: float) -> Iterator[dict[str, float]]:
    """Pairs a second over 1 to 8 simulated nodes, each as fast as measured here."""
    for nodes in NODES:
        command = [sys.executable, "-m", "benchmarks.simulated", str(nodes)]
        command += ["--seconds-per-pair", f"{seconds_per_pair:.4f}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        # Ray may still speak while it shuts down.
        row = json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])
        console.print(row)
        yield row


def _table(rows: list[dict[str, Any]]) -> str:
    names = list(rows[0])
    lines = ["| " + " | ".join(name.replace("_", " ") for name in names) + " |"]
    lines.append("| " + " | ".join("---:" for _ in names) + " |")
    lines += ["| " + " | ".join(_cell(row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def _curve_table(curves: dict[str, Points], x: str) -> str:
    names = list(curves)
    columns = [dict(points) for points in curves.values()]
    return _table(
        [
            {x: value, **{f"{n}, pairs/s": c[value] for n, c in zip(names, columns, strict=True)}}
            for value in columns[0]
        ]
    )


PARTS = ("library", "clients", "replicas", "ingress", "simulated")


def main(
    parts: Annotated[list[str] | None, typer.Argument(help=", ".join(PARTS))] = None,
    write: Annotated[bool, typer.Option(help="write docs/scaling.md, .json and charts")] = False,
) -> None:
    """Measures the parts asked for, or all."""
    torch.set_num_threads(2)
    chosen = parts or list(PARTS)
    found = texts.load()
    path = DOCS / "scaling.json"
    document: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    document["machine"] = machine.facts()
    tables = {"machine": report.facts(document["machine"])}
    charts: list[tuple[str, plots.Series, dict[str, Any]]] = []
    if "library" in chosen:
        document["library"] = library(found)
        axes = {"length": "words of the original", "claims": "sentences of the summary",
                "batch": "pairs in a call"}  # fmt: skip
        for name, label in axes.items():
            curves = document["library"][name]
            tables[name] = _curve_table(curves, label)
            charts.append((name, curves, {"x": label, "y": "pairs/s", "log_x": True,
                                          "title": f"The library by {label}"}))  # fmt: skip
    if "clients" in chosen:
        with servers.plainmed() as url:
            rows = document["clients"] = clients(url, found)
            highest = max(row["pairs_per_s"] for row in rows)
            document["latency"] = latency(url, found, highest)
            document["memory"] = memory()
        tables["clients"] = _table(rows)
        tables["latency"] = _table(document["latency"])
        sizes = sorted(document["memory"].items())
        tables["memory"] = "\n".join(
            ["| deployment | MiB of its own |", "| --- | ---: |",
             *(f"| {name} | {size:.0f} |" for name, size in sizes)]
        )  # fmt: skip
        points = [(row["clients"], row["pairs_per_s"]) for row in rows]
        charts.append(("clients", {"pairs/s": points}, {"x": "concurrent clients", "y": "pairs/s",
                       "log_x": True, "title": "POST /loss, one pair a request"}))  # fmt: skip
        curves = {q: [(100 * row["share"], row[q]) for row in document["latency"]]
                  for q in ("p50", "p95", "p99")}  # fmt: skip
        charts.append(("latency", curves, {"x": "% of the highest sustained load", "y": "seconds",
                       "title": "Latency of POST /loss"}))  # fmt: skip
    if "replicas" in chosen:
        document["replicas"] = replicas(found)
        tables["replicas"] = _table(document["replicas"])
    if "ingress" in chosen:
        document["ingress"] = ingress(found)
        tables["ingress"] = _table(document["ingress"])
    if "simulated" in chosen:
        rate = max(row["pairs_per_s"] for row in document["replicas"])
        rows = document["simulated"] = list(simulated(1 / rate))
        tables["simulated"] = _table(rows)
        charts.append(("simulated", {
            "measured": [(row["nodes"], row["pairs_per_s"]) for row in rows],
            "nodes x one node's model": [(row["nodes"], row["ideal_pairs_per_s"]) for row in rows],
        }, {"x": "simulated nodes", "y": "pairs/s", "title": "Over simulated nodes"}))  # fmt: skip
    report.publish(DOCS / "scaling.md", tables, document if write else None)
    if write:
        for name, series, options in charts:
            plots.lines(DOCS / "charts" / f"scaling-{name}.svg", series, **options)


if __name__ == "__main__":
    typer.run(main)
