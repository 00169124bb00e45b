"""Imports of `serve_app` point one way, at any depth, and never in a circle."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PACKAGE = ROOT / "serve_app"

# What each package may import of serve_app, besides itself.
CORE = {"core"}
TEXTS = CORE | {"storage", "text", "models"}
LIBRARY = TEXTS | {"evidence", "metrics", "generation"}
ALLOWED = {
    "core": set[str](),
    "storage": CORE,
    "client": CORE,
    "text": CORE,
    "models": CORE | {"storage"},
    "evidence": CORE | {"text"},
    "metrics": TEXTS | {"evidence"},
    "generation": TEXTS | {"evidence", "metrics"},
    "offline": TEXTS | {"evidence", "metrics"},
    "training": LIBRARY | {"offline", "client"},
    "api": LIBRARY,
    "serving": LIBRARY | {"api"},
    "ops": CORE,
    "agents": LIBRARY | {"client", "api"},
    "cli": LIBRARY | {"client", "offline", "training", "api", "agents", "serving", "ops", "app"},
    "app": LIBRARY | {"api", "serving"},
}
# What a plain `import` of a package must not pull in.
FORBIDDEN = {
    "core": {"torch", "transformers", "ray", "fastapi", "starlette", "boto3"},
    "text": {"torch", "transformers", "ray"},
    "evidence": {"torch", "transformers", "ray", "fastapi", "starlette"},
    "metrics": {"ray", "fastapi", "starlette"},
    "generation": {"ray", "fastapi", "starlette"},
    "api": {"ray", "torch", "transformers"},
    "client": {"torch", "transformers", "ray", "fastapi", "starlette"},
    "agents": {"torch", "transformers", "ray", "fastapi", "starlette", "mcp"},
}


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def _modules() -> dict[str, Path]:
    return {_module(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def _imports(name: str, inside_functions: bool = True) -> frozenset[str]:
    """What a module imports, as modules where they are ours."""
    tree = ast.parse(_modules()[name].read_text(encoding="utf-8"))
    found: set[str] = set()
    nodes = list(ast.walk(tree)) if inside_functions else _at_import(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in _modules() else node.module)
    return frozenset(found - {name})


def _at_import(tree: ast.Module) -> list[ast.AST]:
    """The nodes that run when the module is imported."""
    found: list[ast.AST] = []
    todo: list[ast.AST] = list(tree.body)
    while todo:
        node = todo.pop()
        found.append(node)
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not typing_only and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            todo += ast.iter_child_nodes(node)
    return found


def _package(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_module_belongs_to_a_package_and_only_the_graph_is_loose() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "app.py"}
    assert {_package(name) for name in _modules()} - {""} == set(ALLOWED)


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_point_one_way(package: str) -> None:
    for name in _modules():
        if _package(name) == package:
            for imported in _imports(name):
                if imported.startswith("serve_app."):
                    target = _package(imported)
                    assert target in ALLOWED[package] | {package}, f"{name} imports {imported}"


def test_no_import_closes_a_circle() -> None:
    """Imports inside functions count too: a circle that only runs late is a circle."""
    ours = set(_modules())
    try:
        list(TopologicalSorter({n: _imports(n) & ours for n in ours}).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_a_package_needs_no_more_than_it_says(package: str) -> None:
    for name in _modules():
        if _package(name) == package:
            roots = {imported.split(".")[0] for imported in _imports(name, inside_functions=False)}
            assert not roots & FORBIDDEN[package], name


def _picture() -> dict[str, set[str]]:
    """The arrows between packages that docs/architecture.md draws."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = page.partition("flowchart RL\n")[2].partition("```")[0]
    arrows = (line.split("-->") for line in drawn.splitlines() if "-->" in line)
    return {start.strip(): {one.strip() for one in ends.split("&")} for start, ends in arrows}


def test_the_picture_of_the_packages_is_what_the_code_imports() -> None:
    real: dict[str, set[str]] = {}
    for name in _modules():
        ours = {_package(one) for one in _imports(name) if one.startswith("serve_app.")}
        real.setdefault(_package(name), set()).update(ours - {_package(name), "core"})
    assert _picture() == {package: found for package, found in real.items() if found}


def test_every_package_says_what_it_knows_and_declares_its_public_names() -> None:
    for name, path in _modules().items():
        if path.name == "__init__.py" and name != "serve_app":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            assert ast.get_docstring(tree), name
            assert any("__all__" in ast.unparse(node) for node in tree.body), name
