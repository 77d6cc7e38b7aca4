"""What git and DVC hold, as an audit asks for it: bytes by digest, hashed anew, trees, and every dvc.lock.

What is computed from bytes is kept in a memory, by their digests, so that a later audit need not do it again.
"""

import hashlib
import json
import re
import shutil
import tempfile
import tomllib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from metashot import files, plain_yaml, untrusted
from metashot.config.params import Gate
from metashot.errors import MetashotError
from metashot.learning.statistics import mean_and_interval
from metashot.lineage.history import KeptLock, PastLock, history, holding
from metashot.lineage.lockfile import CHAMPIONS, Cell, Lock
from metashot.lineage.objects import FOLDER, Missing, Objects
from metashot.project import closure, git
from metashot.project.declared import below
from metashot.project.entries import RECORDS, Entry, pointed
from metashot.registry.carried import LOCK, PACKAGE, Code
from metashot.results import gate
from metashot.results.compare import counted
from metashot.results.decision import Decision
from metashot.results.gate import Candidate

Memory = dict[str, Any]
PROJECT = "pyproject.toml"
PARAMETERS = "params.yaml", PROJECT
TREES = 4  # whose modules are in memory
ELSEWHERE = 0.01  # by which an accuracy may be another on another machine, as a fraction
RETESTED = {"incumbent", "difference", "retested", "champion", "reasons"}  # what an incumbent's test decides
MEASURED = {"mean", "low", "high"}  # of a difference
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")


class Differs(Exception):
    """Something is not what it is said to be; the message names it."""


class Unknown(Exception):
    """Something cannot be told, as bytes or commits are not here; the message says which."""


class Evidence:
    """What is there to hold claims against.

    Args:
        root: The repository.
        memory: What was computed before; extended.

    Raises:
        MetashotError: Git fails, or the dvc.lock of the workspace cannot be read.
    """

    def __init__(self, root: Path, memory: Memory) -> None:
        self.root, self.memory = root, memory
        self.objects = Objects(root)
        self.codes: dict[str, Code] = {}
        self.contents: dict[tuple[str, str | None], dict[str, bytes]] = {}
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
        """Of each key that was ever made: what came out, without records, and where that is written."""
        found: dict[str, dict[str, str]] = defaultdict(dict)
        for lock in self.locks:
            for entry in lock.entries.values():
                found[entry.key].setdefault(entry.result, where(lock))
        for entry in self.objects.cache.runs():
            found[entry.key].setdefault(entry.result, "DVC's run cache")
        return found

    def code(
        self, digest_: str, kind: str, parts: closure.Parts, trees: Sequence[tuple[str, str | None]]
    ) -> Code:
        """The code that a model carries: of one tree, a recorded one or that of a commit behind it or HEAD.

        Args:
            digest_: Of the code.
            kind: Of the samples of the model.
            parts: What the model uses, as `carried.parts`.
            trees: The recorded ones: commit, and digest of a patch on top.
        """
        key = str([digest_, parts, trees])
        if key not in self.codes:
            self.codes[key] = self._code(digest_, kind, parts, trees)
        return self.codes[key]

    def _code(
        self, digest_: str, kind: str, parts: closure.Parts, trees: Sequence[tuple[str, str | None]]
    ) -> Code:
        if not self.reachable:
            raise Unknown("there is no git repository here that could hold its code")
        heads = [git.head(self.root), *(commit for commit, _ in trees if commit in self.reachable)]
        behind = git.changing(self.root, [*filter(None, heads)], PACKAGE.name, PROJECT, LOCK)
        for commit, patch in (*((commit, None) for commit in behind), *trees):
            key = f"carried {commit} {patch} {kind} {parts}"
            if self.memory.get(key, digest_) == digest_:
                code = self._carried(commit, patch, kind, parts)
                self.memory[key] = code.digest if code else None
                if code and code.digest == digest_:
                    return code
        if git.shallow(self.root):
            raise Unknown("no commit in this shallow clone has its code: `git fetch --unshallow`")
        raise Differs(
            "no commit that its training or what is checked out here stands on has the code and the packages "
            f"{digest_[:12]} that it carries, all of one commit: check out what it was published from"
        )

    def _carried(self, commit: str, patch: str | None, kind: str, parts: closure.Parts) -> Code | None:
        """What a model registered with the code of a tree would carry; None where that is unclear."""
        self.reach(commit)
        held = self._contents(commit, patch)
        modules = {path: content for path, content in held.items() if path != LOCK}
        try:
            project = self.parameters(commit, patch, PROJECT)
            if below(project, "tool.metashot.model"):
                inside = {path.partition("/")[2]: content for path, content in modules.items()}
                return Code.earlier(inside, project, kind)
            return Code.of(modules, parts, held[LOCK].decode())
        except (KeyError, SyntaxError, ValueError, MetashotError):  # another layout than any of ours
            return None

    def _contents(self, commit: str, patch: str | None) -> dict[str, bytes]:
        """The modules of the package in a tree, and its requirements.lock, by path."""
        if (commit, patch) not in self.contents:
            blobs = git.files(self.root, commit, self.path(patch) if patch else None)
            prefix = f"{PACKAGE.name}/"
            named = {
                p: b for p, b in blobs.items() if p == LOCK or (p.startswith(prefix) and p.endswith(".py"))
            }
            contents = git.contents(self.root, sorted(set(named.values())))
            while len(self.contents) >= TREES:
                del self.contents[next(iter(self.contents))]
            self.contents[commit, patch] = {path: contents[blob] for path, blob in named.items()}
        return self.contents[commit, patch]

    def decision(self, digest_: str) -> Decision:
        """A decision of the gate."""
        text = self.path(digest_).read_text(encoding="utf-8")
        try:
            found: Decision = TypeAdapter(Decision).validate_json(text)
        except ValidationError:
            raise Differs(f"{digest_[:12]} is not a decision of the gate") from None
        return found

    def decisions(self, name: str) -> list[tuple[Lock, str]]:
        """Every decision of the gate on a model: the dvc.lock, and the digest; the one that counts last."""
        gates = [(lock, lock.entries.get(f"gate@{name}")) for lock in self.locks]
        return [(lock, str(gate.outs[0]["md5"])) for lock, gate in gates if gate]

    def one_result(self, entry: Entry) -> None:
        """Fail where a stage ever gave another result from the same inputs."""
        found = self.results.get(entry.key, {})
        if others := [place for result, place in found.items() if result != entry.result]:
            raise Differs(f"{entry.stage} gave another result from the same inputs: {', '.join(others)}")

    def judged(self, lock: Lock, name: str, decision: Decision) -> None:
        """Judge again, and fail where that is not the decision, whole.

        The rule, the bars and the adopted champions are those of a commit whose dvc.lock has the decision, or
        of the workspace where none has. An incumbent that is not one of the present models is tested again.
        """
        entry = lock.entries[f"gate@{name}"]
        same(f"command of {entry.stage} in {where(lock)}", entry.cmd, " ".join(entry.command))
        having = [past for past in self.history if past.entries.get(entry.stage) == entry]
        commits: list[str | None] = [*holding(self.root, having)] if having else [None]
        first: Differs | Unknown | None = None
        for commit in commits:
            try:
                return self._judged_at(commit, lock, name, decision)
            except (Differs, Unknown) as error:
                first = first or error
        if first:
            raise first

    def _judged_at(self, commit: str | None, lock: Lock, name: str, decision: Decision) -> None:
        """The same with parameters and champions of one commit, or of the workspace."""
        dataset, setting = name.split("-")
        entry, place = lock.entries[f"gate@{name}"], f"commit {commit[:10]}" if commit else "the workspace"
        for file, values in entry.params.items():
            content = _parameters(file, self._file(commit, file) or b"")
            for key, value in values.items():
                same(f"{key} of the decision", value, below(content or {}, key), f"in {file} of {place}")
        cells = [lock.cell(dataset, setting, method) for method in decision.judged]
        present = []
        for cell in cells:
            accuracies = counted(self.inside(cell.evaluate, cell.episodes), setting)
            present.append(Candidate(cell.method, cell.weights, accuracies))
        metrics = self.json(cells[0].evaluate, cells[0].metrics)
        listed = self._file(commit, f"{CHAMPIONS}/{name}.json")
        bars = gate.parse_bars(listed, f"{CHAMPIONS}/{name}.json") if listed else []
        kept, passed_over = gate.unbarred(self._adopted(commit, dataset, setting), bars)
        incumbent, remarks, tolerance = None, list[str](), 0.0
        if kept:
            model = kept[1].weights
            incumbent = next((candidate for candidate in present if candidate.model == model), None)
            if incumbent is None:
                incumbent, remarks = self._tested(kept, lock, entry, metrics["manifest"])
                tolerance = ELSEWHERE
        candidates = {*passed_over, *(candidate.model for candidate in present)}
        made = gate.decide(
            present,
            incumbent,
            [bar for bar in bars if bar.model in candidates],
            TypeAdapter(Gate).validate_python(entry.params["params.yaml"]["gate"]),
            manifest=metrics["manifest"],
            chance=1 / metrics["n_way"],
            remarks=remarks,
        )
        if decision.champion not in (None, decision.challenger, decision.incumbent):
            raise Differs("champion of the decision is neither its challenger nor its incumbent")
        for part, value in asdict(decision).items():
            again = asdict(made)[part]
            if _alike(value, again, tolerance if part in RETESTED else 0.0):
                continue
            if part == "reasons" and self._judge(entry) != files.md5(Path(gate.__file__)):
                raise Unknown(f"another gate.py gave the reasons: `dvc repro {entry.stage}`")
            raise Differs(
                f"{part} of the decision is {_short(_text(value))}; by the episodes of {where(lock)} and "
                f"champions of {place} it is {_short(_text(again))}"
            )

    def _judge(self, entry: Entry) -> str | None:
        """The md5 of the module that gave a decision its reasons."""
        deps = {str(dep["path"]): str(dep["md5"]) for dep in entry.deps}
        modules = self.ran(entry)
        return modules.modules.get("metashot/results/gate.py") if modules else deps.get("metashot/gate.py")

    def _file(self, commit: str | None, path: str) -> bytes | None:
        """A file of a commit, or of the workspace."""
        if commit:
            return git.content(self.root, commit, path)
        return (self.root / path).read_bytes() if (self.root / path).is_file() else None

    def _adopted(self, commit: str | None, dataset: str, setting: str) -> list[tuple[Lock, Cell]]:
        """The champions that were adopted, the latest last."""
        path = f"{CHAMPIONS}/{dataset}-{setting}.dvc"
        pointer = self._file(commit, path)
        if pointer is None:
            return []
        held = self.listing(pointed(plain_yaml.load(pointer.decode(), path), path))
        numbers = {name.partition("/")[0] for name in held}
        found: list[tuple[Lock, Cell]] = []
        for number in sorted(numbers, key=lambda number: (len(number), number)):
            self.path(held[f"{number}/dvc.lock"])
            kept = KeptLock(self.root, held[f"{number}/dvc.lock"], self.objects)
            (method,) = kept.methods(dataset, setting)
            found.append((kept, kept.cell(dataset, setting, method)))
        return found

    def _tested(
        self, kept: tuple[Lock, Cell], lock: Lock, entry: Entry, manifest: str
    ) -> tuple[Candidate | None, list[str]]:
        """An incumbent on the episodes of a decision; or none, and why it cannot answer them."""
        cell = kept[1]
        (data,) = (str(out["md5"]) for out in lock.entries[f"preprocess@{cell.dataset}"].outs)
        key = f"tested {cell.weights} {data} {manifest}"
        if key not in self.memory:
            with tempfile.TemporaryDirectory() as name:
                for file, md5 in self.listing(cell.weights).items():
                    shutil.copyfile(self.path(md5), Path(name) / file)
                threads = int(entry.params["params.yaml"]["threads"])
                try:
                    accuracies = gate.tested(Path(name), self.path(data), self.path(manifest), threads)
                except MetashotError as error:
                    return None, [gate.untested(cell.method, error)]
                self.memory[key] = accuracies.tolist()
        return Candidate(cell.method, cell.weights, np.array(self.memory[key])), []

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

    def made_of(self, stage: Entry, made: Collection[str], commit: str, patch: str | None) -> None:
        """Fail where code and parameters that a stage depends on are not those of a commit, and a patch.

        Args:
            stage: The stage.
            made: What stages make: no code of the commit.
            commit: The commit.
            patch: Digest of the patch.
        """
        tree = self.tree(commit, patch)
        for dep in stage.deps:
            if dep["path"].endswith(".py") and dep["path"] not in made:
                what = f"{dep['path']} of {stage.stage} at commit {commit[:10]}"
                same(what, tree.get(dep["path"]), dep["md5"])
        if ran := self.ran(stage):
            self._ran(stage, ran, tree, commit, patch)
        for file, values in stage.params.items():
            there = self.parameters(commit, patch, file)
            for key, value in values.items():
                same(f"{key} in {file} at commit {commit[:10]}", below(there, key), value)

    def ran(self, stage: Entry) -> closure.CodeList | None:
        """The modules and packages that a stage ran; None for one whose modules are its dependencies."""
        for dep in stage.deps:
            if dep["path"].startswith(f"{closure.FOLDER}/"):
                try:
                    return closure.CodeList.parse(self.path(str(dep["md5"])).read_bytes(), str(dep["path"]))
                except Missing:
                    raise
                except MetashotError as error:
                    raise Differs(str(error)) from None
        return None

    def _ran(
        self, stage: Entry, ran: closure.CodeList, tree: Mapping[str, str], commit: str, patch: str | None
    ) -> None:
        """Fail where the modules that a stage ran, or its packages, are not those of a tree."""
        for path, md5 in ran.modules.items():
            there = tree.get(path)
            if there and path in ran.parts:
                there = ran.md5(path, self._contents(commit, patch)[path])
            same(f"{path} of {stage.stage} at commit {commit[:10]}", there, md5)
        lock = self._contents(commit, patch).get(LOCK, b"").decode()
        pins = closure.pins(lock)
        for name, version in ran.packages.items():
            same(f"{name} in {LOCK} at commit {commit[:10]}", pins.get(name), version)

    def fitting(
        self, stage: Entry, made: Collection[str], trees: Sequence[tuple[str, str | None]]
    ) -> tuple[str, str | None]:
        """Return the first of commits, with their patches, that has code and parameters of a stage.

        Raises:
            Differs: None has; why the first has not.
            Unknown: There is none to look at, or commits are not here.
        """
        first: Differs | None = None
        for commit, patch in trees:
            try:
                self.made_of(stage, made, commit, patch)
            except Differs as error:
                first = first or error
            else:
                return commit, patch
        raise first or Unknown(f"no commit is on record for {stage.stage}")

    def patch(self, stage: Entry) -> str | None:
        """Digest of the changes that the tree of a training or an evaluation had."""
        for out in stage.outs:
            if str(out["path"]).startswith(RECORDS):
                return self.listing(str(out["md5"])).get(git.PATCH)
        return None

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
        except MetashotError as error:
            raise Differs(f"commit {commit[:10]} has no dvc.lock that can be read ({error})") from None

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


def same(what: str, found: Any, wanted: Any, where_: str = "") -> None:
    """Fail where something is not what it should be."""
    if found != wanted:
        raise Differs(f"{what} is {_short(found)}, not {_short(wanted)}{f' as {where_}' if where_ else ''}")


def _short(value: Any) -> str:
    text = "missing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def where(lock: Lock) -> str:
    """A dvc.lock as people know it."""
    return f"dvc.lock of commit {lock.commit[:10]}" if isinstance(lock, PastLock) else "dvc.lock"


def _parameters(path: str, content: bytes) -> Any:
    """The values of a file of parameters, as JSON has them; None where it cannot be read."""
    try:
        text = content.decode()
        return tomllib.loads(text) if path.endswith(".toml") else plain_yaml.load(text, path)
    except (ValueError, RecursionError, MetashotError):  # as with the marks of a merge in it
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


def _alike(one: Any, other: Any, tolerance: float) -> bool:
    """Whether parts of two decisions are the same, numbers within a tolerance, in sentences as well."""
    if isinstance(one, dict) and isinstance(other, dict):
        # Single episodes that come out otherwise change these three by as much, and what is counted at will
        keys = MEASURED if tolerance and one.keys() >= MEASURED else one.keys() | other.keys()
        return all(key in one and key in other and _alike(one[key], other[key], tolerance) for key in keys)
    if isinstance(one, list) and isinstance(other, list):
        pairs = list(zip(one, other, strict=False))
        return len(one) == len(other) and all(_alike(*pair, tolerance) for pair in pairs)
    if isinstance(one, float) and isinstance(other, float):  # another numpy may round otherwise
        return abs(one - other) <= max(tolerance, 1e-9)
    if isinstance(one, str) and isinstance(other, str) and tolerance:
        first, second = (_NUMBER.sub("#", text.partition(gate.UNTESTED)[0]) for text in (one, other))
        return first == second
    return bool(one == other)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
