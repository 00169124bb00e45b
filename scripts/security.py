"""Looks for dangerous code (bandit) and for secrets (detect-secrets) in what git tracks.

    python scripts/security.py            # exit 1 and a line for each finding
    python scripts/security.py serve_app  # below these paths only

What bandit leaves out, and why, stands in pyproject.toml. What looks like a secret and is none is
in ALLOWED with its reason and number, so that one more in the same file is found. Known holes of
dependencies (pip-audit) are not looked for: that asks a service on the network.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from detect_secrets.core.secrets_collection import SecretsCollection
from detect_secrets.settings import default_settings

ROOT = Path(__file__).resolve().parent.parent
CODE = ("serve_app", "metrics_client.py", "scripts")
# Hashes, pictures, vocabularies and weights: long random-looking words by nature.
_SKIPPED = re.compile(
    r"\.(lock|svg|png|safetensors|ckpt)$|^tests/vendor/|vocab|tokenizer|merges\.txt"
)

_NAME = "the name of a Kubernetes Secret, not its content"
_FAKE = "made up for a test of what happens with secrets"
_HASH = "an identifier or checksum made up for a test"
ALLOWED: dict[str, tuple[int, str]] = {
    "benchmarks/s3_download.py": (1, "the made-up credentials of a moto server on loopback"),
    "docs/engines.md": (1, "the name of a setting and where its value comes from"),
    "docs/operations.md": (1, _NAME),
    "helm/plainmed/values-cpu.yaml": (1, _NAME),
    "helm/plainmed/values-dev.yaml": (1, _NAME),
    "helm/plainmed/values-gpu.yaml": (1, _NAME),
    "helm/plainmed/values-ha.yaml": (2, _NAME),
    "helm/plainmed/values-vllm.yaml": (1, _NAME),
    "k8s/generator.yaml": (1, _NAME),
    "k8s/metrics.yaml": (1, _NAME),
    "tests/artifact_servers.py": (2, "the made-up credentials of a moto server, and a checksum"),
    "tests/chaos/stage.py": (1, "the made-up credentials of a moto server on loopback"),
    "tests/client/test_access.py": (1, _FAKE),
    "tests/fixtures/helm/dev.yaml": (1, _NAME),
    "tests/fixtures/helm/gpu-generator.yaml": (1, _NAME),
    "tests/fixtures/helm/ha.yaml": (1, _NAME),
    "tests/fixtures/helm/vllm-generator.yaml": (1, _NAME),
    "tests/helm_releases.py": (3, _NAME),
    "tests/openai_engine/test_starting.py": (1, _FAKE),
    "tests/openai_engine/test_summaries.py": (1, _FAKE),
    "tests/ops/fakes.py": (1, _HASH),
    "tests/ops/test_chart.py": (1, _HASH),
    "tests/ops/test_deploy.py": (2, _HASH),
    "tests/serve/test_bad_requests.py": (1, _FAKE),
    "tests/test_exposure.py": (1, "the name of a keys file"),
    "tests/test_gateway.py": (1, _FAKE),
    "tests/test_helm_keys.py": (1, _NAME),
    "tests/test_helm_values.py": (1, _NAME),
    "tests/test_safe_log.py": (1, _FAKE),
    "tests/test_security.py": (1, _FAKE),
    "tests/test_telemetry.py": (1, _FAKE),
    "tests/test_terraform.py": (1, _FAKE),
    "tests/test_traces.py": (1, _FAKE),
}


def tracked(below: Iterable[str] = ()) -> list[str]:
    """What git tracks, relative to the root; all, or below some paths."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--", *below]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def secrets_in(names: Iterable[str], root: Path = ROOT) -> dict[str, list[tuple[int, str]]]:
    """(line, kind) of whatever looks like a secret, by file; values are never shown."""
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    # With the defaults nothing is asked of a network: no verification.
    with default_settings():
        for name in names:
            if _SKIPPED.search(name):
                continue
            collection = SecretsCollection(root=str(root))
            collection.scan_file(name)
            for _, secret in collection:
                found[name].append((secret.line_number, secret.type))
    return dict(found)


def unexplained(found: dict[str, list[tuple[int, str]]]) -> list[str]:
    """A line for each finding of a file that has more of them than ALLOWED explains."""
    return [
        f"{name}:{line}: looks like a secret ({kind})"
        for name, places in sorted(found.items())
        if len(places) > ALLOWED.get(name, (0, ""))[0]
        for line, kind in sorted(places)
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
