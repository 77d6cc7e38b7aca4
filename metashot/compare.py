"""All methods of one data set and setting side by side, and which of them is champion."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from metashot.errors import MetashotError
from metashot.files import replacing
from metashot.lineage import Cell, Lock, digest

TRANSDUCTIVE = "† transductive: an answer depends on the other queries of its episode"


@dataclass(frozen=True)
class Row:
    """One method's results on the shared test episodes. Accuracies and half widths are fractions."""

    method: str
    accuracy: float
    ci95: float
    untrained_accuracy: float
    untrained_ci95: float
    parameters: int
    transductive: bool
    extra: Mapping[str, Mapping[str, float]]
    result: str

    @property
    def label(self) -> str:
        """The method's name, with the dagger that TRANSDUCTIVE explains where it needs it."""
        return f"{self.method} †" if self.transductive else self.method


@dataclass(frozen=True)
class Decision:
    """Which method is champion, if any, and why."""

    champion: str | None
    reasons: list[str]


@dataclass(frozen=True)
class Comparison:
    """The methods of one data set and setting, best first, with nothing in it that a clock could change."""

    dataset: str
    setting: str
    synthetic: bool
    n_way: int
    k_shot: int
    n_query: int
    episodes: int
    manifest: str
    rows: list[Row]
    decision: Decision

    @property
    def group(self) -> str:
        """Name of the experiment, the registered model and the report."""
        return f"{self.dataset}-{self.setting}"

    @property
    def data(self) -> str:
        """The data set as people read it, saying so where it is synthetic."""
        return f"{self.dataset} (synthetic data)" if self.synthetic else self.dataset

    @property
    def protocol(self) -> str:
        """The protocol as people read it."""
        shape = f"{self.n_way}-way {self.k_shot}-shot"
        return f"{shape}, {self.n_query} queries per class, {self.episodes:,} test episodes"

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        return 1 / self.n_way

    @cached_property
    def json(self) -> str:
        """The report file: the same text for the same results."""
        return json.dumps({**asdict(self), "chance": self.chance}, indent=2, sort_keys=True) + "\n"

    @property
    def digest(self) -> str:
        """Digest of the whole comparison."""
        return digest(self.json)


def compare(lock: Lock, dataset: str, setting: str, methods: Sequence[str]) -> Comparison:
    """Read the results of the evaluated methods of a data set and setting.

    Raises:
        MetashotError: Nothing was evaluated, a result is not in the workspace, or the methods were not tested
            on the same episodes.
    """
    from metashot.data import store  # torch is slow to import

    cells = lock.cells(dataset, setting, methods)
    metrics = {cell.method: json.loads(lock.file(cell.evaluate, cell.metrics).read_text()) for cell in cells}
    first, *others = metrics
    for key in ("manifest", "episodes", "n_way", "k_shot", "n_query"):
        for method in others:
            if metrics[method][key] != metrics[first][key]:
                raise MetashotError(
                    f"{method} and {first} were not tested on the same episodes of {dataset}-{setting} "
                    f"({key} differs): run `dvc repro register@{dataset}-{setting}`"
                )
    rows = sorted(
        (_row(cell, metrics[cell.method]) for cell in cells), key=lambda row: (-row.accuracy, row.method)
    )
    shape = {key: metrics[first][key] for key in ("n_way", "k_shot", "n_query", "episodes", "manifest")}
    synthetic = bool(store.about(lock.root / f"data/processed/{dataset}.parquet")["synthetic"])
    return Comparison(dataset, setting, synthetic, **shape, rows=rows, decision=decide(rows, shape["n_way"]))


def decide(rows: Sequence[Row], n_way: int) -> Decision:
    """Name the champion: the highest mean accuracy whose 95 % interval lies above chance.

    Args:
        rows: The methods, best first.
        n_way: Classes per episode, so chance is 1/n_way.
    """
    chance, reasons = 1 / n_way, []
    for row in rows:
        result = f"{row.method}: {accuracy(row.accuracy, row.ci95)}"
        if row.accuracy - row.ci95 > chance:
            reasons.append(f"{result} is the highest mean with its 95 % interval above chance ({chance:.1%})")
            return Decision(row.method, reasons)
        reasons.append(f"{result} is not above chance ({chance:.1%}) with 95 % confidence")
    return Decision(None, reasons)


def accuracy(mean: float, ci95: float) -> str:
    """Return an accuracy and its 95 % interval as people read it: ``97.12 ± 0.31 %``."""
    return f"{100 * mean:.2f} ± {100 * ci95:.2f} %"


def train_seconds(lock: Lock, comparison: Comparison) -> dict[str, float]:
    """Return how long each method's training took, as its record says."""
    cells = lock.cells(comparison.dataset, comparison.setting, [row.method for row in comparison.rows])
    records = {c.method: json.loads(lock.file(c.train, c.train_record).read_text()) for c in cells}
    return {method: float(record["seconds"]) for method, record in records.items()}


def table(comparison: Comparison, seconds: Mapping[str, float], versions: Mapping[str, int]) -> Table:
    """Return the comparison for a terminal.

    Args:
        comparison: The methods.
        seconds: Training time of each method.
        versions: The registered model version of each method that has one.
    """
    title = f"{comparison.data}: {comparison.protocol}"
    # 80 columns hold the widest values; narrower ones are spread over them
    view = Table(title=title, title_justify="left", box=box.HORIZONTALS, padding=0, min_width=80)
    notes = list(comparison.decision.reasons)
    if any(row.transductive for row in comparison.rows):
        notes.append(TRANSDUCTIVE)
    view.caption, view.caption_justify = "\n".join(notes), "left"
    view.add_column("method", no_wrap=True)
    for column in ("accuracy", "untrained", "train time", "parameters", "model"):
        view.add_column(column, justify="right", no_wrap=True)
    for row in comparison.rows:
        champion = row.method == comparison.decision.champion
        view.add_row(
            row.label + (" ★" if champion else ""),
            accuracy(row.accuracy, row.ci95),
            accuracy(row.untrained_accuracy, row.untrained_ci95),
            duration(seconds[row.method]),
            f"{row.parameters:,}",
            f"v{versions[row.method]}" if row.method in versions else "-",
            style="bold" if champion else None,
        )
    return view


def duration(seconds: float) -> str:
    """Return a time span as people read it: ``41 s``, ``3 min 05 s``, ``2 h 05 min``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def write_report(comparison: Comparison, folder: Path) -> None:
    """Write ``<data set>-<setting>.json`` and ``.png`` into a folder, each whole or not at all."""
    from metashot.plots import comparison_plot  # matplotlib is slow to import

    for suffix, data in {"json": comparison.json.encode(), "png": comparison_plot(comparison)}.items():
        with replacing(folder / f"{comparison.group}.{suffix}") as partial:
            partial.write_bytes(data)


def _row(cell: Cell, metrics: Mapping[str, Any]) -> Row:
    return Row(
        method=cell.method,
        accuracy=metrics["accuracy"],
        ci95=metrics["ci95"],
        untrained_accuracy=metrics["untrained"]["accuracy"],
        untrained_ci95=metrics["untrained"]["ci95"],
        parameters=metrics["parameters"],
        transductive=metrics["transductive"],
        extra=metrics["extra"],
        result=cell.result,
    )
