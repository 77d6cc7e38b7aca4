"""What a training or evaluation writes beside its result for later audits: a record and a journal.

Both contain clock times, so nothing that is hashed into a later stage may depend on them.
"""

import json
import platform
import resource
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch

from metashot.files import digest, md5
from metashot.learning.models import runtime
from metashot.lineage.stored import Commit, Count, Flag, Md5, Name, Number, Real, Stored, Version
from metashot.project import code, git

PACKAGES = ("metashot", "torch", "numpy", "pyarrow")
NAMED = 20  # other files of an uncommitted tree
RECORD, JOURNAL = "record.json", "journal.jsonl"


@dataclass(frozen=True, kw_only=True)
class Input(Stored):
    """A file as a stage read it; its size in bytes."""

    md5: Md5
    size: Count


@dataclass(frozen=True, kw_only=True)
class Device(Stored):
    """What a stage ran on: type as torch has it, the processor's name, CPU threads."""

    type: str
    name: str
    threads: Count


@dataclass(frozen=True, kw_only=True)
class Others(Stored):
    """Changed files of a tree that are no code: their number, and the names of the first."""

    count: Count
    names: list[str]


@dataclass(frozen=True, kw_only=True)
class Tree(Stored):
    """The commit that was checked out, if there was one, and whether the tree differed from it."""

    commit: Commit | None
    dirty: Flag
    others: Others | None = None


@dataclass(frozen=True, kw_only=True)
class Record(Stored):
    """Parameters, inputs, code and machine of one run of a stage.

    Attributes:
        stage: ``train`` or ``evaluate``.
        dataset: The cell's data set.
        setting: Its setting.
        method: Its method.
        params: Resolved parameters.
        inputs: The files that it read, by path.
        versions: Python and packages.
        device: What it ran on.
        code: md5 of each module that it loaded, by path.
        git: The tree that it ran in.
        started: Unix time.
        seconds: How long it ran, interruptions left out.
        peak_memory_mb: Largest resident memory, in MiB.
    """

    stage: str
    params: Mapping[str, Any]
    inputs: Mapping[str, Input]
    versions: Mapping[str, Version]
    device: Device
    code: Mapping[str, Md5]
    git: Tree
    started: Number
    seconds: Number
    peak_memory_mb: Number
    dataset: Name
    setting: Name
    method: Name

    @property
    def ended(self) -> float:
        """Unix time, had it not been interrupted."""
        return self.started + self.seconds

    @property
    def key(self) -> str:
        """Digest of everything that determines the bits that come out."""
        parts = ("params", "inputs", "versions", "device", "code")
        return digest({name: self.written[name] for name in parts})

    def differences(self, other: "Record") -> list[str]:
        """One line for each difference of device, Python or package."""
        pairs = [
            *_pairs(self.device.written, other.device.written),
            *_pairs(self.versions, other.versions),
        ]
        return [f"{name}: {old} on record, {new} now" for name, old, new in pairs if old != new]


@dataclass(frozen=True, kw_only=True)
class TrainingRecord(Record):
    """The record of a training.

    Attributes:
        resumed: Steps after which it was interrupted and went on.
        steps: Outer steps.
        best_step: The one with the best validation accuracy, whose weights the model has.
        episodes_per_s: Training episodes in a second, validation left out.
        parameters: Number of trained parameters.
    """

    resumed: list[Count]
    steps: Count
    best_step: Count
    episodes_per_s: Number
    parameters: Count


@dataclass(frozen=True, kw_only=True)
class Point(Stored):
    """A line of the journal: what was logged after an outer step, and when (Unix time)."""

    step: Count
    time: Number
    metrics: Mapping[str, Real]


def points(content: bytes, where: str) -> list[Point]:
    """Return the points of a journal.

    Raises:
        MetashotError: It is not one; the message names the line.
    """
    lines = enumerate(content.splitlines(), 1)
    return [Point.parse(line, f"line {number} of {where}") for number, line in lines]


R = TypeVar("R", bound=Record)


class Recorder:
    """Collects the record of one stage, from its construction to `save`.

    Args:
        stage: ``train`` or ``evaluate``.
        cell: Data set, setting and method.
        device: What it runs on.
        params: Resolved parameters.
        inputs: The files that it reads.
    """

    def __init__(
        self,
        stage: str,
        cell: tuple[str, str, str],
        device: torch.device,
        params: Mapping[str, Any],
        inputs: Iterable[Path],
    ) -> None:
        started = time.time()
        tree, self.patch = git.state(Path()), b""
        others: Others | None = None
        if tree["commit"] and tree["dirty"]:
            self.patch, names = git.diff(Path())
            others = Others(count=len(names), names=names[:NAMED])
        dataset, setting, method = cell
        self.record = Record(
            stage=stage,
            params=params,
            inputs={str(path): Input(md5=md5(path), size=path.stat().st_size) for path in inputs},
            versions={"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            device=Device(
                type=device.type, name=runtime.device_name(device), threads=torch.get_num_threads()
            ),
            code=code.loaded(),
            git=Tree(commit=tree["commit"], dirty=tree["dirty"], others=others),
            started=started,
            seconds=0.0,
            peak_memory_mb=0.0,
            dataset=dataset,
            setting=setting,
            method=method,
        )

    def ended(self, cls: type[R], **facts: Any) -> R:
        """Return the record of the stage so far, with ``facts`` added."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
        spent = {"seconds": time.time() - self.record.started, "peak_memory_mb": peak}
        return cls(**{**vars(self.record), **spent, **facts})

    def save(self, directory: Path, record: Record, journal: Sequence[Mapping[str, Any]] = ()) -> None:
        """Write record.json, points as journal.jsonl, and uncommitted code as a patch."""
        (directory / RECORD).write_text(record.json)
        if self.patch:
            (directory / git.PATCH).write_bytes(self.patch)
        if journal:
            lines = (json.dumps(point) + "\n" for point in journal)
            (directory / JOURNAL).write_text("".join(lines))


def _pairs(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterable[tuple[str, Any, Any]]:
    return ((name, value, new.get(name)) for name, value in old.items())
