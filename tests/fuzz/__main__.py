"""Everything that could break PlainMed, tried: requests, texts and files; prints what came of it.

python -m tests.fuzz                  # all of it, some minutes; starts a server for the requests
python -m tests.fuzz --url URL        # the requests go to the server there
python -m tests.fuzz --only files     # one of requests, texts, files
python -m tests.fuzz --write          # also into docs/reliability.md

The exit status is 1 where an answer was not as documented, a number was none, time grew faster than
the text, or a file was not refused.
"""

from __future__ import annotations

import os

from tests.support.paths import ROOT

# Before torch is imported: what is measured here is measured on one thread, and forked.
os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import argparse
import sys
import time
from collections.abc import Callable

from rich.console import Console

from benchmarks.report import replace
from tests.fuzz import tables

PAGE = ROOT / "docs" / "reliability.md"
EXAMPLES = 40
console = Console(stderr=True)


def main() -> int:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", help="a running server of the default settings")
    parser.add_argument("--only", choices=["requests", "texts", "files"])
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="of each kind, each route")
    parser.add_argument("--write", action="store_true", help="fill in docs/reliability.md")
    options = parser.parse_args()
    parts: dict[str, tuple[str, Callable[[], tables.Found]]] = {
        "files": ("files", tables.files),
        "texts": ("texts", tables.texts),
        "requests": ("fuzz", lambda: tables.requests(options.url, options.examples)),
    }
    good = True
    for name, (mark, part) in parts.items():
        if options.only not in (None, name):
            continue
        started = time.monotonic()
        console.print(f"{name} ...")
        found = part()
        console.print(f"{name}: {time.monotonic() - started:.0f} s")
        print(found.text, flush=True)
        for problem in found.problems:
            console.print(problem, markup=False)
        good = good and not found.problems
        if options.write:
            replace(PAGE, mark, found.text)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
