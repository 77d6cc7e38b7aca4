"""dvc.yaml holds what the code says: exact dependencies, cached outputs, one folder for each cell."""

import ast
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PACKAGES = ("metashot", "stages")
# Modules that code picks by name at run time: importer -> what it picks, for a cell of the matrix.
PICKED = {
    "metashot.data.source": "metashot.data.{dataset}",
    "metashot.methods": "metashot.methods.{method}",
}

stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
params = yaml.safe_load((ROOT / "params.yaml").read_text())


def module_file(name: str) -> Path | None:
    base = ROOT.joinpath(*name.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.exists()), None)


def imports(name: str) -> set[str]:
    """Modules of ours that importing ``name`` executes: its packages, and what its import statements name."""
    path = module_file(name)
    found = {".".join(name.split(".")[:depth]) for depth in range(1, name.count(".") + 1)}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {m for m in found if m.split(".")[0] in PACKAGES and module_file(m)}


def closure(start: str, cell: dict[str, str]) -> set[str]:
    seen, todo = set(), [start]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        todo.extend(imports(name))
        picked = PICKED.get(name, "").format_map({"method": "", "dataset": ""} | cell)
        if module_file(picked):
            todo.append(picked)
    return {str(module_file(name).relative_to(ROOT)) for name in seen}


def cells(stage: str) -> list[dict[str, str]]:
    """Every cell of a stage's matrix, for all data sets and methods params.yaml knows."""
    found: list[dict[str, str]] = [{}]
    for key in stages[stage].get("matrix", {}):
        values = params["data" if key == "dataset" else key]
        found = [cell | {key: value} for cell in found for value in values]
    return found


def fill(text: str, cell: dict[str, str]) -> str:
    for key, value in cell.items():
        text = text.replace(f"${{item.{key}}}", value)
    return text


def declared_code(stage: str, cell: dict[str, str]) -> set[str]:
    return {path for dep in stages[stage]["deps"] if (path := fill(dep, cell)).endswith(".py")}


def all_cells() -> list:
    return [pytest.param(s, c, id="-".join([s, *c.values()])) for s in stages for c in cells(s)]


def code(stage: str, cell: dict[str, str]) -> set[str]:
    expected = closure(f"stages.{stage}", cell)
    if stage == "check":  # validates every section, so it reads every module that has one
        for name in params["data"]:
            expected |= closure(f"metashot.data.{name}", {})
        for name in params["method"]:
            expected |= closure(f"metashot.methods.{name}", {})
    return expected


@pytest.mark.parametrize(("stage", "cell"), all_cells())
def test_every_module_a_cell_runs_is_declared_and_no_other_method_or_source(
    stage: str, cell: dict[str, str]
) -> None:
    declared, used = declared_code(stage, cell), code(stage, cell)
    assert used <= declared
    # DVC cannot give some cells of a matrix a dependency of their own, so a module that a few methods share
    # counts for all of them; those that cells are named after never do.
    named = {
        f"metashot/{kind}/{name}.py"
        for kind in ("data", "methods")
        for name in params[kind.removesuffix("s")]
    }
    assert (declared - used).isdisjoint(named)


@pytest.mark.parametrize("stage", stages)
def test_every_declared_module_is_run_by_some_cell(stage: str) -> None:
    declared = set().union(*(declared_code(stage, cell) for cell in cells(stage)))
    assert declared == set().union(*(code(stage, cell) for cell in cells(stage)))


def outputs(stage: str, cell: dict[str, str]) -> list[str]:
    entries = [e for kind in ("outs", "metrics", "plots") for e in stages[stage].get(kind, [])]
    return [fill(e if isinstance(e, str) else next(iter(e)), cell) for e in entries]


def test_every_output_is_cached_and_belongs_to_one_cell() -> None:
    text = (ROOT / "dvc.yaml").read_text()
    assert "cache: false" not in text
    assert "persist" not in text
    paths = [path for stage in stages for cell in cells(stage) for path in outputs(stage, cell)]
    assert len(paths) == len(set(paths))
    nested = [(a, b) for a in paths for b in paths if a != b and Path(a).is_relative_to(b)]
    assert not nested


def test_nothing_depends_on_records() -> None:
    assert not [dep for stage in stages.values() for dep in stage["deps"] if dep.startswith("records")]


def test_pins_that_change_results_are_the_installed_requirements() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    required = {r.name: str(r.specifier) for r in map(Requirement, project["project"]["dependencies"])}
    pins = project["tool"]["metashot"]["pins"]
    assert {name: required[name] for name in pins} == {name: f"=={pin}" for name, pin in pins.items()}
