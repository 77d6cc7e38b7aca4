"""dvc.yaml holds what the code says: exact dependencies, cached outputs, one folder for each cell."""

import ast
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PACKAGES = ("metashot", "stages")
# Modules that code picks by name at run time: importer -> what it picks, for a cell of the matrix. DVC cannot
# give a data set the dependencies of its source alone, so all sources count for all.
SOURCES = (
    "audio_folder",
    "glyphs",
    "image_folder",
    "omniglot",
    "sentence_table",
    "series_table",
    "text_table",
)
PICKED = {
    "metashot.carried": ["metashot.pyfunc_model"],  # is written into registered models
    "metashot.data.source": [f"metashot.data.{name}" for name in SOURCES],
    "metashot.methods": ["metashot.methods.{method}"],
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
        picked = (each.format_map({"method": ""} | cell) for each in PICKED.get(name, []))
        todo.extend(filter(module_file, picked))
    return {str(module_file(name).relative_to(ROOT)) for name in seen}


def cells(stage: str) -> list[dict[str, str]]:
    """Every method of a stage's matrix, with two data sets and settings: what runs is the same for all."""
    found: list[dict[str, str]] = [{}]
    for key in stages[stage].get("matrix", {}):
        values = ["another"] if key == "other" else list(params["data" if key == "dataset" else key])
        values = values if key == "method" else values[:2]
        found = [cell | {key: value} for cell in found for value in values]
    return found


def fill(text: str, cell: dict[str, str]) -> str:
    for key, value in cell.items():
        text = text.replace(f"${{item.{key}}}", value)
    return text


def stage_cells(stage: str, cell: dict[str, str]) -> set[str]:
    """Files of ours that a cell runs."""
    used = closure(f"stages.{stage}", cell)
    if stage == "check":  # validates every section, so it reads every module that has one
        used |= closure("metashot.data.source", {}) | closure("metashot.backbones", {})
        used |= closure("metashot.augmentation", {})
    if stage in ("check", "gate"):  # the gate tests an incumbent of any method
        for name in params["method"]:
            used |= closure(f"metashot.methods.{name}", {})
    return used


def declared_code(stage: str, cell: dict[str, str]) -> set[str]:
    return {path for dep in stages[stage]["deps"] if (path := fill(dep, cell)).endswith(".py")}


def all_cells() -> list:
    return [pytest.param(s, c, id="-".join([s, *c.values()])) for s in stages for c in cells(s)]


@pytest.mark.parametrize(("stage", "cell"), all_cells())
def test_every_module_a_cell_runs_is_declared_and_no_other_method(stage: str, cell: dict[str, str]) -> None:
    declared, used = declared_code(stage, cell), stage_cells(stage, cell)
    assert used <= declared
    # DVC cannot give some cells of a matrix a dependency of their own, so a module that a few methods share
    # counts for all of them; those that cells are named after never do.
    named = {f"metashot/methods/{name}.py" for name in params["method"]}
    assert (declared - used).isdisjoint(named)


@pytest.mark.parametrize("stage", stages)
def test_every_declared_module_is_run_by_some_cell(stage: str) -> None:
    declared = set().union(*(declared_code(stage, cell) for cell in cells(stage)))
    assert declared == set().union(*(stage_cells(stage, cell) for cell in cells(stage)))


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


def test_every_source_is_accounted_for() -> None:
    found = {path.stem for path in (ROOT / "metashot/data").glob("*.py") if "\nABOUT: " in path.read_text()}
    assert found == set(SOURCES) == {section["source"] for section in params["data"].values()}


def test_modules_that_code_picks_by_name_are_all_accounted_for() -> None:
    found = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if "import_module(" in path.read_text() or "LOADER = " in path.read_text()
    }
    assert found == {*PICKED, "metashot.params"}  # params picks all of them, for the check stage


def declared_params(stage: str, file: str) -> set[str]:
    """Keys of one parameter file that a stage of dvc.yaml depends on."""
    found: set[str] = set()
    for entry in stages[stage].get("params", []):
        if isinstance(entry, str):
            found |= {entry} if file == "params.yaml" else set()
        else:
            found |= set(entry.get(file) or [])
    return found


@pytest.mark.parametrize("stage", sorted(set(stages) - {"check"}))
def test_declared_parameters_are_those_the_stage_reads(stage: str) -> None:
    """The keys of read_params, with a stage's arguments as the dimensions of its matrix."""
    tree = ast.parse((ROOT / "stages" / f"{stage}.py").read_text())
    read: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "read_params":
            key = node.args[0]
            parts = key.values if isinstance(key, ast.JoinedStr) else [key]
            read.add(
                "".join(p.value if isinstance(p, ast.Constant) else f"${{item.{p.value.id}}}" for p in parts)
            )
    assert declared_params(stage, "params.yaml") == read


@pytest.mark.parametrize("stage", sorted(set(stages) - {"check"}))
def test_declared_pins_are_the_packages_the_stage_imports(stage: str) -> None:
    pins = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["metashot"]["pins"])
    packages = {"PIL": "pillow", "sentence_transformers": "sentence-transformers"}
    used = set()
    for path in set().union(*(stage_cells(stage, cell) for cell in cells(stage))):
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            used |= {packages.get(name.split(".")[0], name.split(".")[0]) for name in names}
    declared = {key.rpartition(".")[2] for key in declared_params(stage, "pyproject.toml")}
    assert declared == used & pins


def test_nothing_depends_on_records() -> None:
    assert not [dep for stage in stages.values() for dep in stage["deps"] if dep.startswith("records")]


def test_pins_that_change_results_are_the_installed_requirements() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    optional = project["project"]["optional-dependencies"]["sentences"]
    required = {
        r.name: str(r.specifier) for r in map(Requirement, [*project["project"]["dependencies"], *optional])
    }
    pins = project["tool"]["metashot"]["pins"]
    assert {name: required[name] for name in pins} == {name: f"=={pin}" for name, pin in pins.items()}
