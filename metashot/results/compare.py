"""The methods of one data set and setting side by side, with paired differences and the champion."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq

from metashot.errors import MetashotError
from metashot.formatting import accuracy
from metashot.learning.statistics import Difference, paired
from metashot.lineage import document, lockfile
from metashot.lineage.lockfile import Cell, Lock
from metashot.lineage.metrics import Metrics
from metashot.lineage.origin import DataFacts, marked
from metashot.lineage.record import points
from metashot.results import differences
from metashot.results.decision import Decision, Standing, decision_of, decision_path
from metashot.results.differences import TRAINED, TRAINING_FREE, Gain, Pair

SHARED = ("n_way", "k_shot", "n_query", "episodes", "manifest")  # what compared results have in common
TRANSDUCTIVE = "† transductive: an answer depends on the other queries of its episode"
INCUMBENT = (
    "‡ incumbent: trained earlier, tested again on these episodes; its untrained backbone as tested then"
)
CHOSEN = "the best of each group is chosen by these accuracies, which favours the group with more methods"
KNOWN = "known classes: tested on new samples of the classes that it was trained on"


@dataclass(frozen=True)
class Row:
    """One model's results on the shared test episodes. Accuracies and half widths are fractions.

    `untrained_accuracy` is None where nothing was trained; `features` is the fixed backbone chosen there.
    """

    method: str
    accuracy: float
    ci95: float
    untrained_accuracy: float | None
    untrained_ci95: float | None
    parameters: int
    transductive: bool
    extra: Mapping[str, Mapping[str, float]]
    model: str
    result: str
    incumbent: bool = False  # and of no present training
    group: Literal["trained", "training-free"] = "trained"
    features: str = ""
    pretrained: bool = False  # its samples are vectors of a pretrained encoder

    @property
    def name(self) -> str:
        """The method's name, marked where a current model of the same method may stand beside it."""
        return f"{self.method} (incumbent)" if self.incumbent else self.method

    @property
    def untrained(self) -> str:
        """The accuracy of its untrained backbone as people read it; a dash where nothing was trained."""
        if self.untrained_accuracy is None or self.untrained_ci95 is None:
            return "-"
        return accuracy(self.untrained_accuracy, self.untrained_ci95)

    @property
    def marks(self) -> str:
        """The marks that the footnotes explain."""
        marks = {"†": self.transductive, "‡": self.incumbent, "§": self.pretrained}
        return "".join(mark for mark, applies in marks.items() if applies)

    @property
    def label(self) -> str:
        """The method's name with its marks."""
        return f"{self.method} {self.marks}".rstrip()

    @property
    def on_features(self) -> str:
        """The same with the features where they were chosen: ``ridge on hog §``."""
        return f"{self.method} on {self.features} {self.marks}".rstrip() if self.features else self.label


@dataclass(frozen=True)
class Comparison:
    """The models of one data set and setting, best first, and all their pairs in the same order.

    `gains` holds what meta-training gained, first in the setting itself. It contains no clock times.
    """

    dataset: str
    setting: str
    synthetic: bool
    known_classes: bool
    encoder: str
    kind: str
    n_way: int
    k_shot: int
    n_query: int
    episodes: int
    manifest: str
    rows: list[Row]
    pairs: list[Pair]
    decision: Decision
    gains: list[Gain] = field(default_factory=list)

    @property
    def group(self) -> str:
        """Name of the experiment, the registered model and the report."""
        return f"{self.dataset}-{self.setting}"

    @property
    def data(self) -> str:
        """The data set as people read it, with its marks."""
        mark = "pretrained encoder §" if self.encoder else ""
        return marked(self.dataset, self.synthetic, self.known_classes, mark)

    @property
    def protocol(self) -> str:
        """The protocol as people read it."""
        shape = f"{self.n_way}-way {self.k_shot}-shot"
        return f"{shape}, {self.n_query} queries per class, {self.episodes:,} test episodes"

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        return 1 / self.n_way

    @property
    def footnotes(self) -> list[str]:
        """What the marks of the labels and of the data set mean."""
        marks = {
            KNOWN: self.known_classes,
            TRANSDUCTIVE: any(row.transductive for row in self.rows),
            INCUMBENT: any(row.incumbent for row in self.rows),
            f"§ {self.encoder}": bool(self.encoder),
        }
        return [note for note, used in marks.items() if used]

    @property
    def groups(self) -> dict[str, list[Row]]:
        """The rows of each group that has any, best first."""
        members = {name: [row for row in self.rows if row.group == name] for name in (TRAINED, TRAINING_FREE)}
        return {name: rows for name, rows in members.items() if rows}

    @property
    def headline(self) -> str:
        """What meta-training gained, in a sentence; empty where there is one group only."""
        return next((gain.sentence for gain in self.gains if gain.setting == self.setting), "")

    @property
    def gained(self) -> list[str]:
        """What meta-training gained in this and the further settings, and how far to trust it."""
        further = [f"{gain.setting}: {gain.sentence}" for gain in self.gains if gain.setting != self.setting]
        return [self.headline, *further, CHOSEN] if self.gains else []

    @property
    def gain_metrics(self) -> dict[str, float]:
        """What meta-training gained, as metrics: fractions and half widths, further settings by name."""
        metrics: dict[str, float] = {}
        for gain in self.gains:
            of = "" if gain.setting == self.setting else f"_{gain.setting}"
            metrics |= {f"gain{of}": gain.difference.mean, f"gain_ci95{of}": gain.difference.ci95}
        return metrics

    @property
    def pair_notes(self) -> list[str]:
        """What the columns of the paired differences mean."""
        return [
            "difference: points, with 95 % interval; p: corrected for all pairs (Holm)",
            f"needed: episodes to tell the two apart (5 %, power 80 %); {self.episodes:,} there",
        ]

    @property
    def champion(self) -> Row | None:
        """The row of the champion."""
        return self.row(self.decision.champion)

    @property
    def leads(self) -> list[tuple[Row, Pair]]:
        """Every row but the best, and the best's lead over it."""
        return list(zip(self.rows[1:], self.pairs, strict=False))  # the best's pairs come first

    def row(self, standing: Standing | None) -> Row | None:
        """The row of a model that the decision names."""
        return next((row for row in self.rows if standing and row.model == standing.model), None)

    @cached_property
    def json(self) -> str:
        """The report file: the same text for the same results."""
        return json.dumps({**asdict(self), "chance": self.chance}, indent=2, sort_keys=True) + "\n"


def results(lock: Lock, dataset: str, setting: str, methods: Sequence[str]) -> list[tuple[Cell, Metrics]]:
    """Return the evaluated cells of a data set and setting, each with its metrics.

    Raises:
        MetashotError: Nothing was evaluated, a result is not in the workspace, or the methods were not tested
            on the same episodes.
    """
    evaluated = [(cell, document.metrics(lock, cell)) for cell in lock.cells(dataset, setting, methods)]
    (first, shared), *others = evaluated
    for key in SHARED:
        for cell, metrics in others:
            if getattr(metrics, key) != getattr(shared, key):
                raise MetashotError(
                    f"{cell.method} and {first.method} were not tested on the same episodes of {cell.group} "
                    f"({key} differs): run `dvc repro register@{cell.group}`"
                )
    return evaluated


def compare(lock: Lock, dataset: str, setting: str, methods: Sequence[str]) -> Comparison:
    """Read the results of the evaluated methods of a data set and setting, and the gate's decision on them.

    Raises:
        MetashotError: As `results`, or the gate has not judged these results.
    """
    evaluated = results(lock, dataset, setting, methods)
    group, shared = f"{dataset}-{setting}", _shared(evaluated[0][1])
    decision = decision_of(lock, group)
    judged = {cell.method: cell.weights for cell, _ in evaluated}
    if (decision.judged, decision.manifest) != (judged, shared["manifest"]):
        raise MetashotError(f"the gate judged earlier results of {group}: run `dvc repro register@{group}`")
    samples = lock.file(lock.entries[f"preprocess@{dataset}"], f"data/processed/{dataset}.parquet")
    about = DataFacts.read(samples)
    rows = [_row(lock, cell, metrics) for cell, metrics in evaluated]
    if (incumbent := decision.incumbent) and incumbent.model not in judged.values():
        kept, cell = _kept(lock, dataset, setting, incumbent.model)
        then = _row(kept, cell, document.metrics(kept, cell))
        rows.append(replace(then, accuracy=incumbent.accuracy, ci95=incumbent.ci95, incumbent=True))
    rows = [replace(row, pretrained=about.encoder is not None) for row in rows]
    rows.sort(key=lambda row: (-row.accuracy, row.name))
    answered = {cell.method: accuracies(lock, cell) for cell, _ in evaluated}
    pairs = differences.pairs(rows, answered, decision.retested)
    gains = differences.gain(setting, rows, pairs)
    for name in dict.fromkeys(name for _, metrics in evaluated for name in metrics.extra):
        gains += differences.gain_in(name, rows, _answered(lock, name, evaluated))
    return Comparison(
        dataset,
        setting,
        about.synthetic,
        about.known_classes,
        about.encoder.mark if about.encoder else "",
        about.kind,
        **shared,
        rows=rows,
        pairs=pairs,
        decision=decision,
        gains=gains,
    )


def pair(first: tuple[Lock, Cell], second: tuple[Lock, Cell]) -> Difference:
    """Compare two models that were tested on the same episodes, possibly from different trainings.

    Returns:
        First minus second.

    Raises:
        MetashotError: They were not, and why; or files are missing or not those that the locks name.
    """
    one, other = first[1], second[1]
    names = " and ".join(f"{cell.group}/{cell.method} ({cell.result[:8]})" for cell in (one, other))
    if one.group != other.group:
        raise MetashotError(
            f"{names} are of different data sets or settings: name two models of one data set and setting"
        )
    if _data(one) != _data(other):
        raise MetashotError(
            f"{names} were tested on different samples of {one.dataset}: "
            f"make both with the same data.{one.dataset} in params.yaml"
        )
    if _shared(document.metrics(*first)) != _shared(document.metrics(*second)):
        raise MetashotError(
            f"{names} were tested on different episodes: evaluate both with the same seed and "
            f"setting.{one.setting} in params.yaml"
        )
    return paired(accuracies(*first), accuracies(*second))


def accuracies(lock: Lock, cell: Cell) -> np.ndarray:
    """Return a cell's accuracy ``[E]`` in each test episode of its own setting, as fractions.

    Raises:
        MetashotError: The evaluation's counts are missing, or not those that the lock names.
    """
    return counted(lock.file(cell.evaluate, cell.episodes), cell.setting)


def counted(path: Path, setting: str) -> np.ndarray:
    """Return the accuracy ``[E]`` in each test episode of a setting, from an evaluation's file of counts."""
    table = pq.read_table(path, filters=[("setting", "==", setting)]).sort_by("episode")
    return np.asarray(table["correct"].to_numpy() / table["queries"].to_numpy())


def sources(lock: Lock, comparison: Comparison) -> dict[str, tuple[Lock, Cell]]:
    """Return what each row was read from, by the row's name."""
    where = comparison.dataset, comparison.setting
    return {
        row.name: _kept(lock, *where, row.model) if row.incumbent else (lock, lock.cell(*where, row.method))
        for row in comparison.rows
    }


def curves(lock: Lock, comparison: Comparison) -> dict[str, list[tuple[float, float]]]:
    """Return each method's learning curve: minutes since its training began, and validation accuracy.

    Time in which a training was interrupted counts too.

    Raises:
        MetashotError: Files that the lock names are missing.
    """
    curves = {}
    for name, (source, cell) in sources(lock, comparison).items():
        started = document.training(source, cell).started
        curves[name] = [
            ((point.time - started) / 60, point.metrics["val_accuracy"])
            for point in points(source.file(cell.train, cell.journal).read_bytes(), cell.journal)
            if "val_accuracy" in point.metrics
        ]
    return curves


def train_seconds(lock: Lock, comparison: Comparison) -> dict[str, float]:
    """Return the seconds that the training of each row took, by the row's name."""
    return {
        name: document.training(source, cell).seconds
        for name, (source, cell) in sources(lock, comparison).items()
    }


def _kept(lock: Lock, dataset: str, setting: str, model: str) -> tuple[Lock, Cell]:
    """The adopted champion with this model."""
    for kept, cell in reversed(lockfile.adopted(lock.root, dataset, setting)):
        if cell.weights == model:
            return kept, cell
    group = f"{dataset}-{setting}"
    raise MetashotError(
        f"{lockfile.CHAMPIONS}/{group} has no longer the incumbent of {decision_path(group)}: "
        f"run `dvc repro register@{group}`"
    )


def _data(cell: Cell) -> str:
    """DVC's digest of the samples that a cell was tested on."""
    path = f"data/processed/{cell.dataset}.parquet"
    return next(str(dep["md5"]) for dep in cell.evaluate.deps if dep["path"] == path)


def _answered(lock: Lock, name: str, evaluated: Sequence[tuple[Cell, Metrics]]) -> dict[str, np.ndarray]:
    """Accuracy in each test episode of a further setting, by method; nothing unless all met the same ones."""
    cells = [cell for cell, metrics in evaluated if name in metrics.extra]
    drawn = {
        str([dep["md5"] for dep in cell.evaluate.deps if dep["path"].startswith("data/episodes/")])
        for cell in cells
    }
    if len(drawn) > 1:
        return {}
    counts = {cell.method: counted(lock.file(cell.evaluate, cell.episodes), name) for cell in cells}
    return {method: accuracies for method, accuracies in counts.items() if len(accuracies)}


def _shared(metrics: Metrics) -> dict[str, Any]:
    return {key: getattr(metrics, key) for key in SHARED}


def _row(lock: Lock, cell: Cell, metrics: Metrics) -> Row:
    trained = metrics.untrained is not None
    return Row(
        method=cell.method,
        accuracy=metrics.accuracy,
        ci95=metrics.ci95,
        untrained_accuracy=metrics.untrained.accuracy if metrics.untrained else None,
        untrained_ci95=metrics.untrained.ci95 if metrics.untrained else None,
        parameters=metrics.parameters,
        transductive=metrics.transductive,
        extra={name: measured.written for name, measured in metrics.extra.items()},
        model=cell.weights,
        result=cell.result,
        group="trained" if trained else "training-free",
        features="" if trained else str(document.training(lock, cell).params["backbone"]["name"]),
    )
