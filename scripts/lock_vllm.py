"""Writes constraints-vllm.txt, the lock of the image target `vllm`: resolved, not installed.

    python scripts/lock_vllm.py

Run it on Linux x86-64 with Python 3.11, as in the image. Packages in pyproject.toml get the version
of constraints.txt, except where vLLM needs another (LOOSE); pip chooses the rest. From an index
without metadata files pip downloads the packages to read them, CUDA libraries included.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "constraints-vllm.txt"
LOOSE = {"fastapi", "numpy"}
HEAD = """\
# What the image target `vllm` installs. Written by scripts/lock_vllm.py; see docs/engines.md.
"""


def normal(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def kept() -> list[str]:
    """The lines of constraints.txt that hold for the vLLM image too."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    ours = {normal(Requirement(item).name) for item in requirements()} - LOOSE
    held = [line for line in lines if normal(line.partition("==")[0]) in ours]
    # An index may have builds for CPUs beside it, such as 2.13.0+cpu, which bring no CUDA.
    return [line.replace("torch==", "torch===") for line in held]


def requirements() -> list[str]:
    """What PlainMed needs with its extra `vllm`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["vllm"]]


def resolved() -> list[str]:
    """`name==version` of everything pip would install, by name."""
    with tempfile.TemporaryDirectory() as folder:
        constraints, report = Path(folder) / "constraints.txt", Path(folder) / "report.json"
        constraints.write_text("\n".join(kept()) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
        command += ["--quiet", "--only-binary", ":all:", "--report", str(report)]
        subprocess.run([*command, "--constraint", str(constraints), *requirements()], check=True)
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    names = {item["metadata"]["name"]: item["metadata"]["version"] for item in found}
    return sorted(f"{normal(name)}=={version}" for name, version in names.items())


if __name__ == "__main__":
    LOCK.write_text(HEAD + "\n".join(resolved()) + "\n", encoding="utf-8")
    print(f"{LOCK.name}: {len(LOCK.read_text(encoding='utf-8').splitlines()) - 1} packages")
