"""Reproduction of a registered version from its raw files, compared with the record.

MLflow says which result a version is, and no more: commands, paths and digests are those of dvc.lock, code
and parameters those of commits that a branch or tag leads to. So a store that somebody else has written
to chooses neither what is run nor where anything is written.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from metashot import files
from metashot.audit.evidence import Evidence
from metashot.audit.trees import Tree
from metashot.audit.verdict import Differs, Unknown, same, where
from metashot.data.encoders import VARIABLE
from metashot.errors import MetashotError
from metashot.lineage import history
from metashot.lineage.history import PastLock
from metashot.lineage.lockfile import Cell, Lock
from metashot.lineage.metrics import Metrics
from metashot.lineage.objects import FOLDER
from metashot.lineage.record import Record, TrainingRecord
from metashot.project import closure, git
from metashot.project.entries import RECORDS, Entry, self_and_parents
from metashot.registry.carried import RESULT
from metashot.registry.tracking import COMMIT
from metashot.registry.versions import Registered

TOLERANCE = 0.01  # of the accuracy, as a fraction, where the device or a package is another one


@dataclass(frozen=True)
class Reproduced:
    """A version compared with its reproduction.

    Attributes:
        version: ``<model>/<number>``.
        verdict: Whether every file has the same bits; or, made on another device or with other packages, an
            accuracy within the tolerance; or neither.
        files: Of each file of the result: md5 on record, md5 now.
        accuracy: On record, and now.
        differences: What is another device or package than on record, a line each.
        tolerance: Of the accuracy.
        seconds: Training and evaluation together: on record, and now.
    """

    version: str
    verdict: Literal["bit-equal", "within tolerance", "differs"]
    files: Mapping[str, tuple[str, str | None]]
    accuracy: tuple[float, float]
    differences: list[str]
    tolerance: float
    seconds: tuple[float, float]


def reproduce(root: Path, version: Registered, tolerance: float = TOLERANCE) -> Reproduced:
    """Reproduce a version: samples and episodes from its raw files, then training and evaluation.

    Nothing of the repository changes: the work is done in worktrees of its own, which are removed.

    Args:
        root: The repository.
        version: The version.
        tolerance: Largest difference of accuracies that is accepted from another device or other packages.

    Raises:
        MetashotError: No dvc.lock has its result, commit or data are gone, or a stage failed.
    """
    try:
        evidence = Evidence(root, {})
        with ExitStack() as stack:
            return _Reproduction(evidence, version, stack).compare(tolerance)
    except (Differs, Unknown) as error:
        raise MetashotError(f"{version.name}: {error}") from None


class _Reproduction:
    """Runs the stages of a version again, one after another.

    Args:
        evidence: The contents of git and DVC.
        version: The version.
        stack: Removes the worktrees in the end.
    """

    def __init__(self, evidence: Evidence, version: Registered, stack: ExitStack) -> None:
        self.evidence, self.version, self.stack = evidence, version, stack
        self.lock, self.cell = _recorded(evidence, version)
        self.held = evidence.held
        self.records: list[Record] = [
            self.held.document(TrainingRecord, self.cell.train, self.cell.train_record),
            self.held.document(Record, self.cell.evaluate, self.cell.evaluate_record),
        ]
        self.makers = {
            str(out["path"]): entry
            for entry in self.lock.ancestry(self.cell.train, self.cell.evaluate)
            for out in entry.outs
        }
        self.made: dict[str, Path] = {}  # each output that was made again, and where it lies
        self.trees: dict[Tree, Path] = {}

    def compare(self, tolerance: float) -> Reproduced:
        """Run everything again and compare it with the record."""
        cell = self.cell
        stages = [
            self.makers[f"data/processed/{cell.dataset}.parquet"],
            self.makers[f"data/episodes/{cell.group}"],
            cell.train,
            cell.evaluate,
        ]
        for entry in stages:
            same(f"command of {entry.stage} in {where(self.lock)}", entry.cmd, " ".join(entry.command))
        for entry in stages:
            self._make(entry)
        compared = {
            path: pair
            for entry in stages
            for out in entry.outs
            if not str(out["path"]).startswith(RECORDS)
            for path, pair in self._compared(out).items()
        }
        recorded = self.held.document(Metrics, cell.evaluate, cell.metrics)
        metrics = Metrics.parse(self._path(cell.metrics).read_bytes(), cell.metrics)
        again = [
            Record.parse(self._path(path).read_bytes(), path)
            for path in (cell.train_record, cell.evaluate_record)
        ]
        pairs = zip(self.records, again, strict=True)
        differences = list(dict.fromkeys(line for old, new in pairs for line in old.differences(new)))
        accuracy = recorded.accuracy, metrics.accuracy
        verdict: Literal["bit-equal", "within tolerance", "differs"] = "differs"
        if all(old == new for old, new in compared.values()):
            verdict = "bit-equal"
        elif differences and abs(accuracy[0] - accuracy[1]) <= tolerance:
            verdict = "within tolerance"
        seconds = sum(record.seconds for record in self.records), sum(record.seconds for record in again)
        return Reproduced(self.version.name, verdict, compared, accuracy, differences, tolerance, seconds)

    def _make(self, entry: Entry) -> None:
        """Run a stage at its commit, on the outputs of the stages before it."""
        tree = self._tree(self._commit(entry))
        for dep in entry.deps:
            self._lay(tree, dep)
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        prepare = entry.params.get("params.yaml", {}).get(f"data.{self.cell.dataset}.prepare", {})
        if encoder := prepare.get("encoder"):  # of an earlier metashot, which kept none in DVC
            environment.setdefault(VARIABLE, str(self.held.root / encoder))
        done = subprocess.run(
            [sys.executable, *entry.command[1:]],
            cwd=tree,
            env=environment,
            stdout=sys.stderr.fileno(),
            check=False,
        )
        if done.returncode:
            stage = entry.stage.partition("@")[0]
            raise MetashotError(f"the {stage} stage failed with status {done.returncode} (see above)")
        self.made |= {str(out["path"]): tree / str(out["path"]) for out in entry.outs}

    def _commit(self, entry: Entry) -> Tree:
        """The tree with a stage's code and parameters: from its own record, or from those of later stages."""
        trees: list[Tree] = []
        for stage, record in zip((self.cell.train, self.cell.evaluate), self.records, strict=True):
            commit, dirty = record.git.commit, record.git.dirty
            if commit is None:
                raise Unknown("it was not made in a git repository: its code was not recorded")
            tree = commit, self.held.patch(stage) if dirty else None
            if entry is stage:
                trees = [tree]
                break
            trees.append(tree)
        else:
            if isinstance(self.lock, PastLock):
                trees.append((self.lock.commit, None))
        return self.evidence.trees.fitting(entry, self.makers, trees)

    def _tree(self, tree: Tree) -> Path:
        """A worktree at a commit, with the recorded patch applied."""
        if tree in self.trees:
            return self.trees[tree]
        commit, patch = tree
        root = self.held.root
        folder = self.stack.enter_context(tempfile.TemporaryDirectory(prefix="metashot-"))
        worktree = Path(folder) / "tree"
        git.run(root, "worktree", "add", "--quiet", "--detach", str(worktree), commit)
        self.stack.callback(git.run, root, "worktree", "remove", "--force", str(worktree))
        if patch:
            git.apply(worktree, self.held.path(patch))
        return self.trees.setdefault(tree, worktree)

    def _lay(self, tree: Path, dep: Mapping[str, Any]) -> None:
        """Copy a dependency into the worktree: a reproduced output, or raw files from DVC."""
        path = str(dep["path"])
        if next(self_and_parents(path, self.made), None):
            source = self._path(path)
            if source == tree / path:
                return
            held = [source] if source.is_file() else [file for file in source.rglob("*") if file.is_file()]
            sources = {str(file.relative_to(source)): file for file in held}
        elif path.startswith(f"{closure.FOLDER}/") or next(self_and_parents(path, self.makers), None):
            folder = str(dep["md5"]).endswith(FOLDER)
            listed = self.held.listing(str(dep["md5"])) if folder else {".": str(dep["md5"])}
            sources = {name: self.held.path(md5) for name, md5 in listed.items()}
        else:  # of the commit
            return
        for name, source in sources.items():
            copy = tree / path / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)

    def _path(self, path: str) -> Path:
        """Path of a reproduced file."""
        out = next(self_and_parents(path, self.made))
        return self.made[out] / PurePosixPath(path).relative_to(out)

    def _compared(self, out: Mapping[str, Any]) -> dict[str, tuple[str, str | None]]:
        """The recorded and the reproduced md5 of each file of an output."""
        path, md5 = str(out["path"]), str(out["md5"])
        listed = self.held.listing(md5) if md5.endswith(FOLDER) else {".": md5}
        pairs = {}
        for name, old in listed.items():
            file = self.made[path] / name
            pairs[str(PurePosixPath(path) / name)] = old, files.md5(file) if file.is_file() else None
        return pairs


def _recorded(evidence: Evidence, version: Registered) -> tuple[Lock, Cell]:
    """The result that a version names, from the dvc.lock of its recorded commit, or else from any."""
    commit = version.entry.tags.get(COMMIT)
    locks: Sequence[Lock] = [evidence.held.lock(commit)] if commit else evidence.held.locks
    return history.find(locks, version.entry.name, str(version.entry.tags.get(RESULT)))
