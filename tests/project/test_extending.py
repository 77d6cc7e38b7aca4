"""docs/extending.md does what it says, in a real repository: what is added is made, and nothing else."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from project import ROOT, Project

pytestmark = pytest.mark.slow
PAGE = (ROOT / "docs/extending.md").read_text()
PROGRAM = re.compile(r"```python\n(.*?)```", re.DOTALL)
YAML = re.compile(r"```yaml\n(.*?)```", re.DOTALL)


def merged(into: Any, new: Any) -> Any:
    if isinstance(new, dict):
        return {
            **into,
            **{key: merged(into[key], value) if key in into else value for key, value in new.items()},
        }
    return [*into, *new] if isinstance(new, list) else new


def programs(text: str) -> list[tuple[str, str]]:
    """Every program of the page, with the file that is named last before it."""
    return [
        (re.findall(r"`(metashot/[\w/]+\.py)`", text[: found.start()])[-1], found[1])
        for found in PROGRAM.finditer(text)
    ]


def extend(project: Project, title: str) -> None:
    """Do what a section of the page says."""
    (section,) = re.findall(rf"(?ms)^## {title}\n(.*?)(?=^## |\Z)", PAGE)
    for name, text in programs(section):
        path = project.root / name
        if path.name == "__init__.py":
            lines = path.read_text()
            parts = [
                line for line in lines.splitlines(keepends=True) if re.match(r' +"\w+": "[\w:]+",$', line)
            ]
            path.write_text(lines.replace(parts[-1], parts[-1] + text))
        else:
            assert not path.exists()
            path.write_text(text)
    (params,) = YAML.findall(section)
    with project.params() as values:
        whole = merged(values, yaml.safe_load(params))
        values.clear()
        values.update(whole)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, trained: Project) -> Project:
    """Up to date, and extended by each test."""
    project = trained.copy(tmp_path_factory.mktemp("extended") / "repository")
    assert project.repro() == ["register@glyphs-5w1s"]
    assert project.repro() == []
    return project


def parts(stages: list[str]) -> set[str]:
    return {stage.partition("@")[2] for stage in stages} - {""}


def test_a_method(project: Project) -> None:
    extend(project, "A method")
    made = project.repro()
    cells = [f"{stage}@glyphs-5w1s-cosine" for stage in ("train", "evaluate")]
    assert made == ["code", "check", *cells, "gate@glyphs-5w1s", "register@glyphs-5w1s"]
    assert project.repro() == []


@pytest.mark.parametrize(
    ("title", "name"),
    [("A backbone", "flat_glyphs"), ("A source", "sprites"), ("A kind of samples", "blobs")],
)
def test_what_is_added_is_made_and_nothing_of_what_is_there(title: str, name: str, project: Project) -> None:
    with project.params() as params:  # the page's data sets are for the two methods that train here
        params["methods"] = ["prototypical", "maml"]
    project.repro()
    extend(project, title)
    made = project.repro()
    assert made[:2] == ["code", "check"]
    assert {part.partition("-")[0] for part in parts(made)} == {name}
    assert {stage.partition("@")[0] for stage in made[2:]} == {
        *("download", "preprocess", "episodes", "train", "evaluate", "gate", "register")
    }
    assert project.repro() == []


def test_a_change_of_a_method_trains_that_method_alone(project: Project) -> None:
    path = project.root / "metashot/learning/models/methods/maml.py"
    path.write_text(path.read_text() + "\n# changed\n")
    planned = project.run("metashot", "plan").stdout
    assert "maml.py changed" in " ".join(planned.split())
    made = project.repro()
    trained = [stage for stage in made if stage.startswith("train@")]
    assert trained
    assert all(stage.endswith("-maml") for stage in trained)
    assert {stage.partition("@")[0] for stage in made} <= {
        "code",
        "check",
        "train",
        "evaluate",
        "gate",
        "register",
    }
    assert project.repro() == []


def test_a_comment_anywhere_else_trains_nothing(project: Project) -> None:
    path = project.root / "metashot/audit/checks/model.py"
    path.write_text(path.read_text() + "\n# changed\n")
    assert project.repro() == ["code"]


def test_a_module_that_no_statement_imports_is_named(project: Project) -> None:
    path = project.root / "metashot/learning/models/methods/maml.py"
    text = path.read_text()
    path.write_text(text + '\n__import__("importlib").import_module("metashot.data.files.fetch")\n')
    done = project.run("dvc", "repro", "train@glyphs-5w1s-maml", ok=False)
    assert "metashot/data/files/__init__.py is loaded by this stage, but data/code/train/" in done.stderr
    assert not (project.root / "models/glyphs-5w1s/maml").exists()
    path.write_text(text)


def test_a_part_that_lacks_something_is_named_before_anything_is_made(project: Project) -> None:
    path = project.root / "metashot/data/kinds/series.py"
    text = path.read_text()
    path.write_text(text.replace("def served(", "def not_served("))
    done = project.run("dvc", "repro", ok=False)
    assert "error: kind series in metashot.data.kinds.series lacks served" in done.stderr
    assert "train" not in done.stdout
    path.write_text(text)


def test_every_path_on_the_page_is_there_or_made_by_it() -> None:
    made = {path for path, _ in programs(PAGE)}
    for path in re.findall(r"`((?:metashot|stages|flows|tests)/[\w/]+\.py)`", PAGE):
        assert path in made or Path(ROOT / path).exists(), path
