"""Takes the picture of a report in docs/images: two commercial models on Cochrane abstracts.

    python -m scripts.report_picture                 # from the repository's root
    python -m scripts.report_picture --report r.html # of a report that is there already

Makes the report as docs/report.md does, of ../shared/data/reference_metrics.jsonl against the
earlier system's targets. The browser is that of the tests.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.browser import chromium, save_picture

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data" / "reference_metrics.jsonl"
TARGETS = ROOT / "serve_app" / "resources" / "targets-earlier-system.json"


def make(out: Path) -> None:
    """Writes the report."""
    command = [sys.executable, "-m", "serve_app.cli", "report", str(DATA)]
    command += ["--targets", str(TARGETS), "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def take(report: Path) -> None:
    """The picture: the report's beginning, down to the paired differences."""
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1180, "height": 900}, color_scheme="light")
        page.goto(report.resolve().as_uri())
        end = page.locator("#correlations").evaluate("it => it.getBoundingClientRect().top")
        save_picture(page, "report.png", height=int(end))


def main() -> None:
    """Reads the command line and takes the picture."""
    parser = argparse.ArgumentParser(description="Takes the picture of a report in docs/images.")
    parser.add_argument("--report", type=Path, help="a report's page; default: made now")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = arguments.report
        if report is None:
            report = Path(folder) / "report.html"
            make(report)
        take(report)


if __name__ == "__main__":
    main()
