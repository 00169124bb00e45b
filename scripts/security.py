"""Looks for dangerous code (bandit) and for secrets (detect-secrets) in what git tracks.

    python scripts/security.py            # exit 1 and a line for each finding
    python scripts/security.py serve_app  # below these paths only

pyproject.toml says what bandit skips, and why. ALLOWED explains false alarms by their hash, so that
a secret in the same place is found. It does not look for known vulnerabilities of dependencies
(pip-audit): that asks a service on the network.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from detect_secrets.core.secrets_collection import SecretsCollection
from detect_secrets.plugins.base import BasePlugin, RegexBasedDetector
from detect_secrets.settings import default_settings, get_plugins, transient_settings

ROOT = Path(__file__).resolve().parent.parent
CODE = ("serve_app", "metrics_client.py", "scripts")
# Hashes, pictures, vocabularies and weights: long random-looking words by nature.
_SKIPPED = re.compile(
    r"\.(lock|svg|png|safetensors|ckpt)$|(^|/)vendor/|vocab|tokenizer|merges\.txt"
)

_NAME = "the name of a Kubernetes Secret, not its content"
_FAKE = "made up for a test of what happens with secrets"
_HASH = "an identifier or checksum made up for a test"
_MOTO = "the made-up credentials of a moto server on loopback"
ALLOWED: dict[str, str] = {
    "sha1:9375c22fea543655d56c7040cf595ca6ed11f1a6": f"plainmed-api-keys: {_NAME}",
    "sha1:34312a8fdb24bb59f74571bbb43fda53a3f9329d": f"plainmed-redis: {_NAME}",
    "sha1:2188596cc0fd84dbb771eb5973b30904aa801b49": f"the same in docs/operations.md: {_NAME}",
    "sha1:4929fca9d47db1f6c2520ce3d6bdd6a9304c9812": f"tls: {_NAME}",
    "sha1:65acf0a7ced564a4880cf946224e60b745d3d631": f"hub: {_NAME}",
    "sha1:84748aed4fb3d7b314c59e90b9b7ae5f21c79a9b": f"ray-token: {_NAME}",
    "sha1:5944ae25418ceabcf285dca1d721b77888dac89b": f"keys: {_NAME}",
    "sha1:d2d4cb6285c90db211acc596f910b6fb50101cf4": "keys.json: the name of a keys file",
    "sha1:9a0377b4f04a672f5a86586681fb34a62557cbf1": "docs/engines.md: where a setting is from",
    "sha1:fc38e4aeb7a5b66c5616d1fa21a41af646fb7594": f"benchmark: {_MOTO}",
    "sha1:d4e0e04792fd434b5dc9c4155c178f66edcf4ed3": f"tests/support/artifact_servers.py: {_MOTO}",
    "sha1:b23b4b8d681cff81910a984b2875948bfc32c8e1": f"chaos: {_MOTO}",
    "sha1:dc724af18fbdd4e59189f5fe768a5f8311527050": f"testing: {_MOTO}",
    "sha1:158b484ae1f6f64f89da22397d25fbdafad02252": f"counted up in hexadecimal: {_HASH}",
    "sha1:6740d1ecb48c5c9ca3b2a3cb1ca2f4b4d4487473": f"the tag of an image: {_HASH}",
    "sha1:439ce89bdbf094ca6646342d45d9b4d590f9edc8": f"the name of a bucket: {_HASH}",
    "sha1:36d2e84746c5c1e130f1738ef134710d34f11a82": f"a key that is not ASCII: {_FAKE}",
    "sha1:f3bbbd66a63d4bf1747940578ec3d0103530e21d": f"in a URL: {_FAKE}",
    "sha1:76ce15edd5a8548603b6fd281d185f323234758f": f"an OpenAI key: {_FAKE}",
    "sha1:9b38fbaf105e214633b7d678b31b06fe20c2b441": f"a marked text: {_FAKE}",
    "sha1:8c3181ee796c391854275c43ffb47d87ab263884": f"another: {_FAKE}",
    "sha1:ab9be5ac820e09c15e5b372d531573176c1878dd": f"the start of an AWS key: {_FAKE}",
}
"""False alarms: the hash that a finding gives, and what it is."""


@dataclass(frozen=True, order=True)
class Finding:
    """A possible secret, without its value."""

    line: int
    kind: str
    identity: str


def tracked(below: Iterable[str] = ()) -> list[str]:
    """Files that git tracks, relative to the root; all, or below some paths."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--", *below]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def secrets_in(names: Iterable[str], root: Path = ROOT) -> dict[str, list[Finding]]:
    """Possible secrets, by file."""
    found: dict[str, list[Finding]] = defaultdict(list)
    with default_settings():
        every = get_plugins()
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in names:
        if not _SKIPPED.search(name) and (able := _able(every, root / name)):
            groups[tuple(type(one).__name__ for one in able)].append(name)
    for plugins, files in groups.items():
        # With the defaults nothing is asked of a network: no verification.
        with transient_settings({"plugins_used": [{"name": one} for one in plugins]}):
            for name in files:
                collection = SecretsCollection(root=str(root))
                collection.scan_file(name)
                for _, secret in collection:
                    identity = f"sha1:{secret.secret_hash}"
                    found[name].append(Finding(secret.line_number, secret.type, identity))
    return dict(found)


def _able(plugins: Iterable[BasePlugin], path: Path) -> list[BasePlugin]:
    """Those that could find something in a file: all of them and every filter on every line take
    several times as long. Files other than Python are given to them as more than their lines.
    """
    if path.suffix != ".py":
        return list(plugins)
    text = path.read_text(encoding="utf-8")

    def able(plugin: BasePlugin) -> bool:
        own = type(plugin).analyze_string
        if isinstance(plugin, RegexBasedDetector) and own is RegexBasedDetector.analyze_string:
            # An expression that matches nowhere in the text matches in no line of it.
            return any(re.search(one.pattern, text, one.flags | re.M) for one in plugin.denylist)
        return any(plugin.analyze_line(str(path), line.rstrip()) for line in text.split("\n"))

    return [one for one in plugins if able(one)]


def unexplained(found: dict[str, list[Finding]]) -> list[str]:
    """A line for each finding that ALLOWED does not explain."""
    return [
        f"{name}:{one.line}: looks like a secret ({one.kind}, {one.identity})"
        for name, findings in sorted(found.items())
        for one in sorted(findings)
        if one.identity not in ALLOWED
    ]


def bandit(paths: Iterable[str] = CODE, root: Path = ROOT) -> list[str]:
    """A line for each finding of bandit."""
    command = [sys.executable, "-m", "bandit", "--quiet", "--recursive", "--format", "custom"]
    command += ["--configfile", str(ROOT / "pyproject.toml"), "--msg-template"]
    command += ["{relpath}:{line}: {test_id} {msg}", *paths]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"bandit failed: {done.stderr}")
    return done.stdout.splitlines()


def main() -> int:
    """Prints every finding; returns the exit status."""
    below = sys.argv[1:]
    code = [path for path in CODE if not below or path in below]
    problems = [*(bandit(code) if code else []), *unexplained(secrets_in(tracked(below)))]
    print("\n".join(problems) or "bandit and detect-secrets found nothing")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
