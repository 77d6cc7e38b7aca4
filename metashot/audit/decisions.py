"""Decisions of the gate, recomputed from the evaluations and champions in git and DVC."""

import json
import re
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from metashot import files, plain_yaml
from metashot.audit.held import Held
from metashot.audit.trees import Trees, parse_parameters
from metashot.audit.verdict import Differs, Unknown, same, short, where
from metashot.config.params import Gate
from metashot.errors import MetashotError
from metashot.lineage.history import KeptLock, holding
from metashot.lineage.lockfile import CHAMPIONS, Cell, Lock
from metashot.lineage.metrics import Metrics
from metashot.project import git
from metashot.project.declared import below
from metashot.project.entries import Entry, pointed
from metashot.results import gate
from metashot.results.compare import counted
from metashot.results.decision import Decision
from metashot.results.gate import Candidate

ELSEWHERE = 0.01  # by which an accuracy may be another on another machine, as a fraction
RETESTED = {"incumbent", "difference", "retested", "champion", "reasons"}  # what an incumbent's test decides
MEASURED = {"mean", "low", "high"}  # of a difference
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")


class Decisions:
    """Decisions of the gate.

    Args:
        held: The contents of git and DVC.
        trees: The trees of commits.
    """

    def __init__(self, held: Held, trees: Trees) -> None:
        self.held, self.trees, self.memory = held, trees, held.memory

    def read(self, digest_: str) -> Decision:
        """A decision of the gate."""
        return Decision.parse(self.held.path(digest_).read_text(encoding="utf-8"), f"object {digest_[:12]}")

    def all(self, name: str) -> list[tuple[Lock, str]]:
        """Every decision of the gate on a model: the dvc.lock, and the digest; the one that counts last."""
        gates = [(lock, lock.entries.get(f"gate@{name}")) for lock in self.held.locks]
        return [(lock, str(gate.outs[0]["md5"])) for lock, gate in gates if gate]

    def judged(self, lock: Lock, name: str, decision: Decision) -> None:
        """Recompute a decision; raise Differs unless all of it agrees.

        The rule, the bans and the adopted champions are those of a commit whose dvc.lock has the decision, or
        of the workspace where none has. An incumbent that is not one of the present models is tested again.
        """
        entry = lock.entries[f"gate@{name}"]
        same(f"command of {entry.stage} in {where(lock)}", entry.cmd, " ".join(entry.command))
        having = [past for past in self.held.history if past.entries.get(entry.stage) == entry]
        commits: list[str | None] = [*holding(self.held.root, having)] if having else [None]
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
            content = parse_parameters(file, self._file(commit, file) or b"")
            for key, value in values.items():
                same(f"{key} of the decision", value, below(content or {}, key), f"in {file} of {place}")
        cells = [lock.cell(dataset, setting, method) for method in decision.judged]
        present = []
        for cell in cells:
            accuracies = counted(self.held.inside(cell.evaluate, cell.episodes), setting)
            present.append(Candidate(cell.method, cell.weights, accuracies))
        metrics = self.held.document(Metrics, cells[0].evaluate, cells[0].metrics)
        listed = self._file(commit, f"{CHAMPIONS}/{name}.json")
        bans = gate.parse_bans(listed, f"{CHAMPIONS}/{name}.json") if listed else []
        kept, passed_over = gate.unbarred(self._adopted(commit, dataset, setting), bans)
        incumbent, remarks, tolerance = None, list[str](), 0.0
        if kept:
            model = kept[1].weights
            incumbent = next((candidate for candidate in present if candidate.model == model), None)
            if incumbent is None:
                incumbent, remarks = self._tested(kept, lock, entry, metrics.manifest)
                tolerance = ELSEWHERE
        candidates = {*passed_over, *(candidate.model for candidate in present)}
        made = gate.decide(
            present,
            incumbent,
            [ban for ban in bans if ban.model in candidates],
            TypeAdapter(Gate).validate_python(entry.params["params.yaml"]["gate"]),
            manifest=metrics.manifest,
            chance=metrics.chance,
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
                f"{part} of the decision is {short(_text(value))}; by the episodes of {where(lock)} and "
                f"champions of {place} it is {short(_text(again))}"
            )

    def _judge(self, entry: Entry) -> str | None:
        """The md5 of the module that gave a decision its reasons."""
        deps = {str(dep["path"]): str(dep["md5"]) for dep in entry.deps}
        modules = self.trees.ran(entry)
        return modules.modules.get("metashot/results/gate.py") if modules else deps.get("metashot/gate.py")

    def _file(self, commit: str | None, path: str) -> bytes | None:
        """A file of a commit, or of the workspace."""
        if commit:
            return git.content(self.held.root, commit, path)
        return (self.held.root / path).read_bytes() if (self.held.root / path).is_file() else None

    def _adopted(self, commit: str | None, dataset: str, setting: str) -> list[tuple[Lock, Cell]]:
        """The champions that were adopted, the latest last."""
        path = f"{CHAMPIONS}/{dataset}-{setting}.dvc"
        pointer = self._file(commit, path)
        if pointer is None:
            return []
        held = self.held.listing(pointed(plain_yaml.load(pointer.decode(), path), path))
        numbers = {name.partition("/")[0] for name in held}
        champions: list[tuple[Lock, Cell]] = []
        for number in sorted(numbers, key=lambda number: (len(number), number)):
            self.held.path(held[f"{number}/dvc.lock"])
            kept = KeptLock(self.held.root, held[f"{number}/dvc.lock"], self.held.objects)
            (method,) = kept.methods(dataset, setting)
            champions.append((kept, kept.cell(dataset, setting, method)))
        return champions

    def _tested(
        self, kept: tuple[Lock, Cell], lock: Lock, entry: Entry, manifest: str
    ) -> tuple[Candidate | None, list[str]]:
        """The incumbent tested on the episodes of a decision, or None and the reason."""
        cell = kept[1]
        (data,) = (str(out["md5"]) for out in lock.entries[f"preprocess@{cell.dataset}"].outs)
        key = f"tested {cell.weights} {data} {manifest}"
        if key not in self.memory:
            with tempfile.TemporaryDirectory() as name:
                for file, md5 in self.held.listing(cell.weights).items():
                    shutil.copyfile(self.held.path(md5), Path(name) / file)
                threads = int(entry.params["params.yaml"]["threads"])
                try:
                    accuracies = gate.tested(
                        Path(name), self.held.path(data), self.held.path(manifest), threads
                    )
                except MetashotError as error:
                    return None, [gate.untested(cell.method, error)]
                self.memory[key] = accuracies.tolist()
        return Candidate(cell.method, cell.weights, np.array(self.memory[key])), []


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
