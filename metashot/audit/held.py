"""Bytes in git and DVC for an audit: files by digest, hashed anew, and every dvc.lock.

Values computed from bytes are memoised by their digests, so that a later audit need not compute them again.
"""

from collections import defaultdict
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
import pyarrow.parquet as pq

from metashot import files, untrusted
from metashot.audit.verdict import Differs, Unknown, where
from metashot.errors import MetashotError
from metashot.learning.statistics import mean_and_interval
from metashot.lineage.history import PastLock, history
from metashot.lineage.lockfile import Cell, Lock
from metashot.lineage.objects import FOLDER, Objects
from metashot.lineage.stored import Stored
from metashot.project import git
from metashot.project.entries import RECORDS, Entry

Memory = dict[str, Any]
S = TypeVar("S", bound=Stored)


class Held:
    """The contents of git and DVC.

    Args:
        root: The repository.
        memory: What was computed before; extended.

    Raises:
        MetashotError: Git fails, or the dvc.lock of the workspace cannot be read.
    """

    def __init__(self, root: Path, memory: Memory) -> None:
        self.root, self.memory = root, memory
        self.objects = Objects(root)
        # Read at once: where they cannot be, nothing of MLflow is refuted by it
        self.reachable = git.reachable(root)  # commits that a branch or tag leads to
        self.present = Lock(root) if (root / "dvc.lock").exists() else None

    @cached_property
    def history(self) -> list[PastLock]:
        """Every dvc.lock of git's history."""
        return history(self.root)

    @property
    def locks(self) -> list[Lock]:
        """The dvc.lock of the workspace last, behind those of git's history."""
        return [*self.history, *([self.present] if self.present else [])]

    @cached_property
    def results(self) -> dict[str, dict[str, str]]:
        """Every result of each key, records left out, with the place that names it."""
        results: dict[str, dict[str, str]] = defaultdict(dict)
        for lock in self.locks:
            for entry in lock.entries.values():
                results[entry.key].setdefault(entry.result, where(lock))
        for entry in self.objects.cache.runs():
            results[entry.key].setdefault(entry.result, "DVC's run cache")
        return results

    def one_result(self, entry: Entry) -> None:
        """Raise Differs if a stage ever gave another result from the same inputs."""
        results = self.results.get(entry.key, {})
        if others := [place for result, place in results.items() if result != entry.result]:
            raise Differs(f"{entry.stage} gave another result from the same inputs: {', '.join(others)}")

    def reach(self, commit: str) -> None:
        """Raise unless a branch or tag contains the commit."""
        if commit not in self.reachable:
            if git.shallow(self.root):
                raise Unknown(f"commit {commit[:10]} is not in this shallow clone: `git fetch --unshallow`")
            raise Differs(f"commit {commit[:10]} is in no branch or tag: rewritten, or not fetched")

    def lock(self, commit: str) -> Lock:
        """The dvc.lock of a commit."""
        self.reach(commit)
        known = {lock.commit: lock for lock in self.history}
        try:
            return known.get(commit) or PastLock(self.root, commit, self.objects)
        except MetashotError as error:
            raise Differs(f"commit {commit[:10]} has no dvc.lock that can be read ({error})") from None

    def path(self, digest_: str) -> Path:
        """Path of the bytes with this digest, verified by hashing; not again while the file is unchanged."""
        path = self.objects.path(digest_)
        stat = path.stat()
        now = [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        key = f"file {digest_}"
        if self.memory.get(key) != now:
            if files.md5(path) != digest_.removesuffix(FOLDER):
                raise Differs(f"the object {digest_[:12]} in the DVC cache holds other bytes")
            self.memory[key] = now
        return path

    def listing(self, digest_: str) -> dict[str, str]:
        """The files of a folder: path in it to md5."""
        self.path(digest_)
        return self.objects.listing(digest_)

    def inside(self, entry: Entry, path: str) -> Path:
        """A file of an output of a stage."""
        for out in entry.outs:
            if out["path"] == path:
                return self.path(str(out["md5"]))
            if PurePosixPath(path).is_relative_to(out["path"]):
                name = PurePosixPath(path).relative_to(out["path"]).as_posix()
                held = self.listing(str(out["md5"]))
                if name not in held:
                    raise Differs(f"{out['path']} has no {name}")
                return self.path(held[name])
        raise Differs(f"{entry.stage} makes no {path}")

    def document(self, cls: type[S], entry: Entry, path: str) -> S:
        """A JSON document of an output of a stage."""
        return cls.parse(self.content(entry, path), path)

    def content(self, entry: Entry, path: str) -> bytes:
        """The bytes of a document of an output of a stage."""
        with self.inside(entry, path).open("rb") as file:
            content = file.read(untrusted.DOCUMENT + 1)
        if len(content) > untrusted.DOCUMENT:
            raise Differs(f"{path} has more than {untrusted.DOCUMENT:,} bytes")
        return content

    def patch(self, stage: Entry) -> str | None:
        """Digest of the patch that a training or an evaluation recorded, if its tree had uncommitted code."""
        for out in stage.outs:
            if str(out["path"]).startswith(RECORDS):
                return self.listing(str(out["md5"])).get(git.PATCH)
        return None

    def summary(self, cell: Cell) -> dict[str, dict[str, float]]:
        """Mean, interval and number of the episodes of each setting in an evaluation's counts."""
        path = self.inside(cell.evaluate, cell.episodes)
        key = f"episodes {path.parent.name}{path.name}"  # an object's name is its digest
        if key not in self.memory:
            self.memory[key] = _summary(path)
        summary: dict[str, dict[str, float]] = self.memory[key]
        return summary


def _summary(path: Path) -> dict[str, dict[str, float]]:
    """Mean, interval and number of the episodes of each setting in an evaluation's counts."""
    table = pq.read_table(path)
    summary = {}
    for setting in table["setting"].unique().to_pylist():
        rows = table.filter(np.array(table["setting"].to_pylist()) == setting).sort_by("episode")
        correct, queries = rows["correct"].to_numpy(), rows["queries"].to_numpy()
        if (correct < 0).any() or (correct > queries).any() or len(set(queries.tolist())) != 1:
            raise Differs(f"episodes of {setting} have impossible counts")
        mean, half = mean_and_interval(correct / queries)
        summary[setting] = {"accuracy": mean, "ci95": half, "episodes": len(rows), "queries": int(queries[0])}
    return summary
