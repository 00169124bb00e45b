"""The code is clean and its imports point one way."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "serve_app"

# What each part may import of serve_app, besides itself (design: imports point one way).
_BASE = {"errors", "settings", "artifacts", "model_files", "documents", "weights"}
_LIBRARY = _BASE | {"metrics", "loss", "targets", "evaluation"}
_ROUTES = _LIBRARY | {"generation", "schemas", "limits", "gates", "backend"}
_ROUTES |= {"responses", "checks", "candidates"}
_SEEN = {"telemetry", "stages", "recent", "safe_log", "traces", "otlp"}
ALLOWED = {
    "errors": set[str](),
    "documents": set[str](),
    "torch_zip": set[str](),
    "weights": {"errors", "documents", "torch_zip"},
    "model_files": set[str](),
    "settings": {"errors"},
    "artifacts": {"errors", "settings", "documents"},
    "metrics": _BASE,
    "loss": {"errors", "targets_format", "documents"},
    "targets": _BASE | {"loss"},
    "targets_format": {"errors"},
    "charts": set[str](),
    "evaluation": _LIBRARY,
    "corpus": _LIBRARY,
    "calibration": _LIBRARY | {"corpus", "charts", "targets_format"},
    "report": _LIBRARY | {"corpus", "calibration", "charts", "explanation", "cli_tables"},
    "generation": _LIBRARY | {"safe_log"},
    "merge": _BASE,
    "schemas": set[str](),
    "ticket": set[str](),
    "telemetry": set[str](),
    "stages": set[str](),
    "recent": set[str](),
    "safe_log": set[str](),
    "traces": {"ticket"},
    "otlp": {"traces"},
    "gates": set[str](),
    "limits": _SEEN - {"otlp"} | {"ticket", "gates", "unanswered"},
    "unanswered": {"gates"},
    "refusals": {"ticket", "unanswered"},
    "admission": {"limits", "gates", "settings", "refusals"},
    "access": {"errors", "limits", "gates", "settings", "documents"},
    "explanation": _LIBRARY | {"generation"},
    "responses": _LIBRARY | {"generation", "schemas", "explanation"},
    "sample": _BASE,
    "page_routes": {"sample"},
    "schema_words": set[str](),
    "reference_routes": {"page_routes", "schema_words"},
    "backend": _LIBRARY | {"generation", "recent"},
    "health_routes": _BASE | {"schemas", "backend", "checks", "limits", "recent"},
    "checks": _LIBRARY | {"generation", "schemas", "ticket"},
    "candidates": _LIBRARY | {"generation", "backend"},
    "generate_routes": _ROUTES | {"safe_log", "access", "ticket"},
    "gateway": _ROUTES
    | {"generate_routes", "health_routes", "access", "admission", "page_routes", "reference_routes"}
    | _SEEN,
    "deployments": _LIBRARY
    | {"generation", "limits", "backend", "gateway", "ticket", "access"}
    | _SEEN,
    "client": {"schemas", "errors", "client_wire", "client_core"},
    "client_core": {"schemas", "errors", "client_wire"},
    "client_wire": {"schemas", "errors"},
    "ops": {"errors"},
}
# What a plain `import` of a part must not pull in.
FORBIDDEN = {"metrics": {"ray", "fastapi", "starlette"}, "loss": {"torch", "ray", "transformers"}}


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _files(part: str) -> list[Path]:
    folder = PACKAGE / part
    return sorted(folder.glob("*.py")) if folder.is_dir() else [PACKAGE / f"{part}.py"]


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_imports_point_one_way(part: str) -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py")} | {
        path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()
    }
    for path in _files(part):
        for name in _imports(path):
            parts = name.split(".")
            if parts[0] == "serve_app" and len(parts) > 1 and parts[1] in modules - {part}:
                assert parts[1] in ALLOWED[part], f"{path.name} imports {name}"


@pytest.mark.parametrize("part", sorted(FORBIDDEN))
def test_a_part_needs_no_more_than_it_says(part: str) -> None:
    for path in _files(part):
        roots = {name.split(".")[0] for name in _imports(path)}
        assert not roots & FORBIDDEN[part], path


@pytest.mark.parametrize(
    "command", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]], ids=" ".join
)
def test_code_is_clean(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_file_over_ten_mebibytes_is_tracked() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert files
    too_big = [file.name for file in files if file.is_file() and file.stat().st_size > 10 * 2**20]
    assert not too_big


def test_the_settings_page_is_what_the_command_prints() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "serve_app.cli", "settings", "--markdown"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page.endswith(printed)
