"""Benchmarks are run by hand; what they import of the project is held to exist."""

import ast
import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from project import ROOT

OURS = ("metashot", "stages", "flows", "benchmarks")
PAGES = sorted((ROOT / "benchmarks").glob("*.py"))


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Module and name of every import of ours, also in programs that are strings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in OURS:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.partition(".")[0] in OURS)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "import " in node.value:
            try:
                program = ast.parse(node.value)
            except SyntaxError:  # prose
                continue
            yield from imported(program)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_what_a_benchmark_imports_exists(path: Path) -> None:
    for module, name in imported(ast.parse(path.read_text())):
        held = importlib.import_module(module) if module.partition(".")[0] != "benchmarks" else None
        if held and name and not hasattr(held, name):
            assert importlib.util.find_spec(f"{module}.{name}"), f"{module} has no {name}"
        if not held:
            where = module.replace(".", "/")
            assert (ROOT / f"{where}.py").exists() or (ROOT / where).is_dir(), module
