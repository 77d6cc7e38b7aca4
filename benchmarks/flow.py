"""What Prefect costs on top of DVC, and how long a retraining takes that finds nothing new.

    python -m benchmarks.flow

The same stages, which copy a file and no more, are made by `dvc repro`, by one `dvc repro` after another (as
a flow starts them), and by the flow with one slot. What a stage costs is the slope between few and many of
them: what starts but once is left out of it and stands in a column of its own.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from prefect.testing.utilities import prefect_test_harness

from flows.pipeline import pipeline
from metashot.project import dvc
from metashot.project import make as dvc_make

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))
from project import Project

FEW, MANY = 4, 24
RETRAIN = """
import time
started = time.perf_counter()
from flows.retrain import retrain
state = retrain(return_state=True)
assert state.name == "No change", state
print(time.perf_counter() - started)
"""


def copies(root: Path, count: int) -> list[str]:
    """A repository with stages that copy a file."""
    Project(root)
    names = [f"copy{number:02d}" for number in range(count)]
    stages = {
        n: {"cmd": f"cp params.yaml {n}.out", "deps": ["params.yaml"], "outs": [f"{n}.out"]} for n in names
    }
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    return names


def at_once(root: Path, names: list[str]) -> None:
    """DVC alone makes them all."""
    dvc.output(root, "repro", *names)


def one_by_one(root: Path, names: list[str]) -> None:
    """A process of DVC for each."""
    for name in names:
        dvc_make.make(root, name, echo=lambda line: None)


def flow(root: Path, names: list[str]) -> None:
    """The flow, which has such a process for each as well."""
    state = pipeline(root, jobs=1, return_state=True)
    assert state.is_completed(), state.message


def slope(make: Callable[[Path, list[str]], None], folder: Path) -> tuple[float, float]:
    """Seconds for each stage, and for what is done once."""
    taken = {}
    for count in (FEW, MANY):
        root = folder / f"{make.__name__}-{count}"
        names = copies(root, count)
        started = time.perf_counter()
        make(root, names)
        taken[count] = time.perf_counter() - started
    each = (taken[MANY] - taken[FEW]) / (MANY - FEW)
    return each, taken[FEW] - FEW * each


def retraining(root: Path) -> tuple[float, float]:
    """Seconds of a retraining that finds nothing new: of all, and of its process with imports and server."""
    project = Project(root)
    project.repro()
    project.run("git", "add", "dvc.lock")
    command = [sys.executable, "-c", RETRAIN]
    environment = project.environment | {"PREFECT_HOME": str(root.parent / "prefect")}
    identity = {f"GIT_{who}_{what}": "bench" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    first = RETRAIN.replace('assert state.name == "No change", state\n', "")  # it commits what was made
    subprocess.run([sys.executable, "-c", first], cwd=root, env=environment | identity, check=True)
    started = time.perf_counter()
    done = subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1]), time.perf_counter() - started


def main() -> None:
    """Measure, and print a Markdown table."""
    os.environ["PREFECT_LOGGING_LEVEL"] = "ERROR"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with prefect_test_harness(server_startup_timeout=120):
            flow(folder / "empty", copies(folder / "empty", 1))  # imports and migrations are over
            found = {make: slope(make, folder) for make in (at_once, one_by_one, flow)}
        inside, process = retraining(folder / "retrain")
    print("| seconds | a stage | once |\n|:--|--:|--:|")
    for label, make in (
        ("`dvc repro` of all", at_once),
        ("`dvc repro` for each", one_by_one),
        ("flow", flow),
    ):
        print(f"| {label} | {found[make][0]:.2f} | {found[make][1]:.2f} |")
    print(f"| Prefect on top of DVC | {found[flow][0] - found[one_by_one][0]:.2f} | |")
    print(f"| flow / `dvc repro` for each | {found[flow][0] / found[one_by_one][0]:.2f} | |")
    print(f"| retraining, no change | | {inside:.1f} |")
    print(f"| the same with imports | | {process:.1f} |")


if __name__ == "__main__":
    main()
