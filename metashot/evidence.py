"""What git and DVC hold, as an audit asks for it: bytes by digest, hashed anew, trees, and every dvc.lock.

What is computed from bytes is kept in a memory, by their digests, so that a later audit need not do it again.
"""

import hashlib
import json
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from metashot import files, gate, git, untrusted
from metashot.carried import PACKAGE, PROJECT, Code, identity
from metashot.compare import Decision, counted
from metashot.errors import MetashotError
from metashot.gate import Candidate
from metashot.history import PastLock, history
from metashot.lineage import Cell, Entry, Lock
from metashot.objects import FOLDER, Objects
from metashot.params import Gate
from metashot.statistics import mean_and_interval

Memory = dict[str, Any]
PARAMETERS = "params.yaml", "pyproject.toml"
PATCH = "tree.patch"  # in a record: what a dirty tree had beyond its commit


class Differs(Exception):
    """Something is not what it is said to be; the message names it."""


class Unknown(Exception):
    """Something cannot be told, as bytes or commits are not here; the message says which."""


class Evidence:
    """What is there to hold claims against.

    Args:
        root: The repository.
        memory: What was computed before; extended.
    """

    def __init__(self, root: Path, memory: Memory) -> None:
        self.root, self.memory = root, memory
        self.objects = Objects(root)
        self.codes: dict[str, Code] = {}

    @cached_property
    def history(self) -> list[PastLock]:
        """Every dvc.lock of git's history."""
        return history(self.root)

    @cached_property
    def present(self) -> Lock | None:
        """The dvc.lock of the workspace."""
        return Lock(self.root) if (self.root / "dvc.lock").exists() else None

    @cached_property
    def reachable(self) -> set[str]:
        """Commits that a branch or tag leads to."""
        return git.reachable(self.root)

    @cached_property
    def results(self) -> dict[str, dict[str, str]]:
        """Of each key that was ever made: what came out, without records, and where that is written."""
        found: dict[str, dict[str, str]] = defaultdict(dict)
        for lock in (*self.history, *([self.present] if self.present else [])):
            for entry in lock.entries.values():
                found[entry.key].setdefault(entry.result, where(lock))
        for run in self.objects.cache.runs():
            entry = Entry("", run["cmd"], run.get("deps", []), run.get("params", {}), run.get("outs", []))
            found[entry.key].setdefault(entry.result, "DVC's run cache")
        return found

    def code(self, digest_: str, kind: str, trees: Sequence[tuple[str, str | None]]) -> Code:
        """The code that a model carries: of one tree, a recorded one or that of a commit behind it or HEAD.

        Args:
            digest_: Of the code.
            kind: Of the samples of the model.
            trees: The recorded ones: commit, and digest of a patch on top.
        """
        key = str([digest_, kind, trees])
        if key not in self.codes:
            self.codes[key] = self._code(digest_, kind, trees)
        return self.codes[key]

    def _code(self, digest_: str, kind: str, trees: Sequence[tuple[str, str | None]]) -> Code:
        if not self.reachable:
            raise Unknown("there is no git repository here that could hold its code")
        heads = [git.run(self.root, "rev-parse", "HEAD"), *(c for c, _ in trees if c in self.reachable)]
        behind = git.changing(self.root, heads, PACKAGE.name, PROJECT)
        for commit, patch in (*((commit, None) for commit in behind), *trees):
            tree = self.tree(commit, patch)
            prefix = f"{PACKAGE.name}/"
            modules = {
                path.removeprefix(prefix): md5 for path, md5 in tree.items() if path.startswith(prefix)
            }
            with suppress(KeyError, Differs):  # the code of a metashot that carried it in another way
                project = self.parameters(commit, patch, PROJECT)
                if identity(modules, project, kind) == digest_:
                    return Code.of(self._contents(commit, patch, prefix), project, kind)
        if git.shallow(self.root):
            raise Unknown("its code is of no commit in this shallow clone: `git fetch --unshallow`")
        raise Differs(
            "no commit that its training or what is checked out here stands on has the code and the packages "
            f"{digest_[:12]} that it carries, all of one commit: check out what it was published from"
        )

    def _contents(self, commit: str, patch: str | None, prefix: str) -> dict[str, bytes]:
        """The modules of the package in a tree, by path in the package."""
        blobs = git.files(self.root, commit, self.path(patch) if patch else None)
        modules = {path: blob for path, blob in blobs.items() if path.startswith(prefix)}
        contents = git.contents(self.root, sorted(set(modules.values())))
        return {path.removeprefix(prefix): contents[blob] for path, blob in modules.items()}

    def decision(self, digest_: str) -> Decision:
        """A decision of the gate."""
        text = self.path(digest_).read_text(encoding="utf-8")
        try:
            found: Decision = TypeAdapter(Decision).validate_json(text)
        except ValidationError:
            raise Differs(f"{digest_[:12]} is no decision of the gate") from None
        return found

    def decisions(self, name: str) -> list[tuple[Lock, str]]:
        """Every decision of the gate on a model: the dvc.lock, and the digest; the one that counts last."""
        locks: list[Lock] = [*self.history, *([self.present] if self.present else [])]
        gates = [(lock, lock.entries.get(f"gate@{name}")) for lock in locks]
        return [(lock, str(gate.outs[0]["md5"])) for lock, gate in gates if gate]

    def one_result(self, entry: Entry) -> None:
        """Fail where a stage ever gave another result from the same inputs."""
        found = self.results.get(entry.key, {})
        if others := [place for result, place in found.items() if result != entry.result]:
            raise Differs(f"{entry.stage} gave another result from the same inputs: {', '.join(others)}")

    def judged(self, lock: Lock, name: str, decision: Decision) -> None:
        """Judge again, by the counts of every episode, and fail where that is not the decision.

        An incumbent that is none of the present models was tested for the decision alone: then no more can be
        told than whether the accuracies of the present ones are theirs.
        """
        dataset, setting = name.split("-")
        entry = lock.entries[f"gate@{name}"]
        cells = [lock.cell(dataset, setting, method) for method in decision.judged]
        present = []
        for cell in cells:
            accuracies = counted(self.inside(cell.evaluate, cell.episodes), setting)
            present.append(Candidate(cell.method, cell.weights, accuracies))
        held = decision.incumbent.model if decision.incumbent else None
        incumbent = next((candidate for candidate in present if candidate.model == held), None)
        metrics = self.json(cells[0].evaluate, cells[0].metrics)
        made = gate.decide(
            present,
            incumbent,
            [bar for bar in gate.read_bars(self.root, name) if bar.sentence in decision.reasons],
            TypeAdapter(Gate).validate_python(entry.params["params.yaml"]["gate"]),
            manifest=metrics["manifest"],
            chance=1 / metrics["n_way"],
        )
        parts = ["manifest", "judged", "min_accuracy", "allowed_regression", "challenger"]
        if incumbent or not held:
            parts += ["incumbent", "difference", "champion", "promoted"]
        for part in parts:
            said, found = (_rounded(getattr(one, part)) for one in (decision, made))
            if said != found:
                raise Differs(
                    f"{part} of the decision is {said}; by the episodes of {where(lock)} it is {found}"
                )

    def summary(self, cell: Cell) -> dict[str, dict[str, float]]:
        """Mean, interval and number of the episodes of each setting in an evaluation's counts."""
        path = self.inside(cell.evaluate, cell.episodes)
        key = f"episodes {path.parent.name}{path.name}"  # an object's name is its digest
        if key not in self.memory:
            self.memory[key] = _summary(path)
        found: dict[str, dict[str, float]] = self.memory[key]
        return found

    def tree(self, commit: str, patch: str | None) -> dict[str, str]:
        """The md5 of each file of code and parameters of a commit, with a patch on top if one is named.

        Args:
            commit: The commit.
            patch: Digest of the patch.
        """
        self.reach(commit)
        key = f"tree {commit} {patch}"
        if key not in self.memory:
            blobs = git.files(self.root, commit, self.path(patch) if patch else None)
            wanted = {p: blob for p, blob in blobs.items() if p.endswith((".py", *PARAMETERS))}
            new = {blob for path, blob in wanted.items() if not self._read(path, blob)}
            for blob, content in git.contents(self.root, sorted(new)).items():
                md5 = hashlib.md5(content).hexdigest()
                self.memory[f"blob {blob}"] = md5
                for path in PARAMETERS:
                    if wanted.get(path) == blob:
                        self.memory[f"parameters {md5}"] = _parameters(path, content)
            self.memory[key] = {path: self.memory[f"blob {blob}"] for path, blob in wanted.items()}
        found: dict[str, str] = self.memory[key]
        return found

    def _read(self, path: str, blob: str) -> bool:
        """Whether a file of a tree is in the memory."""
        md5 = self.memory.get(f"blob {blob}")
        return md5 is not None and (path not in PARAMETERS or f"parameters {md5}" in self.memory)

    def parameters(self, commit: str, patch: str | None, path: str) -> Any:
        """params.yaml or pyproject.toml of a commit, with a patch on top if one is named."""
        tree = self.tree(commit, patch)
        if path not in tree:
            raise Differs(f"commit {commit[:10]} has no {path}")
        found = self.memory[f"parameters {tree[path]}"]
        if found is None:
            raise Differs(f"{path} of commit {commit[:10]} cannot be read")
        return found

    def reach(self, commit: str) -> None:
        """Fail where no branch or tag leads to a commit."""
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
        except MetashotError:
            raise Differs(f"commit {commit[:10]} has no dvc.lock that can be read") from None

    def path(self, digest_: str) -> Path:
        """Where the bytes with a digest lie, hashed: again only if the file has changed since."""
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

    def json(self, entry: Entry, path: str) -> Any:
        """What a JSON file of an output of a stage holds."""
        return untrusted.parsed(self.content(entry, path), path)

    def content(self, entry: Entry, path: str) -> bytes:
        """The bytes of a document of an output of a stage."""
        with self.inside(entry, path).open("rb") as file:
            content = file.read(untrusted.DOCUMENT + 1)
        if len(content) > untrusted.DOCUMENT:
            raise Differs(f"{path} has more than {untrusted.DOCUMENT:,} bytes")
        return content


def where(lock: Lock) -> str:
    """A dvc.lock as people know it."""
    return f"dvc.lock of commit {lock.commit[:10]}" if isinstance(lock, PastLock) else "dvc.lock"


def _parameters(path: str, content: bytes) -> Any:
    """The values of a file of parameters, as JSON has them; None where it cannot be read."""
    try:
        text = content.decode()
        return tomllib.loads(text) if path.endswith(".toml") else YAML(typ="safe").load(text)
    except (ValueError, RecursionError, YAMLError):  # as with the marks of a merge in it
        return None


def _summary(path: Path) -> dict[str, dict[str, float]]:
    """Mean, interval and number of the episodes of each setting in an evaluation's counts."""
    table = pq.read_table(path)
    found = {}
    for setting in table["setting"].unique().to_pylist():
        rows = table.filter(np.array(table["setting"].to_pylist()) == setting).sort_by("episode")
        correct, queries = rows["correct"].to_numpy(), rows["queries"].to_numpy()
        if (correct < 0).any() or (correct > queries).any() or len(set(queries.tolist())) != 1:
            raise Differs(f"episodes of {setting} have impossible counts")
        mean, half = mean_and_interval(correct / queries)
        found[setting] = {"accuracy": mean, "ci95": half, "episodes": len(rows), "queries": int(queries[0])}
    return found


def _rounded(value: Any) -> str:
    """A part of a decision as text, floats without the digits that another numpy may round otherwise."""
    plain = json.loads(json.dumps(value, default=vars), parse_float=lambda text: round(float(text), 9))
    return json.dumps(plain)
