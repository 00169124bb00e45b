"""What becomes of requests that are under way when a server is told to stop, on real processes.

python -m tests.chaos.shutdown          # some five minutes on two cores
python -m tests.chaos.shutdown --write  # also into docs/reliability.md
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml

from benchmarks.report import replace
from serve_app.cli.demo import free_port
from tests.chaos.load import Answer, Case, Load
from tests.serving.live.conftest import Server
from tests.serving.live.metrics_ports import exporters
from tests.support.paths import ROOT
from tests.support.texts import GENERATED, ORIGINALS

PAGE = ROOT / "docs" / "reliability.md"
CLIENTS = 8
PAIRS, LONG_PAIRS = 24, 300
"""Of one request: some seconds' work when eight of them are under way, and half a minute's or more
(the hook first waits for the load balancers)."""

BEFORE_S = 0.5
"""What was sent this long before the signal was accepted before it."""

HOOK_S = 300.0
"""Longest that the hook, and a request beside it, may take."""

LEAVES_S = 8.0
"""After so long no load balancer sends a pod anything; the hook, shortened, waits for 10 s."""

GAUGE = "ray_serve_replica_processing_queries"


@dataclass(frozen=True, slots=True)
class Row:
    """What became of the requests of one shutdown.

    Attributes:
        how: of the shutdown.
        under_way: requests that were, or that came before what holds the end up had ended.
        answered: of these, rightly.
        refused: later ones answered 503 with Retry-After.
        closed: later ones that found nobody.
        last_s: from the signal to the last right answer.
        gone_s: from the signal to the end of the server, or of what holds its end up.
        wanted: whether everything must be answered.
        problems: what else is not as it must be.
    """

    how: str
    under_way: int
    answered: int
    refused: int
    closed: int
    last_s: float
    gone_s: float
    wanted: bool = True
    problems: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether everything was answered that should be, before the end."""
        if self.problems or not self.under_way:
            return False
        return not self.wanted or (self.answered == self.under_way and self.last_s <= self.gone_s)


def _start(folder: Path, command: Sequence[str]) -> Server:
    """A server of the metrics, by `command` and a port."""
    folder.mkdir()
    port = free_port()
    document = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    document["http_options"]["port"] = port
    application = document["applications"][0]
    application["args"]["services"] = ["metrics"]
    application["deployments"] = [
        one for one in application["deployments"] if one["name"] != "Generator"
    ]
    config = folder / "serve_config.yaml"
    config.write_text(yaml.safe_dump(document), encoding="utf-8")
    server = Server(port, folder / "log", [*command, str(config)], RAY_TMPDIR=str(folder))
    try:
        return server.wait_until_ready()
    except KeyboardInterrupt:
        server.stop()
        raise


def _case(url: str, pairs: int = PAIRS) -> Case:
    body = {
        "texts_original": [f"{ORIGINALS[0]} Case {number}." for number in range(pairs)],
        "texts_generated": [f"{GENERATED[0]} Case {number}." for number in range(pairs)],
    }
    answer = httpx.post(f"{url}/loss", json=body, timeout=300)
    answer.raise_for_status()
    return Case("/loss", body, answer.json())


def judged(
    how: str,
    load: Load,
    told: float,
    gone: float,
    *,
    wanted: bool = True,
    until: float | None = None,
    later: Sequence[Answer] = (),
) -> Row:
    """The row of a shutdown.

    Args:
        how: of it.
        load: that was on, once it is over.
        told: when it began.
        gone: when the server, or what holds its end up, had ended.
        wanted: whether everything must be answered.
        until: what was sent before this is accepted; when it began, if nothing else is said.
        later: what was sent after the end of the load.
    """
    until = told if until is None else until
    under_way = [
        one for one in load.answers if one.asked < until - BEFORE_S and one.answered > told
    ]
    right = [one for one in under_way if one.outcome == "right"]
    outcomes = [one.outcome for one in [*load.answers, *later] if one.asked > until]
    return Row(
        how,
        len(under_way),
        len(right),
        outcomes.count("refused"),
        outcomes.count("failed"),
        max((one.answered for one in right), default=told) - told,
        gone - told,
        wanted,
        tuple(load.missing()),
    )


def signalled(
    how: str, command: Sequence[str], number: signal.Signals, wanted: bool = True
) -> Callable[[Path], Row]:
    """A server that is sent a signal while clients go on asking."""

    def run(folder: Path) -> Row:
        server = _start(folder, command)
        try:
            with Load(server.url, [_case(server.url)], clients=CLIENTS, rate=CLIENTS) as load:
                time.sleep(3.0)
                told = time.monotonic()
                server.process.send_signal(number)
                server.process.wait(timeout=180)
                gone = time.monotonic()
                time.sleep(1.0)
            return judged(how, load, told, gone, wanted=wanted)
        finally:
            server.stop()

    return run


def held_up(folder: Path) -> Row:
    """A pod's preStop hook, as the chart has it, beside requests under way; SIGTERM as it ends.

    The clients go on asking until the load balancers have noticed, and are not waited for: a hook
    that ends too early has their requests cut. More of them ask once the hook has ended.
    """
    server = _start(folder, [_script("serve"), "run"])
    try:
        case = _case(server.url, LONG_PAIRS)
        port = next(port for port, text in exporters(server) if GAUGE in text)
        with Load(server.url, [case], clients=CLIENTS, rate=CLIENTS, timeout_s=HOOK_S) as load:
            time.sleep(15.0)  # Ray exports its numbers every ten seconds
            told = time.monotonic()
            hook = _hook(port)
            time.sleep(LEAVES_S)
            load.stop()
            hook.wait(timeout=HOOK_S)
            gone = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            with Load(server.url, [case], clients=CLIENTS, rate=CLIENTS) as later:
                server.process.wait(timeout=180)
                time.sleep(1.0)
        how = "`preStop` of the chart, then SIGTERM"
        return judged(how, load, told, gone, until=gone, later=later.answers)
    finally:
        server.stop()


def _hook(port: int) -> subprocess.Popen[bytes]:
    """The hook of a metrics pod as the chart renders it, after 10 s instead of 60, at this port."""
    for document in yaml.safe_load_all((ROOT / "k8s" / "metrics.yaml").read_text("utf-8")):
        if document["kind"] == "RayService":
            workers = document["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    container = workers["template"]["spec"]["containers"][0]
    *shell, script = container["lifecycle"]["preStop"]["exec"]["command"]
    return subprocess.Popen([*shell, here(script, port)])


def here(script: str, port: int) -> str:
    """A hook's script for one machine.

    Raises:
        RuntimeError: it no longer has what is replaced.
    """
    changes = {
        "8080": str(port),
        "sleep 60\n": "sleep 10\n",
        # One pod: it finds no other.
        "cat /tmp/ray/prom_metrics_service_discovery.json": "echo '[]'",
    }
    for old, new in changes.items():
        if old not in script:
            raise RuntimeError(f"the chart's preStop has no {old!r} any more")
        script = script.replace(old, new)
    return script


def _script(name: str) -> str:
    return str(Path(sys.executable).parent / name)


RUNS: dict[str, Callable[[Path], Row]] = {
    "term": signalled(
        "SIGTERM of `plainmed serve`", [_script("plainmed"), "serve"], signal.SIGTERM
    ),
    "int": signalled("SIGINT of `plainmed serve`", [_script("plainmed"), "serve"], signal.SIGINT),
    "hook": held_up,
    "ray": signalled(
        "SIGTERM of `serve run`", [_script("serve"), "run"], signal.SIGTERM, wanted=False
    ),
}


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| how | under way | answered rightly | last answer after | over after "
        "| later ones: 503 | nobody there |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        lines.append(
            f"| {row.how} | {row.under_way} | {row.answered} | {row.last_s:.1f} s "
            f"| {row.gone_s:.1f} s | {row.refused} | {row.closed} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Runs it; the exit status is 1 where what was accepted was not answered."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=[*RUNS], default=[*RUNS])
    parser.add_argument("--write", action="store_true", help="fill in docs/reliability.md")
    arguments = parser.parse_args()
    rows = []
    # Ray's sockets need a short path, and a Ray that has just ended may still write.
    with tempfile.TemporaryDirectory(
        prefix="stop-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:
        for name in arguments.only:
            rows.append(RUNS[name](Path(folder) / name))
            print(rows[-1], file=sys.stderr, flush=True)
    print(table(rows))
    if arguments.write:
        replace(PAGE, "shutdown", table(rows))
    return 0 if all(row.good for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
