"""Who may import whom: search_spaces <- latency, predictors (never each other) <- nas <- dashboards; nas.cli on top."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
ALLOWED = {
    "search_spaces": set(),
    "latency": {"search_spaces"},
    "predictors": {"search_spaces"},
    "nas": {"search_spaces", "latency", "predictors"},
    "dashboards": {"search_spaces", "latency", "predictors", "nas"},
}
TRAVELLERS = {"latency.runner": {"numpy", "onnxruntime", "openvino"}}
"""Modules that are copied to other machines, and the packages that they may need there."""


def is_door(module: str) -> bool:
    """Tell whether the module belongs to the command line, which may import everything."""
    return module == "nas.cli" or module.startswith("nas.cli.")


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, root: Path) -> Iterator[str]:
    """Yield the names that a file imports, wherever in the file it does: ``a.b`` and, for ``from a import b``, too."""
    package = path.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__"):
                yield str(node.args[0].value)


def edges(root: Path) -> list[tuple[str, str]]:
    """Return (importing module, imported name) for all files of our packages."""
    files = sorted(path for package in ALLOWED for path in (root / package).rglob("*.py"))
    return [(module_name(path, root), name) for path in files for name in imports(path, root)]


def forbidden(root: Path) -> list[str]:
    """Return the edges that must not be."""
    found = []
    for module, name in edges(root):
        package, target = module.partition(".")[0], name.partition(".")[0]
        if target == "tests" or target == "conftest":
            found.append(f"{module} -> {name}")
        elif is_door(module):
            continue
        elif target in ALLOWED and target != package and target not in ALLOWED[package]:
            found.append(f"{module} -> {name}")
        elif is_door(name):
            found.append(f"{module} -> {name}")
        if module in TRAVELLERS and target not in TRAVELLERS[module] | sys.stdlib_module_names:
            found.append(f"{module} -> {name}")
    return found


def module_cycles(root: Path) -> list[list[str]]:
    """Return the import cycles among modules, each by its modules in order."""
    modules = {module_name(path, root) for package in ALLOWED for path in (root / package).rglob("*.py")}
    graph: dict[str, set[str]] = {module: set() for module in modules}
    for module, name in edges(root):
        target = name if name in modules else name.rpartition(".")[0]
        if target in modules and target != module:
            graph[module].add(target)
    cycles: list[list[str]] = []
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            cycles.append(path[path.index(module) :])
        elif module not in done:
            for target in sorted(graph[module]):
                visit(target, [*path, module])
            done.add(module)

    for module in sorted(graph):
        visit(module, [])
    return cycles


def test_the_walk_sees_the_code() -> None:
    seen = edges(REPOSITORY)
    assert {module.partition(".")[0] for module, _ in seen} == set(ALLOWED)
    assert ("latency.table", "search_spaces.block.Block") in seen


def test_imports_go_down() -> None:
    assert forbidden(REPOSITORY) == []


def test_no_module_imports_itself_by_a_detour() -> None:
    assert module_cycles(REPOSITORY) == []


def made_up(root: Path, module: str, text: str) -> Path:
    for package in ALLOWED:
        (root / package).mkdir()
        (root / package / "__init__.py").write_text('"""Made up."""\n')
    (root / module).parent.mkdir(exist_ok=True)
    (root / module).write_text(text)
    return root


BAD = [
    ("search_spaces/a.py", "import latency.table", "search_spaces.a -> latency.table"),
    ("search_spaces/a.py", "from nas import x", "search_spaces.a -> nas.x"),
    ("latency/a.py", "from predictors.gp import AccuracyGP", "latency.a -> predictors.gp.AccuracyGP"),
    ("predictors/a.py", "def f():\n    import latency", "predictors.a -> latency"),
    ("predictors/a.py", "from latency import table as t", "predictors.a -> latency.table"),
    ("nas/a.py", "if True:\n    from dashboards import report", "nas.a -> dashboards.report"),
    ("nas/search/a.py", "from importlib import import_module as i\nimport dashboards.board", "dashboards.board"),
    ("nas/a.py", "import importlib\nimportlib.import_module('dashboards')", "nas.a -> dashboards"),
    ("nas/a.py", "from nas.cli import app", "nas.a -> nas.cli.app"),
    ("dashboards/a.py", "import nas.cli.main", "dashboards.a -> nas.cli.main"),
    ("dashboards/a.py", "from tests import toy", "dashboards.a -> tests.toy"),
    ("nas/cli/a.py", "import tests", "nas.cli.a -> tests"),
    ("latency/runner.py", "import torch", "latency.runner -> torch"),
    ("latency/runner.py", "def f():\n    from latency.device import Device", "latency.runner -> latency.device"),
    ("latency/runner.py", "from . import device", "latency.runner -> latency.device"),
]


@pytest.mark.parametrize(("module", "text", "edge"), BAD)
def test_bad_edge_is_found(module: str, text: str, edge: str, tmp_path: Path) -> None:
    found = forbidden(made_up(tmp_path, module, text))
    assert len(found) == 1 and edge in found[0]


GOOD = [
    ("latency/a.py", "from search_spaces.block import Block"),
    ("nas/a.py", "import latency.table, predictors.gp, torch\nfrom . import b"),
    ("nas/cli/a.py", "from dashboards import report\nfrom nas.cli import b\nimport latency"),
    ("nas/cli.py", "from dashboards import report"),
    ("dashboards/a.py", "from nas.delivery.front import Front"),
    ("latency/runner.py", "import json, threading\nimport numpy as np\nimport onnxruntime as ort"),
]


@pytest.mark.parametrize(("module", "text"), GOOD)
def test_good_edge_is_let_through(module: str, text: str, tmp_path: Path) -> None:
    assert forbidden(made_up(tmp_path, module, text)) == []


def test_cycle_is_found(tmp_path: Path) -> None:
    root = made_up(tmp_path, "nas/a.py", "from nas.b import f")
    (root / "nas" / "b.py").write_text("def f():\n    from nas import c")
    assert module_cycles(root) == []
    (root / "nas" / "c.py").write_text("import nas.a")
    assert module_cycles(root) == [["nas.a", "nas.b", "nas.c"]]
