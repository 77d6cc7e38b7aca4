"""A stage is held to the inputs that it began with: real processes of a small stage, and one under DVC."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from project import ROOT, Project, is_training, wait_until

from metashot.project.attempts import read_status

pytestmark = pytest.mark.slow

STAGE = """
import time
from pathlib import Path
from metashot.errors import MetashotError
from metashot.files import replacing
from stages import run

def main(what):
    Path("begun").touch()
    while not Path("go").exists():
        time.sleep(0.02)
    if what == "mistake":
        raise MetashotError("the manifest is of other data")
    for out in ("out.txt", "folder-" + what + "/out.txt", "metrics.json"):
        with replacing(Path(out)) as partial:
            partial.write_text("made")

if __name__ == "__main__":
    run(main)
"""
DECLARED = {
    "stages": {
        "work": {
            "matrix": {"what": ["well", "mistake"]},
            "cmd": "python work.py ${item.what}",
            "deps": ["input.txt", "inputs", "work.py", "later.txt"],
            "params": ["seed", "data.${item.what}.prepare", {"pyproject.toml": ["tool.metashot.pins.torch"]}],
            "outs": ["out.txt", {"folder-${item.what}": {"cache": True}}],
            "metrics": [{"metrics.json": {"cache": False}}],
        },
        "whole": {"cmd": "python work.py", "params": [{"params.yaml": None}]},
    }
}
PARAMS = {
    "seed": 1,
    "data": {"well": {"prepare": {"size": 2}, "budget": 3}, "other": {"prepare": {"size": 2}}},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "work.py").write_text(STAGE)
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(DECLARED))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    (tmp_path / "pyproject.toml").write_text('[tool.metashot.pins]\ntorch = "2"\nnumpy = "2"\n')
    (tmp_path / "input.txt").write_text("as it was")
    (tmp_path / "inputs/below").mkdir(parents=True)
    (tmp_path / "inputs/below/a.txt").write_text("as it was")
    (tmp_path / "folder-well").mkdir()
    (tmp_path / "folder-well/old.txt").write_text("earlier")
    return tmp_path


def end(folder: Path, change: Callable[[Path], object], what: str = "well") -> tuple[int, str]:
    """Run a stage, change something while it runs; return its exit status and errors."""
    process = subprocess.Popen(
        [sys.executable, "work.py", what],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until((folder / "begun").exists)
    change(folder)
    (folder / "go").touch()
    _, written = process.communicate(timeout=300)
    return process.returncode, written


def rewrite(name: str, old: str, new: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


def replaced(folder: Path) -> None:
    """Replace an input by a file of the same size and time, as `cp -p` and a rename do."""
    other = folder / "other"
    other.write_text("as it is!")
    shutil.copystat(folder / "input.txt", other)
    other.replace(folder / "input.txt")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (rewrite("params.yaml", "seed: 1", "seed: 2"), "params.yaml: seed"),
        (rewrite("params.yaml", "seed: 1", "seed: 1.0"), "params.yaml: seed"),
        (rewrite("params.yaml", "seed: 1", ""), "params.yaml: seed"),
        (rewrite("params.yaml", "size: 2", "size: 5"), "params.yaml: data.well.prepare"),
        (rewrite("pyproject.toml", 'torch = "2"', 'torch = "3"'), "pyproject.toml: tool.metashot.pins.torch"),
        (rewrite("dvc.yaml", "python work.py", "nice python work.py"), "dvc.yaml: work"),
        (rewrite("dvc.yaml", "- later.txt", "- params.yaml"), "dvc.yaml: work"),
        (rewrite("input.txt", "was", "is"), "input.txt"),
        (replaced, "input.txt"),
        (lambda folder: (folder / "input.txt").unlink(), "input.txt"),
        (lambda folder: (folder / "later.txt").touch(), "later.txt"),
        (rewrite("inputs/below/a.txt", "was", "is"), "inputs"),
        (lambda folder: (folder / "inputs/b.txt").touch(), "inputs"),
        (rewrite("work.py", "main", "other"), "work.py"),
    ],
)
def test_what_changes_under_a_stage_ends_it_and_its_outputs(
    change: Callable[[Path], object], named: str, folder: Path
) -> None:
    line = f"{named} changed while the stage ran: run again"
    assert end(folder, change) == (75, f"preempted: {line}\n")
    status = read_status(folder, "work@well")
    assert status is not None
    assert (status.state, status.reason) == ("outdated", line)
    assert not any((folder / name).exists() for name in ("out.txt", "folder-well", "metrics.json"))


@pytest.mark.parametrize(
    "change",
    [
        rewrite("params.yaml", "budget: 3", "budget: 4"),
        rewrite("params.yaml", "seed: 1", "# a comment\nseed: 1"),
        lambda folder: (folder / "params.yaml").write_text(json.dumps(PARAMS)),
        rewrite("pyproject.toml", 'numpy = "2"', 'numpy = "3"'),
        rewrite("dvc.yaml", "whole:", "another:"),
        lambda folder: (folder / "input.txt").write_text("as it was"),
        lambda folder: (folder / "inputs/below/a.txt").touch(),
    ],
)
def test_what_is_nothing_to_a_stage_may_change(change: Callable[[Path], object], folder: Path) -> None:
    assert end(folder, change) == (0, "")
    assert (folder / "out.txt").read_text() == "made"
    assert (folder / "folder-well/out.txt").read_text() == "made"


def test_half_a_file_is_a_change_and_several_are_counted(folder: Path) -> None:
    status, line = end(folder, lambda folder: (folder / "params.yaml").write_text("seed: ["))
    assert (status, line.count("\n")) == (75, 1)
    assert line.startswith("preempted: params.yaml: not YAML: line ")
    assert not (folder / "out.txt").exists()


def test_a_mistake_that_comes_of_a_change_is_tried_again(folder: Path) -> None:
    assert end(folder, lambda folder: None, "mistake") == (1, "error: the manifest is of other data\n")
    (folder / "begun").unlink()
    (folder / "go").unlink()

    def change(folder: Path) -> None:
        rewrite("input.txt", "was", "is")(folder)
        rewrite("params.yaml", "seed: 1", "seed: 2")(folder)

    line = "preempted: params.yaml: seed and 1 more changed while the stage ran: run again\n"
    assert end(folder, change, "mistake") == (75, line)


@pytest.fixture
def held(drawn: Project, tmp_path: Path) -> Project:
    """A project whose trainings wait at their second step for as long as a file ``hold`` exists."""
    project = drawn.copy(tmp_path / "project")
    module = project.root / "metashot/learning/training.py"
    text = module.read_text()
    assert text.count("bar.update()") == 1
    wait = 'while progress.step > 1 and __import__("os").path.exists("hold"): time.sleep(0.02)'
    indent = text[: text.index("bar.update()")].rpartition("\n")[2]
    module.write_text(text.replace("bar.update()", f"bar.update()\n{indent}{wait}"))
    project.repro("episodes@glyphs-5w1s")
    (project.root / "hold").touch()
    return project


def test_dvc_never_records_a_model_under_parameters_or_code_that_it_is_not_of(held: Project) -> None:
    stage, module = "train@glyphs-5w1s-maml", held.root / "metashot/learning/models/methods/maml.py"
    model = held.root / "models/glyphs-5w1s/maml"
    runs = sorted((held.root / ".dvc/cache/runs").rglob("*"))

    def budget(method: str, steps: int) -> None:
        with held.params() as params:
            params["data"]["glyphs"]["budget"][method] = steps
            if method == "maml":
                params["method"]["maml"]["test_lr"] = 0.123

    def during(change: Callable[[], object]) -> tuple[int, int]:
        (held.root / "hold").touch()
        process = held.start("dvc", "repro", stage, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        wait_until(lambda: (s := read_status(held.root, stage)) is not None and s.progress.get("step", 0) > 0)
        wait_until(lambda: is_training(process.pid))
        change()
        (held.root / "hold").unlink()
        printed = process.communicate(timeout=300)[0]
        return printed.count("changed while the stage ran"), process.returncode

    assert during(lambda: budget("maml", 3)) == (1, 255)
    assert not model.exists()
    assert stage not in yaml.safe_load((held.root / "dvc.lock").read_text())["stages"]
    assert sorted((held.root / ".dvc/cache/runs").rglob("*")) == runs
    shutil.rmtree(held.root / ".metashot/stages")
    assert during(lambda: module.write_text(module.read_text() + "\n# changed\n")) == (1, 255)
    assert not model.exists()
    shutil.rmtree(held.root / ".metashot/stages")
    assert during(lambda: budget("prototypical", 5)) == (0, 0)  # another cell's
    [entry] = [
        e for n, e in yaml.safe_load((held.root / "dvc.lock").read_text())["stages"].items() if n == stage
    ]
    recorded = json.loads((held.root / "records/train/glyphs-5w1s/maml/record.json").read_text())
    parameters = entry["params"]["params.yaml"]
    assert parameters["data.glyphs.budget.maml"] == recorded["params"]["budget"] == recorded["steps"] == 3
    assert parameters["method.maml"]["test_lr"] == recorded["params"]["method"]["test_lr"] == 0.123
    (path,) = (dep["path"] for dep in entry["deps"] if dep["path"].startswith("data/code/"))
    listed = json.loads((held.root / path).read_text())
    assert {name: listed["modules"][name] for name in recorded["code"].keys() - listed["parts"].keys()} == {
        name: md5 for name, md5 in recorded["code"].items() if name not in listed["parts"]
    }
