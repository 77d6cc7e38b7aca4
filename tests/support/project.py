"""A copy of the repository with small parameters, for tests that run it for real."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
METHODS = ["prototypical", "maml"]
CODE = (
    "flows",
    "metashot",
    "stages",
    "dvc.yaml",
    "params.yaml",
    "pyproject.toml",
    "requirements.lock",
    "prefect.yaml",
    ".dvc/config",
    ".dvc/.gitignore",
    ".dvcignore",
    ".gitignore",
    "champions/README.md",
    "champions/adopted.json",
)


class Project:
    """A copy of the repository with small parameters.

    Args:
        root: Where.
        drawn: A project whose images are there already, to begin with them.
    """

    def __init__(self, root: Path, drawn: "Project | None" = None) -> None:
        self.root = root
        for name in CODE:
            source, target = ROOT / name, root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        with self.params() as params:
            params["methods"] = METHODS
            params["threads"] = 1  # tests run side by side
            params["setting"]["5w1s"] |= {
                "val_episodes": 5,
                "test_episodes": 30,
                "train_episodes": 20,
                "extra": {
                    "5w2s": {"n_way": 5, "k_shot": 2, "episodes": 30},
                    "7w1s": {"n_way": 7, "k_shot": 1, "episodes": 30},
                },
            }
            params["data"]["glyphs"]["backbone"]["width"] = 16
            params["data"]["glyphs"]["budget"] = {"prototypical": 12, "maml": 6}
            params["method"]["prototypical"] |= {"train_way": 20}
            params["method"]["maml"] |= {"train_way": 5, "lr": 1e-5}  # fast, and behind the other
        for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "start"]):
            subprocess.run(["git", *IDENTITY, *command], cwd=root, check=True)
        if drawn:
            shutil.copy(drawn.root / "dvc.lock", root)
            for name in (".dvc/cache", "data"):
                shutil.copytree(drawn.root / name, root / name)

    def params(self) -> "Edit":
        return Edit(self.root / "params.yaml")

    @property
    def environment(self) -> dict[str, str]:
        environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(self.root),
            "DVC_NO_ANALYTICS": "1",
            "OMP_NUM_THREADS": "1",
        }
        environment.pop("MLFLOW_TRACKING_URI", None)
        return environment

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """A command in a process group of its own."""
        return subprocess.Popen(
            command, cwd=self.root, env=self.environment, text=True, start_new_session=True, **options
        )

    def run(self, *command: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True)
        assert (done.returncode == 0) == ok, done.stdout + done.stderr
        return done

    def processes(self, servers: bool = False) -> dict[int, str]:
        """Processes that work on the project: DVC and stages, and a flow and its temporary server."""
        listed = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True).stdout
        found = {}
        for line in listed.splitlines():
            pid, _, command = line.strip().partition(" ")
            try:
                here = Path(f"/proc/{pid}/cwd").resolve() == self.root
            except OSError:
                continue
            if here and (servers or "dvc" in command or "stages." in command):
                found[int(pid)] = command
        return found

    def make(self, dataset: str, methods: Sequence[str] = METHODS) -> dict[str, dict[str, Any]]:
        """Run every stage of a data set up to the evaluation; the metrics of each method."""
        stages: list[tuple[str, ...]] = [
            ("code",),
            ("download", dataset),
            ("preprocess", dataset),
            ("episodes", dataset, "5w1s"),
        ]
        stages += [(stage, dataset, "5w1s", method) for method in methods for stage in ("train", "evaluate")]
        for stage, *arguments in stages:
            self.run(sys.executable, "-m", f"stages.{stage}", *arguments)
        found = {method: self.root / f"results/{dataset}-5w1s/{method}/metrics.json" for method in methods}
        return {method: json.loads(path.read_text()) for method, path in found.items()}

    def repro(self, *targets: str) -> list[str]:
        """The stages that were run, in order."""
        output = self.run("dvc", "repro", *targets).stdout
        return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


IDENTITY = ["-c", "user.name=test", "-c", "user.email=test@localhost"]


class Edit:
    """Edit a YAML file in a with-block."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> dict:
        self.values = yaml.safe_load(self.path.read_text())
        return self.values

    def __exit__(self, *_: object) -> None:
        self.path.write_text(yaml.safe_dump(self.values, sort_keys=False))


_ages = itertools.count(1)


def rest(path: Path) -> None:
    """Make a file look old, as one that nobody writes; by another age git sees that it has changed."""
    age = next(_ages)
    os.utime(path, (age, age))


def training(group: int) -> bool:
    """Whether a train stage runs in the process group."""
    listed = subprocess.run(["ps", "-o", "args=", "-g", str(group)], capture_output=True, text=True).stdout
    return "stages.train" in listed


def wait_until(condition: Callable[[], bool], seconds: float = 120, every: float = 0.2) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(every)
