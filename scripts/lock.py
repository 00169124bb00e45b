"""Writes the locks with hashes that the image is installed from; `make lock` runs it.

    python scripts/lock.py             # write
    python scripts/lock.py --check     # exit 1 and name those that no longer fit; asks the index

requirements.lock is for the image target `cpu`, without torch, whose CPU build comes from PyTorch's
own index; requirements-cuda.lock is for `gpu`, with torch and its CUDA libraries from the package
index; requirements-vllm.lock is for `vllm`. All are for Linux x86-64 with Python 3.11 and include
the trace exporter, which a setting turns on. Versions come from constraints.txt and
constraints-vllm.txt; CUDA-only packages are not in them, so a lock keeps its own versions of those.
A lock's first lines hold a checksum of its inputs, so a stale one shows without a package index.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLATFORM = ["--python-version", "3.11", "--python-platform", "x86_64-unknown-linux-gnu"]
ONLY_CUDA = re.compile(r"(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==")
_ENTRY = re.compile(r"^(?=[a-z0-9])", re.MULTILINE)


@dataclass(frozen=True)
class Lock:
    """One lock: its file, its constraints, and the extras it includes."""

    name: str
    constraints: str
    extras: tuple[str, ...] = ("traces",)
    cuda: bool = True

    @property
    def path(self) -> Path:
        return ROOT / self.name

    def head(self) -> str:
        """The first lines of the file."""
        return (
            f"# Made by scripts/lock.py of pyproject.toml and {self.constraints}; do not edit.\n"
            "# Installed by the Dockerfile with pip's --require-hashes --no-deps.\n"
            f"# What it was made of: sha256:{self.made_of()}\n"
        )

    def made_of(self) -> str:
        """SHA-256 of the present requirements and constraints."""
        asked = "\n".join(requirements(self)).encode()
        return hashlib.sha256(asked + (ROOT / self.constraints).read_bytes()).hexdigest()


LOCKS = (
    Lock("requirements.lock", "constraints.txt", cuda=False),
    Lock("requirements-cuda.lock", "constraints.txt"),
    Lock("requirements-vllm.lock", "constraints-vllm.txt", extras=("traces", "vllm")),
)


def requirements(lock: Lock) -> list[str]:
    """PlainMed's requirements in that image."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *(one for name in lock.extras for one in extras[name])]


def entries(text: str) -> list[str]:
    """`name==version` with its hashes, one string a package."""
    body = "".join(line for line in text.splitlines(True) if not line.startswith("#"))
    return [entry for entry in _ENTRY.split(body) if entry.strip()]


def versions(text: str) -> dict[str, str]:
    """Version by package name, of a lock."""
    found = (re.match(r"([a-z0-9-]+)(?:\[[^]]*\])?==(\S+)", entry) for entry in entries(text))
    return {match[1]: match[2] for match in found if match is not None}


def resolved(lock: Lock) -> str:
    """The whole text of a lock as it should be now.

    Raises:
        subprocess.CalledProcessError: nothing fits together, or the package index did not answer.
    """
    old = versions(lock.path.read_text(encoding="utf-8")) if lock.path.is_file() else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wanted, out = folder / "in", folder / "out"
        wanted.write_text("\n".join(requirements(lock)) + "\n", encoding="utf-8")
        command = ["uv", "pip", "compile", "--quiet", "--generate-hashes", "--no-annotate"]
        command += ["--no-header", "--system-certs", *PLATFORM]
        command += ["--constraint", str(ROOT / lock.constraints), str(wanted), "-o", str(out)]
        if old:
            # uv prefers the versions of the file it is about to write.
            held = "".join(f"{package}=={version}\n" for package, version in old.items())
            out.write_text(held, encoding="utf-8")
        beside = Path(sys.executable).with_name("uv")
        command[0] = str(beside) if beside.is_file() else "uv"
        subprocess.run(command, check=True)
        text = out.read_text(encoding="utf-8")
    chosen = [one for one in entries(text) if lock.cuda or not ONLY_CUDA.match(one)]
    return lock.head() + "".join(chosen)


def main() -> int:
    """Writes, or with --check compares; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 on difference")
    check = parser.parse_args().check
    stale = False
    for lock in LOCKS:
        text = resolved(lock)
        if not check:
            lock.path.write_text(text, encoding="utf-8")
            print(f"{lock.name}: {len(entries(text))} packages")
        elif not lock.path.is_file() or lock.path.read_text(encoding="utf-8") != text:
            stale = True
            print(f"{lock.name} is stale; run: python scripts/lock.py", file=sys.stderr)
    return int(stale)


if __name__ == "__main__":
    sys.exit(main())
