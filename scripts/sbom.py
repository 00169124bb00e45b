"""Writes the Python packages of an image as a CycloneDX 1.6 document, from its lock; `make sbom`
runs it.

    python scripts/sbom.py                                  # requirements.lock, into build/
    python scripts/sbom.py requirements-vllm.lock -o FILE

Lists each package with version, package URL and the hashes of the files that pip accepts. torch's
CPU build is not in requirements.lock (scripts/lock.py says why), so it is added without hashes. The
base image's Python and Debian packages are left out. The document is checked against CycloneDX's
schema before it is written.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from lock import LOCKS, ROOT, versions


def torch_version() -> str:
    """As constraints.txt has it."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    (line,) = [one for one in text.splitlines() if one.startswith("torch==")]
    return line


def write(lock: Path, out: Path) -> None:
    """Writes the document of one lock.

    Raises:
        subprocess.CalledProcessError: the lock cannot be read, or the document is not valid.
    """
    text = lock.read_text(encoding="utf-8")
    if "torch" not in versions(text):
        text += torch_version() + "\n"
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "requirements.txt"
        whole.write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "cyclonedx_py", "requirements", "--validate"]
        command += ["--spec-version", "1.6", "--output-format", "JSON", "--output-reproducible"]
        command += ["--pyproject", str(ROOT / "pyproject.toml"), "--mc-type", "application"]
        subprocess.run([*command, "--output-file", str(out), str(whole)], check=True)


def main() -> int:
    """Writes the document and says where; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [lock.name for lock in LOCKS]
    parser.add_argument("lock", nargs="?", default=names[0], choices=names)
    parser.add_argument("-o", "--out", type=Path, help="default: build/sbom-NAME.json")
    given = parser.parse_args()
    out = given.out or ROOT / "build" / f"sbom-{Path(given.lock).stem}.json"
    write(ROOT / given.lock, out)
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
