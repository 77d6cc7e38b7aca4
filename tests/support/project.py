"""Repositories with small parameters in temporary folders, for tests that run the pipeline."""

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
FILES = (  # of the repository that a project is made of
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
    """A git repository of its own with the code of this one and small parameters.

    Args:
        root: The folder to make it in.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in FILES:
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
            params["method"]["maml"] |= {"train_way": 5, "lr": 1e-5}  # fast, and less accurate than the other
        for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "start"]):
            subprocess.run(["git", *IDENTITY, *command], cwd=root, check=True)

    @classmethod
    def at(cls, root: Path) -> "Project":
        """A project that exists already in a folder."""
        project = cls.__new__(cls)
        project.root = root
        return project

    def copy(self, root: Path) -> "Project":
        """Copy it to a folder with history, outputs and cache; without MLflow's files, which hold paths."""

        def left_out(folder: str, names: list[str]) -> set[str]:
            place = Path(folder).relative_to(self.root).as_posix()
            return {"__pycache__"} | {".": {"mlruns"}, ".dvc": {"tmp"}}.get(place, set())

        shutil.copytree(self.root, root, ignore=left_out, symlinks=True, dirs_exist_ok=True)
        return Project.at(root)

    def params(self) -> "Edit":
        """Edit params.yaml in a with-block, as a dictionary."""
        return Edit(self.root / "params.yaml")

    @property
    def environment(self) -> dict[str, str]:
        """The environment of commands in the project: this interpreter's programs, the project's modules."""
        environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(self.root),
            "DVC_NO_ANALYTICS": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",  # tests read what running commands have printed
        }
        environment.pop("MLFLOW_TRACKING_URI", None)
        return environment

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command in the project, in a process group of its own."""
        return subprocess.Popen(
            command, cwd=self.root, env=self.environment, text=True, start_new_session=True, **options
        )

    def run(self, *command: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the project, which succeeds, or fails if not ``ok``."""
        done = subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True)
        assert (done.returncode == 0) == ok, done.stdout + done.stderr
        return done

    def processes(self, servers: bool = False) -> dict[int, str]:
        """Running DVC and stages in the project by process number; with ``servers`` all processes there."""
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
        """Run the stages of a data set up to the evaluation, without DVC; return each method's metrics."""
        stages: list[tuple[str, ...]] = [
            ("code",),
            ("download", dataset),
            ("preprocess", dataset),
            ("episodes", dataset, "5w1s"),
        ]
        stages += [(stage, dataset, "5w1s", method) for method in methods for stage in ("train", "evaluate")]
        for stage, *arguments in stages:
            self.run(sys.executable, "-m", f"stages.{stage}", *arguments)
        results = {method: self.root / f"results/{dataset}-5w1s/{method}" for method in methods}
        return {method: json.loads((path / "metrics.json").read_text()) for method, path in results.items()}

    def repro(self, *targets: str) -> list[str]:
        """Run `dvc repro`; return the stages that it ran, in order."""
        output = self.run("dvc", "repro", *targets).stdout
        return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


IDENTITY = ["-c", "user.name=test", "-c", "user.email=test@localhost"]


class Edit:
    """Edit a YAML file in a with-block, as a dictionary that is written back at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> dict:
        self.values = yaml.safe_load(self.path.read_text())
        return self.values

    def __exit__(self, *_: object) -> None:
        self.path.write_text(yaml.safe_dump(self.values, sort_keys=False))


_times = itertools.count(1)


def backdate(path: Path) -> None:
    """Set a file's time to long ago, so that it counts as complete; another each time, for git's sake."""
    seconds = next(_times)
    os.utime(path, (seconds, seconds))


def is_training(group: int) -> bool:
    """Whether a train stage runs in a process group."""
    listed = subprocess.run(["ps", "-o", "args=", "-g", str(group)], capture_output=True, text=True).stdout
    return "stages.train" in listed


def wait_until(condition: Callable[[], bool], seconds: float = 300, every: float = 0.1) -> None:
    """Poll a condition; fail if it does not hold in time, which is ample on a slow machine."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(every)
