"""The lineage of a result in one document, from the raw download to the measured accuracy.

The document is a function of dvc.lock and the files that it names: anyone who has them computes the same
one. Each MLflow run carries it, signatures sign it, and an audit compares everything else with it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from metashot.data.encoders import FOLDER
from metashot.errors import MetashotError
from metashot.files import digest
from metashot.lineage.lockfile import Cell, CrossTest, Lock
from metashot.lineage.metrics import CrossMetrics, Metrics
from metashot.lineage.origin import DataFacts, Origin
from metashot.lineage.record import Record, TrainingRecord
from metashot.lineage.stored import Count, Md5, Name, Output, Sha256, Stored, malformed
from metashot.project import entries
from metashot.project.entries import Entry

S = TypeVar("S", bound=Stored)


@dataclass(frozen=True, kw_only=True)
class Artifact(Stored):
    """A file or folder that a stage read or made; its size in bytes."""

    path: str
    md5: Output
    size: Count


@dataclass(frozen=True, kw_only=True)
class Stage(Stored):
    """A stage as dvc.lock records it, with its key."""

    key: Sha256
    cmd: str
    deps: list[Artifact]
    params: Mapping[str, Mapping[str, Any]]
    outs: list[Artifact]


@dataclass(frozen=True, kw_only=True)
class Document(Stored):
    """The lineage of a result.

    Attributes:
        name: Of the registered model, ``<data set>-<setting>``.
        dataset: The data set.
        setting: The setting.
        method: The method.
        key: Digest of the inputs of training and evaluation.
        result: Digest of their inputs and outputs.
        model: md5 of each file of the model.
        metrics: What was measured.
        training: The record of the training.
        evaluation: The record of the evaluation.
        origin: Where the data come from.
        stages: Every stage that the result depends on, by address.
    """

    format: Literal[1]
    name: Name
    dataset: Name
    setting: Name
    method: Name
    key: Sha256
    result: Sha256
    model: Mapping[Name, Md5]
    metrics: Metrics
    training: TrainingRecord
    evaluation: Record
    origin: Origin
    stages: Mapping[str, Stage]

    @classmethod
    def of(cls, value: Any, where: str = "") -> Self:
        """Build a document from parsed JSON; the names of its own stages and outputs have to match.

        Raises:
            MetashotError: It is not laid out as metashot writes it; the message names the first part.
        """
        document = super().of(value, where)
        for key in document.further:
            raise malformed(f"{ascii(key)[1:-1]}: a document has no such part", where)
        _same("name", document.name, f"{document.dataset}-{document.setting}", where)
        cell = f"{document.name}/{document.method}"
        for stage, paths in {
            "train": (f"models/{cell}",),
            "evaluate": (f"results/{cell}/metrics.json", f"results/{cell}/episodes.parquet"),
        }.items():
            address = document.address(stage)
            outs = document.stages[address].outs if address in document.stages else []
            made = [out.path for out in outs]
            for path in paths:
                _same(f"output of {address}", path if path in made else None, path, where)
        try:
            _ = document.in_order
        except CycleError:
            raise malformed("stages: they depend on each other", where) from None
        return document

    @classmethod
    def of_cell(cls, lock: Lock, cell: Cell) -> Self:
        """Compute the lineage of a result.

        Raises:
            MetashotError: A file that dvc.lock names is missing, or is another one.
        """
        stages = lock.ancestry(cell.train, cell.evaluate)
        processed, raw = f"data/processed/{cell.dataset}.parquet", f"data/raw/{cell.dataset}"
        about = DataFacts.read(lock.file(_maker(stages, processed), processed))
        return cls(
            format=1,
            name=cell.group,
            dataset=cell.dataset,
            setting=cell.setting,
            method=cell.method,
            key=cell.key,
            result=cell.result,
            model=lock.listing(cell.train, cell.model),
            metrics=metrics(lock, cell),
            training=training(lock, cell),
            evaluation=_read(Record, lock, cell.evaluate, cell.evaluate_record),
            origin=Origin(**{**vars(about), "files": lock.listing(_maker(stages, raw), raw)}),
            stages={name: Stage.of(stage) for name, stage in _listed(stages).items()},
        )

    @property
    def in_order(self) -> list[str]:
        """The addresses of the stages, each behind those it depends on."""
        makers = {out.path: name for name, stage in self.stages.items() for out in stage.outs}
        needs = {
            name: {makers[dep.path] for dep in stage.deps if dep.path in makers}
            for name, stage in self.stages.items()
        }
        return list(TopologicalSorter(needs).static_order())

    def address(self, stage: str) -> str:
        """The address in dvc.lock of the cell's ``train`` or ``evaluate``."""
        return f"{stage}@{self.name}-{self.method}"

    @property
    def data(self) -> str:
        """Path of the samples."""
        return f"data/processed/{self.dataset}.parquet"

    @property
    def data_md5(self) -> str:
        """md5 of the samples as the training read them."""
        return self.training.inputs[self.data].md5

    @property
    def encoder(self) -> dict[str, str]:
        """The md5 of each file of the encoder that lies beside the raw files, by its path there."""
        held = self.origin.files if self.origin.encoder else {}
        return {path: md5 for path, md5 in held.items() if path.startswith(f"{FOLDER}/")}

    @property
    def weights(self) -> str:
        """DVC's digest of the model's folder, as `Cell.weights`."""
        outs = self.stages[self.address("train")].outs
        return next(out.md5 for out in outs if out.path == f"models/{self.name}/{self.method}")

    @property
    def stages_digest(self) -> str:
        """Digest of its stages, equal to `stages_digest` of the dvc.lock it came from."""
        return digest(self.written["stages"])

    def entries(self, where: str, mend: str) -> dict[str, Entry]:
        """The stages as entries of dvc.lock. Raises MetashotError where they are not what DVC writes."""
        return entries.stages(self.written["stages"], where, mend)


@dataclass(frozen=True, kw_only=True)
class CrossDocument(Stored):
    """The lineage of a test on another data set's episodes.

    Attributes:
        name: Of the registered model, ``<data set>-<setting>``.
        method: The method.
        other: The data set of the episodes.
        model: Digest of the model's result.
        result: Digest of model, episodes and outcome.
        tested: What was measured.
        origin: Where both data sets come from, by name.
        stages: Every stage that model, data and episodes depend on, by address.
    """

    format: Literal[1]
    name: Name
    method: Name
    other: Name
    model: Sha256
    result: Sha256
    tested: CrossMetrics
    origin: Mapping[str, DataFacts]
    stages: Mapping[str, Stage]

    @classmethod
    def of_test(cls, lock: Lock, test: CrossTest) -> Self:
        """Compute the lineage of a cross test.

        Raises:
            MetashotError: A file that dvc.lock names is missing, or is another one.
        """
        stages = lock.ancestry(test.cell.train, test.cell.evaluate, test.entry)
        processed = {name: f"data/processed/{name}.parquet" for name in (test.cell.dataset, test.other)}
        return cls(
            format=1,
            name=test.cell.group,
            method=test.cell.method,
            other=test.other,
            model=test.cell.result,
            result=test.result,
            tested=_read(CrossMetrics, lock, test.entry, test.metrics),
            origin={
                n: DataFacts.read(lock.file(_maker(stages, path), path)) for n, path in processed.items()
            },
            stages={name: Stage.of(stage) for name, stage in _listed(stages).items()},
        )


def encoder_files(lock: Lock, cell: Cell, names: Iterable[str]) -> dict[str, Path]:
    """Return the path of each file of an encoder, by its path among the raw files.

    Args:
        lock: Where they are.
        cell: The result.
        names: As in `Document.encoder`.

    Raises:
        MetashotError: As `Lock.file`.
    """
    raw = f"data/raw/{cell.dataset}"
    entry, paths = _maker(lock.ancestry(cell.train, cell.evaluate), raw), dict[str, Path]()
    folder: Path | None = None
    for name in names:
        if folder is None or not (folder / name).is_file():  # else it was checked with the first
            path = lock.file(entry, f"{raw}/{name}")
            folder = path.parents[name.count("/")]
        paths[name] = folder / name if (folder / name).is_file() else path
    return paths


def metrics(lock: Lock, cell: Cell) -> Metrics:
    """Return what the evaluation of a cell measured. Raises MetashotError as `Lock.file`."""
    return _read(Metrics, lock, cell.evaluate, cell.metrics)


def training(lock: Lock, cell: Cell) -> TrainingRecord:
    """Return the record of a cell's training. Raises MetashotError as `Lock.file`."""
    return _read(TrainingRecord, lock, cell.train, cell.train_record)


def stages_digest(lock: Lock, cell: Cell) -> str:
    """Return the digest of all stages that a result depends on, from dvc.lock alone."""
    return digest(_listed(lock.ancestry(cell.train, cell.evaluate)))


def flat(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested parameters as ``outer.inner`` and value, as MLflow shows them."""
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def _read(cls: type[S], lock: Lock, entry: Entry, path: str) -> S:
    return cls.parse(lock.file(entry, path).read_bytes(), path)


def _maker(stages: Sequence[Entry], path: str) -> Entry:
    """The stage that makes an output."""
    for entry in stages:
        if any(out["path"] == path for out in entry.outs):
            return entry
    raise MetashotError(f"no stage in dvc.lock makes {path}: run `dvc repro`")


def _listed(stages: Sequence[Entry]) -> dict[str, Any]:
    return {e.stage: {"key": e.key, **e.inputs, "outs": _sorted(e.outs)} for e in stages}


def _sorted(items: Any) -> list[dict[str, Any]]:
    return sorted((dict(item) for item in items), key=lambda item: str(item["path"]))


def _same(what: str, value: Any, expected: Any, where: str) -> None:
    if value != expected:
        raise malformed(f"{what}: {value or 'missing'}, not {expected}", where)
