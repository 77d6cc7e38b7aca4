"""What an audit and a publish cost as results add up: times for N versions and for ten times as many.

    python -m benchmarks.audit [N]

Each version is a real training and evaluation, tiny, of one method with another learning rate, and its
dvc.lock is committed. The stages run in forked processes that have imported torch already; what DVC does
around them is done here, in less time. Seconds are of the work itself, without imports and migrations.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ruamel.yaml import YAML

from metashot.config import params
from metashot.results import gate
from metashot.results.decision import decision_path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/support"))
from project import IDENTITY, Project  # noqa: E402

GROUP = "glyphs-5w1s"
METHODS = ("prototypical", "matching", "siamese", "maml", "reptile", "transfer")
SERVER = """
import os, sys
from importlib import import_module
from pathlib import Path
import torch
stage = import_module("stages." + sys.argv[1])
from metashot.project.attempts import Attempt
for line in sys.stdin:
    if (child := os.fork()) == 0:
        os.dup2(2, 1)  # standard output is for what follows
        with Attempt(Path(), f"{sys.argv[1]}@glyphs-5w1s-{line.strip()}") as attempt:
            wanted = {"attempt": attempt} if sys.argv[1] == "train" else {}
            stage.main("glyphs", "5w1s", line.strip(), **wanted)
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
"""
TIMED = """
import logging, sys, time
from pathlib import Path
from metashot.audit import audit
from metashot.registry import publish, tracking
root = Path.cwd()
with tracking.publishing(root) as client:
    client.search_experiments()
started = time.perf_counter()
if sys.argv[1] == "publish":
    publish.publish_all(root)
else:
    found = audit.audit(root, fresh=sys.argv[1] == "first")
    wrong = [f"{one.name}: {c.name}: {c.detail}" for one in found for c in one.checks if c.verdict != "ok"]
    sys.exit("\\n".join(wrong)) if wrong else None
print(time.perf_counter() - started)
"""


class Repository(Project):
    """A repository that is trained again and again."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        with self.params() as values:
            values["methods"] = list(METHODS)
            values["data"]["glyphs"]["backbone"]["width"] = 8
            values["data"]["glyphs"]["budget"] = dict.fromkeys(METHODS, 2)
            for method in ("siamese", "matching", "transfer"):
                values["method"][method]["train_way"] = 20
            values["setting"]["5w1s"]["extra"] = {}
        self.git("commit", "-qam", "small")
        self.run("dvc", "repro")
        self.git("add", "dvc.lock")
        self.git("commit", "-qm", "first")
        self.versions = len(METHODS)

    def git(self, *arguments: str) -> None:
        """Run git."""
        subprocess.run(["git", *IDENTITY, *arguments], cwd=self.root, check=True, capture_output=True)

    @contextmanager
    def serving(self, stage: str) -> Iterator["subprocess.Popen[str]"]:
        """A process that runs a stage once for each line it is given: a method."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        server = self.start(sys.executable, "-c", SERVER, stage, **pipes, stderr=subprocess.DEVNULL)
        yield server
        server.stdin.close()
        server.wait()

    def grow(self, versions: int) -> None:
        """Train until there are so many versions."""
        with self.serving("train") as trainer, self.serving("evaluate") as evaluator:
            while self.versions < versions:
                method = METHODS[self.versions % len(METHODS)]
                with self.params() as values:
                    values["method"][method]["lr"] = 0.001 + self.versions / 1e6
                self.git("commit", "-qam", f"train {method} again")
                for stage, server in (("train", trainer), ("evaluate", evaluator)):
                    print(method, file=server.stdin, flush=True)
                    assert server.stdout.readline().strip() == "0", f"{stage} {method} failed"
                    self.lock(f"{stage}@{GROUP}-{method}")
                path = self.root / "params.yaml"
                rule: params.Gate = params.read(path, "gate", params.Gate)
                decision = gate.judge(self.root, "glyphs", "5w1s", METHODS, rule, [], 1)
                (self.root / decision_path(GROUP)).write_text(decision.json)
                self.lock(f"gate@{GROUP}")
                self.git("commit", "-qam", f"{method} trained")
                self.versions += 1

    def lock(self, stage: str) -> None:
        """Write what a stage was made of, and made, to dvc.lock and into the cache, as DVC does."""
        path, yaml = self.root / "dvc.lock", YAML(typ="safe")
        yaml.default_flow_style, yaml.sort_base_mapping_type_on_output = False, False
        content = yaml.load(path)
        entry = content["stages"][stage]
        for item in entry.get("deps", []):
            item["md5"] = self.store(self.root / item["path"], keep=False)
        for item in entry["outs"]:
            item["md5"] = self.store(self.root / item["path"])
        values = yaml.load(self.root / "params.yaml")
        for key in entry.get("params", {}).get("params.yaml", {}):
            found = values
            for part in key.split("."):
                found = found[part]
            entry["params"]["params.yaml"][key] = found
        with path.open("w") as file:
            yaml.dump(content, file)
        os.utime(path, (0, 0))  # it rests

    def store(self, path: Path, keep: bool = True) -> str:
        """The md5 of a file or folder, which is put into the cache."""
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            listed = [{"md5": self.store(f, keep), "relpath": f.relative_to(path).as_posix()} for f in files]
            content, suffix = json.dumps(listed).encode(), ".dir"
        else:
            content, suffix = path.read_bytes(), ""
        name = hashlib.md5(content).hexdigest() + suffix
        copy = self.root / ".dvc/cache/files/md5" / name[:2] / name[2:]
        if keep and not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(content)
        return name

    def seconds(self, what: str) -> float:
        """How long a publish, or a first or repeated audit, takes; an audit has to find nothing."""
        return float(self.run(sys.executable, "-c", TIMED, what).stdout.split()[-1])

    def measure(self) -> dict[str, float]:
        """All measures, on an emptied MLflow."""
        shutil.rmtree(self.root / "mlruns")
        names = {"rebuild an emptied MLflow": "publish", "publish, nothing new": "publish"}
        names |= {"audit, first": "first", "audit, repeated": "repeated"}
        return {name: self.seconds(what) for name, what in names.items()}


def main(versions: int) -> None:
    """Measure both sizes, and print a Markdown table."""
    with tempfile.TemporaryDirectory() as folder:
        repository = Repository(Path(folder) / "repository")
        sizes, found = (versions, 10 * versions), []
        for size in sizes:
            started = time.perf_counter()
            repository.grow(size)
            print(f"made {size} versions in {time.perf_counter() - started:.0f} s", file=sys.stderr)
            found.append(repository.measure())
    print(f"| seconds for versions | {sizes[0]} | {sizes[1]} | growth |\n|:--|--:|--:|--:|")
    for name, few in found[0].items():
        print(f"| {name} | {few:.2f} | {found[1][name]:.2f} | {found[1][name] / few:.1f} |")
    ratios = [f"{one['audit, repeated'] / one['audit, first']:.2f}" for one in found]
    print(f"| audit, repeated / first | {ratios[0]} | {ratios[1]} | |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else len(METHODS))
