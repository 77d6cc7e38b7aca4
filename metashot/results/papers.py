"""Measured accuracies beside those of the papers, as a Markdown page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from metashot.formatting import duration
from metashot.lineage import lockfile
from metashot.lineage.document import Document
from metashot.lineage.lockfile import Lock
from metashot.lineage.metrics import Measured
from metashot.results import compare
from metashot.results.compare import Comparison, Row

Result = tuple[Row, Document]
Shape = tuple[int, int]  # N-way, K-shot


@dataclass(frozen=True)
class Reported:
    """A paper's accuracies for a method, in percent by shape, with the reference."""

    source: str
    accuracies: Mapping[Shape, float]


def _omniglot(source: str, *accuracies: float) -> Reported:
    shapes = ((5, 1), (5, 5), (20, 1), (20, 5))
    return Reported(source, dict(zip(shapes, accuracies, strict=True)))


def _cifar_fs(one_shot: float, five_shot: float) -> Reported:
    return Reported("Bertinetto et al. 2019, arXiv:1805.08136", {(5, 1): one_shot, (5, 5): five_shot})


PAPER = "_paper"  # what a data set ends with that is the one before it, trained for longer
TRANSDUCTIVE = " (transductive)"  # a method whose published number depends on it has both
PUBLISHED: Mapping[str, Mapping[str, Reported]] = {
    "omniglot": {
        "siamese": _omniglot(
            "Koch's network in table 1 of Finn et al. 2017, arXiv:1703.03400", 97.3, 98.4, 88.2, 97.0
        ),
        "matching": _omniglot("table 1 of Vinyals et al. 2016, arXiv:1606.04080", 98.1, 98.9, 93.8, 98.5),
        "prototypical": _omniglot("table 1 of Snell et al. 2017, arXiv:1703.05175", 98.8, 99.7, 96.0, 98.9),
        "maml": _omniglot("table 1 of Finn et al. 2017, arXiv:1703.03400", 98.7, 99.9, 95.8, 98.9),
        "reptile": _omniglot("table 2 of Nichol et al. 2018, arXiv:1803.02999", 95.4, 98.9, 88.1, 96.7),
        f"reptile{TRANSDUCTIVE}": _omniglot(
            "table 2 of Nichol et al. 2018, arXiv:1803.02999", 97.7, 99.5, 89.4, 97.1
        ),
    },
    "cifar_fs": {"prototypical": _cifar_fs(55.5, 72.0), "maml": _cifar_fs(58.9, 71.5)},
}
DIFFERENCES: Mapping[str, Sequence[str]] = {
    "omniglot": (
        "The papers train on 1,200 characters and test on the 423 others, not all on the same ones. With "
        "`split: vinyals` the 423 are those of Vinyals et al., and 172 of the 1,200 are kept for validation.",
        "Turned characters are classes of their own in training and test, as in the papers.",
        "Finn et al. take 60,000 outer steps of 32 tasks, Nichol et al. 100,000 of 5; those taken here are "
        "in the table of trainings.",
        "MAML normalises queries by the statistics of all queries together, as its published code does; its "
        "answers are transductive (†). The embedding methods use running statistics here.",
        "All methods train on 60-way one-shot episodes here, as the prototypical networks of Snell et al. "
        "do, and are tested with other ways and shots by the same model.",
    ),
    "cifar_fs": (
        "15 pictures that are in two splits under other classes are taken out of training and validation.",
        "Prototypical networks train on 60-way episodes of one shot here, for a few thousand steps, and are "
        "tested with one and five shots by the same model; the paper trains one for each, to convergence.",
        "MAML trains on 60-way episodes of one shot here, and is tested with one and five shots by the same "
        "model; its classifier starts from zero, and its answers are transductive (†).",
    ),
}


def page(root: Path) -> str:
    """Return the page: measured and published accuracies for every data set and setting.

    Raises:
        MetashotError: Nothing was evaluated, or files that dvc.lock names are missing.
    """
    lock, listed = Lock(root), lockfile.listed(root, "methods")
    parts = [
        "# Results",
        "Made by `metashot results` from what dvc.lock names; do not edit. Accuracies in percent with their "
        "95 % intervals over test episodes; one training, one seed each.",
    ]
    for dataset, setting in lockfile.finished(lock):
        comparison = compare.compare(lock, dataset, setting, listed)
        shown = {
            row.method: (row, Document.of_cell(lock, lock.cell(dataset, setting, row.method)))
            for rows in comparison.groups.values()
            for row in rows
            if not row.incumbent
        }
        parts += [f"## {comparison.data}, trained for {setting}", *_tables(comparison, list(shown.values()))]
        notes = [*comparison.gained[-1:], *comparison.footnotes]
        parts.append(_trainings(list(shown.values())))
        parts += [f"{note[0].upper()}{note[1:]}." for note in notes if note != compare.INCUMBENT]
        benchmark = dataset.removesuffix(PAPER)
        if benchmark in DIFFERENCES:
            parts.append("Where the protocol differs from the papers:")
            parts.append("\n".join(f"- {line}" for line in DIFFERENCES[benchmark]))
    return "\n\n".join(parts) + "\n"


def _tables(comparison: Comparison, results: Sequence[Result]) -> list[str]:
    """A table for each shape that was tested, and what meta-training gained in it."""
    published = PUBLISHED.get(comparison.dataset.removesuffix(PAPER), {})
    gained = {gain.setting: f"{gain.sentence[0].upper()}{gain.sentence[1:]}." for gain in comparison.gains}
    measured: dict[Shape, list[tuple[Result, Measured]]] = {}
    settings: dict[Shape, list[str]] = {}
    for row, document in results:
        own, setting = document.metrics, document.setting
        evaluated = document.stages[document.address("evaluate")]
        extras = evaluated.params["params.yaml"][f"setting.{setting}.extra"]
        shapes = {name: (extras[name]["n_way"], extras[name]["k_shot"]) for name in own.extra}
        for name, shape in {setting: (own.n_way, own.k_shot), **shapes}.items():
            measured.setdefault(shape, []).append(((row, document), own.extra.get(name, own)))
            if name not in settings.setdefault(shape, []):
                settings[shape].append(name)
    parts = []
    for shape, tested in measured.items():
        lines = [
            f"| {shape[0]}-way {shape[1]}-shot | accuracy | episodes | published | difference | by |",
            "|:--|--:|--:|--:|--:|:--|",
        ]
        for group in comparison.groups:
            if len(comparison.groups) > 1:
                lines.append(f"| *{group}* | | | | | |")
            members = [(row, value) for (row, _), value in tested if row.group == group]
            for row, value in sorted(members, key=lambda member: -member[1].accuracy):
                beside = _published(published, row, value, shape)
                lines.append(f"| {row.on_features} | {value.shown} | {value.episodes:,} | {beside} |")
        parts += ["\n".join(lines), *(gained[name] for name in settings[shape] if name in gained)]
    return parts


def _published(published: Mapping[str, Reported], row: Row, measured: Measured, shape: Shape) -> str:
    """Three cells of a table: what a paper reports, how far it is from there, and which paper."""
    paper = published.get(f"{row.method}{TRANSDUCTIVE}") if row.transductive else None
    paper = paper or published.get(row.method)
    reported = paper.accuracies.get(shape) if paper else None
    if not (paper and reported):
        return "| |"
    difference = round(100 * measured.accuracy - reported, 1) + 0.0
    return f"{reported:.1f} | {difference:+.1f} | {paper.source}"


def _trainings(results: Sequence[Result]) -> str:
    """How each was made."""
    lines = [
        "| training | outer steps | episodes a step | took | on | commit | result |",
        "|:--|--:|--:|--:|:--|:--|:--|",
    ]
    for _, document in results:
        trained = document.training
        commit = (trained.git.commit or "none")[:10] + (" (changed)" if trained.git.dirty else "")
        device, batch = trained.device, trained.params["method"].get("meta_batch", "")
        took, on = duration(trained.seconds), f"{device.name}, {device.threads} threads"
        lines.append(
            f"| {document.method} | {trained.steps:,} | {batch} | {took} | {on} | {commit} | "
            f"{document.result[:12]} |"
        )
    return "\n".join(lines)
