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
from serve_app.demo import free_port
from tests.chaos.load import Answer, Case, Load
from tests.serve.conftest import ROOT, Server
from tests.serve.metrics_ports import exporters
from tests.texts import GENERATED, ORIGINALS

PAGE = ROOT / "docs" / "reliability.md"
CLIENTS = 8
PAIRS, LONG_PAIRS = 24, 300
"""Of one request: some seconds' work when eight of them are under way, and half a minute's or more
(the hook first waits for the load balancers)."""

BEFORE_S = 0.5
"""What was sent this long before the signal was accepted before it."""

GAUGE = "ray_serve_replica_processing_queries"


@dataclass(frozen=True, slots=True)
class Row:
    """What became of the requests of one shutdown.

    Attributes:
        how: of the shutdown.
        under_way: requests that were.
        answered: of these, rightly.
        refused: later ones answered 503 with Retry-After.
        closed: later ones that found nobody.
        last_s: from the signal to the last right answer.
        gone_s: from the signal to the end of the server, or of what holds its end up.
    """

    how: str
    under_way: int
    answered: int
    refused: int
    closed: int
    last_s: float
    gone_s: float
    wanted: bool = True

    @property
    def good(self) -> bool:
        """Whether everything was answered that should be."""
        return self.under_way > 0 and (self.answered == self.under_way or not self.wanted)


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


def _row(how: str, answers: Sequence[Answer], told: float, gone: float, wanted: bool) -> Row:
    under_way = [one for one in answers if one.asked < told - BEFORE_S and one.answered > told]
    right = [one for one in under_way if one.outcome == "right"]
    later = [one.outcome for one in answers if one.asked > told]
    last = max((one.answered for one in right), default=told)
    return Row(
        how,
        len(under_way),
        len(right),
        later.count("refused"),
        later.count("failed"),
        last - told,
        gone - told,
        wanted,
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
            return _row(how, load.answers, told, gone, wanted)
        finally:
            server.stop()

    return run


def held_up(folder: Path) -> Row:
    """A pod's preStop hook, as the chart has it, beside requests under way; then SIGTERM."""
    server = _start(folder, [_script("serve"), "run"])
    try:
        case = _case(server.url, LONG_PAIRS)
        port = next(port for port, text in exporters(server) if GAUGE in text)
        with Load(server.url, [case], clients=CLIENTS, rate=CLIENTS) as load:
            time.sleep(15.0)  # Ray exports its numbers every ten seconds
            told = time.monotonic()
            hook = _hook(port)
        hook.wait(timeout=300)
        gone = time.monotonic()
        return _row("`preStop` of the chart, then SIGTERM", load.answers, told, gone, True)
    finally:
        server.stop()


def _hook(port: int) -> subprocess.Popen[bytes]:
    """The hook of a metrics pod as the chart renders it, after 10 s instead of 60, at this port."""
    for document in yaml.safe_load_all((ROOT / "k8s" / "metrics.yaml").read_text("utf-8")):
        if document["kind"] == "RayService":
            workers = document["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    container = workers["template"]["spec"]["containers"][0]
    *shell, script = container["lifecycle"]["preStop"]["exec"]["command"]
    script = script.replace("8080", str(port)).replace("sleep 60\n", "sleep 10\n")
    # One pod: it finds no other.
    script = script.replace("cat /tmp/ray/prom_metrics_service_discovery.json", "echo '[]'")
    return subprocess.Popen([*shell, script])


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
        later = "| | |" if row.how.startswith("`preStop`") else f"| {row.refused} | {row.closed} |"
        lines.append(
            f"| {row.how} | {row.under_way} | {row.answered} | {row.last_s:.1f} s "
            f"| {row.gone_s:.1f} s {later}"
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
