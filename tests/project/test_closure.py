"""dvc.yaml holds what the code says: cached outputs, one folder for each cell, its code as one dependency."""

import ast
import json
from pathlib import Path

import grimp
import pytest
import yaml

from metashot.config import cells
from metashot.project import closure, declared

ROOT = Path(__file__).parents[2]

stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
modules = closure.sources(ROOT, cells.PACKAGES)
codes = {path: json.loads(content) for path, content in cells.files(ROOT).items()}
entries = {declared.address(name, cell): entry for name, cell, entry in declared.cells(ROOT)}


def named(path: str) -> str:
    """The module of a file."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_every_cell_of_dvc_yaml_depends_on_the_list_of_its_code() -> None:
    found = {
        address: [dep for dep in entry["deps"] if dep.startswith(f"{closure.FOLDER}/")]
        for address, entry in entries.items()
        if address != "code"
    }
    assert all(len(deps) == 1 for deps in found.values())
    assert {dep for deps in found.values() for dep in deps} == codes.keys()


@pytest.mark.parametrize("cell", ["preprocess/glyphs", "train/glyphs-5w1s-maml", "evaluate/glyphs-5w1s-maml"])
def test_a_list_is_what_another_reader_of_imports_finds(cell: str) -> None:
    """Which knows no catalogues: the parts of this cell are added to what it finds."""
    graph = grimp.build_graph("metashot", "stages")
    parts = {
        "metashot.data.sources": ["metashot.data.sources.glyphs"],
        "metashot.data.kinds": ["metashot.data.kinds.images"],
        "metashot.learning.models.methods": ["metashot.learning.models.methods.maml"],
        "metashot.learning.models.backbones": ["metashot.learning.models.backbones.conv4"],
        "metashot.learning.making": ["metashot.learning.training"],
    }
    found: set[str] = set()
    todo = [f"stages.{cell.partition('/')[0]}"]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            above = [".".join(name.split(".")[:depth]) for depth in range(1, name.count(".") + 1)]
            todo += [*above, *graph.find_modules_directly_imported_by(name), *parts.get(name, [])]
    assert {named(path) for path in codes[f"{closure.FOLDER}/{cell}.json"]["modules"]} == found


def test_a_part_that_is_added_changes_no_list_but_that_of_what_checks_all(tmp_path: Path) -> None:
    """And a change in one changes the lists of its own cells."""
    path = "metashot/learning/models/methods/__init__.py"
    parts = {"kind": ["images"], "method": ["maml"], "backbone": ["conv4"]}
    before = closure.closure(modules, ["stages.train"], parts)
    added = {
        **modules,
        path: modules[path].replace(
            b'        "maml": ', b'        "another": "another:Another",\n        "maml": '
        ),
        "metashot/learning/models/methods/another.py": b"class Another: ...",
    }
    assert added[path] != modules[path]
    assert closure.closure(added, ["stages.train"], parts) == before
    assert closure.closure(added, ["stages.train"], None) != closure.closure(modules, ["stages.train"], None)
    edited = {**modules, "metashot/learning/models/methods/maml.py": b"import scipy.stats"}
    after = closure.closure(edited, ["stages.train"], parts)
    assert {name for name in {*before, *after} if before.get(name) != after.get(name)} >= {
        "metashot/learning/models/methods/maml.py"
    }
    assert "scipy" in closure.packages(after)


def outputs(entry: dict) -> list[str]:
    found = [e for kind in ("outs", "metrics", "plots") for e in entry.get(kind, [])]
    return [e if isinstance(e, str) else next(iter(e)) for e in found]


def test_every_output_is_cached_and_belongs_to_one_cell() -> None:
    text = (ROOT / "dvc.yaml").read_text()
    assert "cache: false" not in text
    assert "persist" not in text
    assert len(text.splitlines()) < 220
    paths = [path for entry in entries.values() for path in outputs(entry)]
    assert len(paths) == len(set(paths))
    nested = [(a, b) for a in paths for b in paths if a != b and Path(a).is_relative_to(b)]
    assert not nested


def test_no_module_is_picked_by_name_but_in_a_catalogue() -> None:
    assert [path for path, content in modules.items() if b"import_module(" in content] == [
        "metashot/catalogue.py"
    ]


def declared_params(stage: str) -> set[str]:
    """Keys of params.yaml that a stage of dvc.yaml depends on."""
    return {entry for entry in stages[stage].get("params", []) if isinstance(entry, str)}


@pytest.mark.parametrize("stage", sorted(set(stages) - {"check", "code"}))
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
    assert declared_params(stage) == read


def test_nothing_depends_on_records() -> None:
    assert not [dep for stage in stages.values() for dep in stage["deps"] if dep.startswith("records")]
