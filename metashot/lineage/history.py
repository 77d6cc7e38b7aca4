"""Earlier results: every dvc.lock in git's history, with its files from the DVC cache or remote."""

import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path, PurePosixPath

from metashot import files
from metashot.errors import MetashotError
from metashot.lineage.lockfile import Cell, Lock
from metashot.lineage.objects import FOLDER, Objects
from metashot.project import git
from metashot.project.attempts import FOLDER as SCRATCH
from metashot.project.entries import Entry, entries, self_and_parents

PARSED = SCRATCH / "locks"


class StoredLock(Lock):
    """A dvc.lock whose files are read from the DVC cache or remote."""

    objects: Objects
    where: str  # the dvc.lock, for messages

    def file(self, entry: Entry, path: str) -> Path:
        """Return the path of an output's file in the DVC cache, where its name is its digest.

        Raises:
            Missing: Neither the DVC cache nor the remote has it.
            MetashotError: The entry names no such output, or the cache holds other bytes.
        """
        outs = {str(out["path"]): str(out["md5"]) for out in entry.outs}
        named = next(self_and_parents(path, outs), None)
        digest = outs.get(path) or (
            self.objects.listing(outs[named]).get(PurePosixPath(path).relative_to(named).as_posix())
            if named
            else None
        )
        if digest is None:
            raise MetashotError(f"{entry.stage} in {self.where} names no {path}")
        stored = self.objects.path(digest)
        if files.md5(stored) != digest.removesuffix(FOLDER):
            raise MetashotError(f"{stored} is damaged: delete it, and `dvc fetch` or make {path} again")
        return stored

    def listing(self, entry: Entry, path: str) -> dict[str, str]:
        """Return the files of an output that is a folder: path in it to md5. Raises as `file`."""
        return self.objects.listing(next(str(out["md5"]) for out in entry.outs if out["path"] == path))


class PastLock(StoredLock):
    """The dvc.lock of a commit.

    Args:
        root: The repository.
        commit: The first one with this dvc.lock.
        objects: Where its files are.
        blob: Git's name of the dvc.lock, if it is known.

    Raises:
        MetashotError: The commit's dvc.lock cannot be read.
    """

    def __init__(self, root: Path, commit: str, objects: Objects, blob: str | None = None) -> None:
        self.root, self.commit, self.objects = root, commit, objects
        self.where = f"dvc.lock of commit {commit[:10]}"
        self.entries = _entries(root, blob or git.run(root, "rev-parse", f"{commit}:./dvc.lock"), self.where)


class KeptLock(StoredLock):
    """The dvc.lock of an adopted champion, found by its digest.

    Args:
        root: The repository.
        digest: Of the dvc.lock.
        objects: Where its files are.

    Raises:
        MetashotError: It is gone, or cannot be read.
    """

    def __init__(self, root: Path, digest: str, objects: Objects) -> None:
        self.root, self.objects, self.where = root, objects, f"dvc.lock {digest[:10]} of an adopted champion"
        self.entries = entries(objects.path(digest).read_text(encoding="utf-8"), self.where)


class AdoptedLock(StoredLock):
    """The dvc.lock of an adopted champion: its own files lie beside it, its inputs in DVC's cache.

    Args:
        lock: As `lockfile.adopted` has it.
        objects: Where the others are.
    """

    def __init__(self, lock: Lock, objects: Objects) -> None:
        self.lock, self.objects = lock, objects
        self.root, self.entries = lock.root, lock.entries
        self.where = str(lock.root / "dvc.lock")

    def file(self, entry: Entry, path: str) -> Path:
        """Return the path of an output's file. Raises as `Lock.file` and `StoredLock.file`."""
        return self.lock.file(entry, path) if self._beside(path) else super().file(entry, path)

    def listing(self, entry: Entry, path: str) -> dict[str, str]:
        """Return the files of an output that is a folder: path in it to md5. Raises as `file`."""
        return self.lock.listing(entry, path) if self._beside(path) else super().listing(entry, path)

    def _beside(self, path: str) -> bool:
        return (self.root / path).exists()


def history(root: Path) -> list[PastLock]:
    """Return every dvc.lock in the commits of all branches and tags, oldest first.

    Empty outside a git repository, and where none was committed; those that cannot be read are left out.
    """
    return history_and_gaps(root)[0]


def history_and_gaps(root: Path) -> tuple[list[PastLock], list[str]]:
    """Return the same, and one line for each dvc.lock that cannot be read."""
    try:
        commits = git.changing(root, git.tips(root), "dvc.lock")[::-1]
    except git.NoRepository:
        return [], []
    blobs = git.blobs(root, commits, "dvc.lock")
    first: dict[str, str] = {}
    for commit in commits:
        if commit in blobs:
            first.setdefault(blobs[commit], commit)
    objects = Objects(root)
    locks, gaps = [], []
    for blob, commit in first.items():
        try:
            locks.append(PastLock(root, commit, objects, blob))
        except MetashotError as error:  # as with the marks of a merge in it
            gaps.append(str(error))
    return locks, gaps


def holding(root: Path, locks: Sequence[PastLock]) -> list[str]:
    """Return every commit whose dvc.lock is one of these, oldest first.

    Also those that changed nothing but params.yaml or the champions.
    """
    commits = git.changing(root, git.tips(root), "dvc.lock", "params.yaml", "champions")[::-1]
    blobs = git.blobs(root, [lock.commit for lock in locks] + commits, "dvc.lock")
    sought = {blobs.get(lock.commit) for lock in locks}
    return [commit for commit in commits if commit in blobs and blobs[commit] in sought]


def forget(root: Path) -> None:
    """Delete the cache of parsed dvc.lock files."""
    if (root / PARSED).exists():
        shutil.rmtree(root / PARSED)


def cells(lock: Lock, dataset: str, setting: str) -> list[Cell]:
    """Return the cells of a dvc.lock whose evaluation used the model that the same file names."""
    complete = []
    for method in lock.methods(dataset, setting):
        with suppress(MetashotError):
            complete.append(lock.cell(dataset, setting, method))
    return complete


def find(locks: Iterable[Lock], name: str, result: str) -> tuple[Lock, Cell]:
    """Find a result of a registered model in the first dvc.lock that has it.

    Args:
        locks: Where to look.
        name: The model's name, ``<data set>-<setting>``; like the result only compared, whoever gives it.
        result: The result's digest.

    Raises:
        MetashotError: None has it.
    """
    for lock in locks:
        for dataset, setting in lock.groups():
            if f"{dataset}-{setting}" == name:
                for cell in cells(lock, dataset, setting):
                    if cell.result == result:
                        return lock, cell
    raise MetashotError(
        f"no dvc.lock here or in git's history has result {result[:12]!r} of {name}: `git fetch` it"
    )


def everywhere(root: Path) -> list[Lock]:
    """Return the workspace's dvc.lock, if there is one, and every one in git's history."""
    present = [Lock(root)] if (root / "dvc.lock").exists() else []
    return [*present, *history(root)]


def _entries(root: Path, blob: str, where: str) -> dict[str, Entry]:
    """The stages of a dvc.lock; cached as JSON, which parses twenty times as fast as YAML."""
    kept = root / PARSED / f"{blob}.json"
    with suppress(OSError, ValueError, TypeError):  # not there, or not whole after a loss of power
        return {name: Entry(**fields) for name, fields in json.loads(kept.read_text()).items()}
    parsed = entries(git.run(root, "cat-file", "blob", blob), where, "so it was committed")
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=kept.parent, delete=False) as partial:
        # not by `files.replacing`: several processes may be at it
        json.dump({name: asdict(entry) for name, entry in parsed.items()}, partial)
    Path(partial.name).replace(kept)
    return parsed
