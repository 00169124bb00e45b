"""Writes what is generated in helm/plainmed and k8s, or says what is out of step.

    python scripts/chart_files.py            # write
    python scripts/chart_files.py --check    # exit 1 and name the files that differ

One source each: serve_config.yaml for the Serve config in the chart; `serve_app.core.settings` and
serve_config.yaml for the settings and deployments that values.schema.json accepts; values.yaml for
the README; the chart for k8s/ and the golden renderings under tests/fixtures/helm. Needs
helm-python-sdk (the `dev` extra).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import helm_python
import yaml
from chart_readme import readme

from serve_app.core.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "helm" / "plainmed"
GOLDEN = ROOT / "tests" / "fixtures" / "helm"
NAMESPACE = "plainmed"
# Address and cache are the chart's to set, and a secret is never a plain value.
NOT_SETTABLE = {"host", "port", "cache_dir", "hf_token", "openai_api_key"}
NOT_SETTABLE |= {"api_keys", "api_keys_file", "allow_no_keys"}  # by the chart's apiKeys
_SAID_ELSEWHERE = {"title", "default"}

# Renderings that are checked in: file name -> (release name, profiles, further values).
RENDERED: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    "k8s/metrics.yaml": ("plainmed-metrics", ["cpu"], {"services": ["metrics"]}),
    "k8s/generator.yaml": ("plainmed-generator", ["cpu"], {"services": ["generator"]}),
    "tests/fixtures/helm/dev.yaml": ("plainmed", ["dev"], {}),
    "tests/fixtures/helm/gpu-generator.yaml": (
        "plainmed-generator",
        ["gpu"],
        {"services": ["generator"], "generator": {"model": {"name": "lead-3", "bucket": "models"}}},
    ),
    "tests/fixtures/helm/ha.yaml": ("plainmed", ["ha"], {}),
    "tests/fixtures/helm/vllm-generator.yaml": (
        "plainmed-generator",
        ["vllm"],
        {"generator": {"model": {"name": "lead-3", "bucket": "models"}}},
    ),
}


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid on `base` as Helm lays values files: maps are merged, all else replaced."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def profile_values(profiles: list[str], extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """The values of `-f values-A.yaml -f values-B.yaml --set EXTRA`."""
    values: dict[str, Any] = {}
    for profile in profiles:
        text = (CHART / f"values-{profile}.yaml").read_text(encoding="utf-8")
        values = merge(values, yaml.safe_load(text) or {})
    return merge(values, extra or {})


def render(
    release: str,
    profiles: list[str],
    extra: dict[str, Any] | None = None,
    namespace: str = NAMESPACE,
) -> dict[str, str]:
    """The chart's manifests by template name, as `helm template` makes them; NOTES.txt among them.

    Raises:
        helm_python.HelmError: a value is refused or a template fails.
    """
    with helm_python.Chart.load(CHART) as chart:
        values = profile_values(profiles, extra)
        chart.validate_schema(values)
        rendered = chart.render(values, name=release, namespace=namespace)
    return {name.removeprefix("plainmed/templates/"): text for name, text in rendered.items()}


def manifest(release: str, profiles: list[str], extra: dict[str, Any]) -> str:
    """All objects of a release in one YAML stream, in a stable order."""
    documents = [
        text.strip().removeprefix("---").strip()
        for name, text in sorted(render(release, profiles, extra).items())
        if name.endswith(".yaml") and text.strip()
    ]
    flags = " ".join([*(f"-f values-{profile}.yaml" for profile in profiles), *_flags(extra)])
    head = f"# helm template {release} helm/plainmed -n {NAMESPACE} {flags}\n"
    head += "# Made by scripts/chart_files.py; do not edit.\n"
    return head + "".join(f"---\n{document}\n" for document in documents)


def _flags(extra: dict[str, Any]) -> list[str]:
    return [f"--set-json '{key}={json.dumps(value)}'" for key, value in extra.items()]


def schema(text: str, serve_config: dict[str, Any]) -> str:
    """values.schema.json with the settings and deployments that exist now."""
    document = json.loads(text)
    serve = document["properties"]["serve"]["properties"]
    fields = Settings.model_json_schema()["properties"]
    serve["settings"] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            name: {key: part for key, part in fields[name].items() if key not in _SAID_ELSEWHERE}
            for name in sorted(set(fields) - NOT_SETTABLE)
        },
    }
    names = [item["name"] for item in serve_config["applications"][0]["deployments"]]
    serve["deployments"]["properties"] = {
        name: {"$ref": "#/$defs/deployment"} for name in sorted(names)
    }
    return json.dumps(document, indent=2) + "\n"


def generated() -> dict[Path, str]:
    """Every generated file and what should be in it."""
    source = (ROOT / "serve_config.yaml").read_text(encoding="utf-8")
    schema_file = CHART / "values.schema.json"
    template = (CHART / "README.md.tmpl").read_text(encoding="utf-8")
    values = (CHART / "values.yaml").read_text(encoding="utf-8")
    return {
        CHART / "files" / "serve-config.yaml": source,
        schema_file: schema(schema_file.read_text(encoding="utf-8"), yaml.safe_load(source)),
        CHART / "README.md": readme(template, values),
    }


def renderings() -> dict[Path, str]:
    """Every checked-in rendering of the chart, from the chart as it is on disk."""
    return {ROOT / name: manifest(*arguments) for name, arguments in RENDERED.items()}


def out_of_step(files: dict[Path, str]) -> list[str]:
    """Names of the files that do not hold what they should."""
    return [
        str(path.relative_to(ROOT))
        for path, text in files.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]


def write(files: dict[Path, str]) -> None:
    """Writes each file, and its folder where that is missing."""
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def main() -> int:
    """Writes, or with --check compares; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 on difference")
    if not parser.parse_args().check:
        write(generated())  # first: the renderings read them
        write(renderings())
        return 0
    different = out_of_step(generated() | renderings())
    for name in different:
        print(f"{name} is out of step; run: python scripts/chart_files.py", file=sys.stderr)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
