"""The dvc.lock of a repository: the cells of the method matrix, and the files it names.

MLflow runs and model versions are found by the digests of entries, so a tracking store can be lost and
rebuilt.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from metashot import plain_yaml
from metashot.config import params
from metashot.config.networks import networks
from metashot.errors import MetashotError
from metashot.files import digest, md5
from metashot.project.entries import RECORDS, Entry, entries, pointed, self_and_parents, whole

GUARDS = {"check", "code"}  # they hold params.yaml and code to what git has; part of no lineage
CHAMPIONS = "champions"  # the folder of the champions that were adopted


@dataclass(frozen=True)
class Cell:
    """One method trained and evaluated on one data set and setting; paths are relative to the repository."""

    dataset: str
    setting: str
    method: str
    train: Entry
    evaluate: Entry

    @property
    def group(self) -> str:
        """The name shared by the cells that are compared: experiment, registered model and report."""
        return f"{self.dataset}-{self.setting}"

    @property
    def key(self) -> str:
        """Digest of both stages' inputs."""
        return digest([self.train.key, self.evaluate.key])

    @property
    def result(self) -> str:
        """Digest of both stages' inputs and outputs: the identity of the run and of the model version."""
        return digest([self.train.result, self.evaluate.result])

    def backbones(self, kind: str) -> list[str]:
        """Return the names of the backbones that the model may have, on samples of a kind."""
        locked = self.train.params["params.yaml"]
        backbone = str(locked[f"data.{self.dataset}.backbone"]["name"])
        budget = locked[f"data.{self.dataset}.budget.{self.method}"]
        return networks(locked[f"method.{self.method}"], budget, backbone, kind)

    @property
    def model(self) -> str:
        """Folder of model.safetensors and model.json."""
        return f"models/{self.group}/{self.method}"

    @property
    def weights(self) -> str:
        """DVC's digest of that folder: the identity of the model, whatever it is tested on."""
        return next(str(out["md5"]) for out in self.train.outs if out["path"] == self.model)

    @property
    def episodes(self) -> str:
        """The evaluation's counts of every test episode."""
        return f"results/{self.group}/{self.method}/episodes.parquet"

    @property
    def metrics(self) -> str:
        """The evaluation's metrics.json."""
        return f"results/{self.group}/{self.method}/metrics.json"

    @property
    def journal(self) -> str:
        """The training's metric points, one JSON object per line."""
        return f"{RECORDS}train/{self.group}/{self.method}/journal.jsonl"

    @property
    def train_record(self) -> str:
        """How, where and when it was trained."""
        return f"{RECORDS}train/{self.group}/{self.method}/record.json"

    @property
    def evaluate_record(self) -> str:
        """How, where and when it was evaluated."""
        return f"{RECORDS}evaluate/{self.group}/{self.method}/record.json"


class CrossTest(NamedTuple):
    """A cell's model on the test episodes of another data set."""

    cell: Cell
    other: str
    entry: Entry

    @property
    def result(self) -> str:
        """Digest of model, episodes and outcome."""
        return digest([self.cell.result, self.entry.result])

    @property
    def metrics(self) -> str:
        """What was measured."""
        return str(self.entry.outs[0]["path"])


class Lock:
    """The dvc.lock of a repository, and the files it names.

    Args:
        root: The repository's folder.

    Raises:
        MetashotError: There is no dvc.lock, or it cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.entries = entries(whole(root / "dvc.lock"), str(root / "dvc.lock"))

    def groups(self) -> list[tuple[str, str]]:
        """Return the pairs of data set and setting that a method was evaluated on, in the file's order."""
        names = (name.removeprefix("evaluate@").split("-") for name in self.entries if "evaluate@" in name)
        return list(dict.fromkeys((name[0], name[1]) for name in names if len(name) == 3))

    def methods(self, dataset: str, setting: str) -> list[str]:
        """Return the methods that were evaluated on a data set and setting, whatever params.yaml asks for."""
        prefix = f"evaluate@{dataset}-{setting}-"
        return [name.removeprefix(prefix) for name in self.entries if name.startswith(prefix)]

    def cell(self, dataset: str, setting: str, method: str) -> Cell:
        """Return one finished cell.

        Raises:
            MetashotError: It was never trained or evaluated, or its evaluation is of an earlier model.
        """
        name = f"{dataset}-{setting}-{method}"
        for stage in (f"train@{name}", f"evaluate@{name}"):
            if stage not in self.entries:
                raise MetashotError(f"dvc.lock has no {stage}: run `dvc repro evaluate@{name}`")
        cell = Cell(dataset, setting, method, self.entries[f"train@{name}"], self.entries[f"evaluate@{name}"])
        trained = {out["path"]: out["md5"] for out in cell.train.outs}
        if cell.model not in trained:
            raise MetashotError(
                f"train@{name} in dvc.lock makes no {cell.model}: run `dvc repro train@{name}`"
            )
        if any(trained.get(dep["path"], dep.get("md5")) != dep.get("md5") for dep in cell.evaluate.deps):
            raise MetashotError(
                f"evaluate@{name} in dvc.lock is of an earlier model: run `dvc repro evaluate@{name}`"
            )
        return cell

    def cells(self, dataset: str, setting: str, methods: Sequence[str]) -> list[Cell]:
        """Return the cells of a data set and setting: those of the methods that were evaluated, in order.

        Raises:
            MetashotError: There is none.
        """
        evaluated = [m for m in methods if f"evaluate@{dataset}-{setting}-{m}" in self.entries]
        if not evaluated:
            group = f"{dataset}-{setting}"
            raise MetashotError(f"no method was evaluated on {group} yet: run `dvc repro register@{group}`")
        return [self.cell(dataset, setting, method) for method in evaluated]

    def cross_tests(self, dataset: str, setting: str) -> list[CrossTest]:
        """Return the cross tests of a data set's current models on the episodes of other data sets."""
        tests = []
        for stage, entry in self.entries.items():
            kind, _, address = stage.partition("@")
            parts = address.split("-")
            if kind == "cross" and len(parts) == 4 and (parts[0], parts[2]) == (dataset, setting):
                _, other, _, method = parts
                with suppress(MetashotError):  # trained again, and not evaluated yet
                    cell = self.cell(dataset, setting, method)
                    if cell.weights in (dep.get("md5") for dep in entry.deps):
                        tests.append(CrossTest(cell, other, entry))
        return tests

    def ancestry(self, *entries: Entry) -> list[Entry]:
        """Return these entries and every entry they depend on, sorted by stage."""
        makers = {
            out["path"]: entry
            for entry in self.entries.values()
            if entry.stage not in GUARDS
            for out in entry.outs
        }
        ancestors: dict[str, Entry] = {}
        todo = list(entries)
        while todo:
            entry = todo.pop()
            if entry.stage not in ancestors:
                ancestors[entry.stage] = entry
                todo += [makers[path] for dep in entry.deps for path in self_and_parents(dep["path"], makers)]
        return [ancestors[stage] for stage in sorted(ancestors)]

    def file(self, entry: Entry, path: str) -> Path:
        """Return the path of an entry's output, after checking its bytes.

        Args:
            entry: The stage that made it.
            path: An output, or a file inside an output that is a folder.

        Raises:
            MetashotError: The entry names no such output, or the workspace does not hold it, or other bytes.
        """
        outs = {str(out["path"]): str(out["md5"]) for out in entry.outs}
        named = next(self_and_parents(path, outs), None)
        if named is None:
            raise MetashotError(f"{entry.stage} in dvc.lock names no {path}: run `dvc repro {entry.stage}`")
        if not (self.root / path).exists():
            raise MetashotError(f"{path} is in dvc.lock but not in the workspace: run `dvc checkout {named}`")
        if md5(self.root / named) != outs[named]:
            raise MetashotError(f"{named} is not what dvc.lock names: run `dvc checkout --force {named}`")
        return self.root / path

    def listing(self, entry: Entry, path: str) -> dict[str, str]:
        """Return the files of an output that is a folder: path in it to md5. Raises as `file`."""
        folder = self.file(entry, path)
        inside = (file for file in folder.rglob("*") if file.is_file())
        return {file.relative_to(folder).as_posix(): md5(file) for file in sorted(inside)}


def listed(root: Path, key: Literal["datasets", "settings", "methods"]) -> list[str]:
    """Return the data sets, settings or methods that params.yaml asks for."""
    names: list[str] = params.read(root / "params.yaml", key, list[params.Name])
    return names


def finished(lock: Lock) -> list[tuple[str, str]]:
    """Return the listed pairs of data set and setting on which a listed method was evaluated.

    Raises:
        MetashotError: There is none.
    """
    datasets, settings, methods = (listed(lock.root, key) for key in ("datasets", "settings", "methods"))
    pairs = [
        (dataset, setting)
        for dataset in datasets
        for setting in settings
        if any(f"evaluate@{dataset}-{setting}-{method}" in lock.entries for method in methods)
    ]
    if not pairs:
        raise MetashotError("no method was evaluated yet: run `dvc repro`")
    return pairs


def adopted(root: Path, dataset: str, setting: str) -> list[tuple[Lock, Cell]]:
    """Return the adopted champions, latest last.

    Each is a folder ``champions/<data set>-<setting>/<number>``, laid out like the repository: a dvc.lock of
    its own, and the files that the cell's two entries in it name.

    Raises:
        MetashotError: The folder is not what its .dvc file in git says, as in a clone that has not pulled it.
    """
    group = f"{dataset}-{setting}"
    folder = root / CHAMPIONS / group
    pointer = folder.with_name(f"{group}.dvc")
    if not pointer.exists():
        return []
    named = pointed(plain_yaml.load(plain_yaml.read(pointer), str(pointer)), str(pointer))
    if not folder.is_dir() or md5(folder) != named:
        path = pointer.relative_to(root)
        raise MetashotError(f"{CHAMPIONS}/{group} is not what {path} names: run `dvc pull {path}`")
    champions = []
    for kept in sorted(folder.iterdir(), key=lambda kept: (len(kept.name), kept.name)):
        lock = Lock(kept)
        methods = lock.methods(dataset, setting)
        if len(methods) != 1:
            raise MetashotError(f"{kept}: not one adopted champion, but {len(methods)}: restore it with git")
        champions.append((lock, lock.cell(dataset, setting, methods[0])))
    return champions
