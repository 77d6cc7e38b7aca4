"""Proposal of parameters for inspected data: their division, and a setting that fits."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from metashot.config import check, edit, params
from metashot.data import Item, Key
from metashot.data.files import division, folders, split_lists
from metashot.data.preprocess import unfit
from metashot.errors import SHOWN, MetashotError
from metashot.files import replacing
from metashot.onboard import inspect, settings
from metashot.onboard.inspect import Inspection
from metashot.onboard.inspectors.base import Chooser

SEEDS = 200  # tried to find a draw of classes close to the shares
BUDGET: Mapping[str, int] = {"maml": 150, "reptile": 400, "transfer": 300}
STEPS = 200  # outer steps of the other methods
LR = 1e-4  # of trainings that start from an encoder's features: with more they forget what it knows
GROUPS = 10  # of duplicates in a warning


@dataclass(frozen=True)
class Proposal:
    """The proposed parameters of a data set.

    Attributes:
        inspection: The data.
        name: Name of the data set.
        division: The key ``prepare.split``.
        splits: Split of every sample, by path.
        repeated: The key ``prepare.repeated``.
        sizes: Number of samples by split and class, without those to be removed from a split.
        setting: Name of the N-way K-shot setting.
        new_setting: That setting, unless it is in params.yaml already.
        mistakes: Reasons why the pipeline would fail, one line each.
        chosen: Keys of ``prepare`` that validation episodes chose.
        tried: Rows for the user about that.
    """

    inspection: Inspection
    name: str
    division: division.Division
    splits: Mapping[str, str]
    repeated: Literal["refuse", "remove"]
    sizes: Mapping[str, Counter[str]]
    setting: str
    new_setting: params.Setting | None
    mistakes: Sequence[str]
    chosen: Mapping[str, Any] = field(default_factory=dict)
    tried: Mapping[str, str] = field(default_factory=dict)

    @property
    def known_classes(self) -> bool:
        """Whether training and test share their classes."""
        return bool(self.splits) and self.division != "listed" and self.division.of == "samples"

    @property
    def detected(self) -> dict[str, Any]:
        """Keys of ``prepare`` that follow from the data, and are updated in an existing section."""
        split = self.division if self.division == "listed" else asdict(self.division)
        return {**self.inspection.prepare, "repeated": self.repeated, "split": split}

    def section(self, methods: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The section ``data.<name>`` of params.yaml.

        Args:
            methods: The sections ``method.<method>`` of the methods to compare.
        """
        inspector = self.inspection.inspector
        defaults = inspector.defaults(self.inspection.prepare)
        return {
            "source": inspector.source,
            "raw": {**self.inspection.gathered.raw, "md5": self.inspection.md5},
            "prepare": {**self.detected, **defaults.pop("prepare"), **self.chosen},
            **defaults,
            "budget": {
                method: _budget(method, hyper, defaults["backbone"]["name"])
                for method, hyper in methods.items()
            },
        }


def _budget(method: str, hyper: Mapping[str, Any], backbone: str) -> int | dict[str, Any]:
    """The budget of a method on a backbone."""
    if params.maker(hyper) == "choosing":
        return 0
    steps = BUDGET.get(method, STEPS)
    return {"steps": steps, "lr": LR} if backbone == "dense" else steps


def name_of(folder: Path) -> str:
    """Name of a data set, from the name of its folder, zip file or table."""
    name = re.sub(r"\.(zip|csv|tsv|jsonl?|ndjson|parquet)$", "", folder.absolute().name, flags=re.IGNORECASE)
    words = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_")
    return words if words[:1].isalpha() else f"data_{words}".rstrip("_")


def init(root: Path, raw: folders.Raw, name: str) -> Proposal:
    """Inspect data and propose parameters; nothing is written.

    Args:
        root: The repository.
        raw: Path, lists of splits and label pattern of the data; ``md5`` is ignored.
        name: Name of the data set; its section in params.yaml may exist already.

    Raises:
        MetashotError: Nothing is at the path, or params.yaml is invalid or has other data of that name.
    """
    path = root / "params.yaml"
    check.check(path)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise MetashotError(f"--name {name}: needs a letter, and after it letters, digits and _ only")
    file: params.File = params.read(path, "", params.File)
    known = file.data.get(name)
    if known and known.raw.get("path") != raw.path:
        raise MetashotError(
            f"params.yaml: data.{name} describes other data ({known.raw.get('path') or known.source}): "
            "give these another name with --name"
        )
    try:
        raw.path.encode()
    except UnicodeEncodeError:
        raise MetashotError(f"{raw.path!a}: its name is not UTF-8: rename it") from None
    if known and not raw.splits:
        raw = replace(raw, splits=known.raw.get("splits", ""))
    inspection = inspect.inspect(raw, root, asdict(known) if known else None)
    return _propose(file, inspection, name, known)


def write(root: Path, proposal: Proposal) -> None:
    """Write the data set and its setting to params.yaml.

    In an existing section only detected keys are updated: backbone, augmentation and budgets stay as they
    are, and so do the lists of what a run makes.

    Raises:
        MetashotError: The text of params.yaml cannot be edited.
    """
    path, name = root / "params.yaml", proposal.name
    file: params.File = params.read(path, "", params.File)
    text = path.read_bytes().decode()
    section = proposal.section({method: file.method[method] for method in file.methods})
    if known := file.data.get(name):
        for part, values in {"raw": section["raw"], "prepare": proposal.detected}.items():
            for key, value in values.items():
                text = edit.edited(text, f"data.{name}.{part}.{key}", value)
        for method, steps in section["budget"].items():
            if method not in known.budget:
                text = edit.edited(text, f"data.{name}.budget.{method}", steps)
    else:
        text = edit.edited(text, f"data.{name}", section)
    if proposal.new_setting:
        text = edit.edited(text, f"setting.{proposal.setting}", asdict(proposal.new_setting))
    with replacing(path) as partial:
        partial.write_bytes(text.encode())
        try:
            check.check(partial)
        except MetashotError as error:
            raise MetashotError(str(error).replace(str(partial), str(path))) from None


def summary(proposal: Proposal) -> dict[str, str]:
    """Rows for the user about the data and their division: name and value."""
    inspection = proposal.inspection
    rows = inspect.summary(inspection)
    if inspection.samples:
        rows["duplicates"] = _count_duplicates(inspection.duplicates, proposal.splits)
        rows["near duplicates"] = _count_duplicates(inspection.near_duplicates, proposal.splits)
    if proposal.splits:
        sizes = {split: len(proposal.sizes[split]) for split in split_lists.SPLITS}
        counts = " / ".join(f"{count:,}" for count in sizes.values())
        basis = "by lists" if proposal.division == "listed" else f"of {proposal.division.of}"
        rows["split"] = f"{basis}: {counts} classes for training / validation / test"
        n_way, smallest = settings.max_way(proposal.sizes), settings.smallest_class(proposal.sizes)
        if n_way and smallest > 1:
            queries = min(settings.QUERIES, smallest - 1)
            rows["supports"] = (
                f"up to {n_way}-way {smallest - queries}-shot with {queries} queries of each class"
            )
    return rows | dict(proposal.tried)


def warnings(proposal: Proposal) -> list[str]:
    """What the user should know before training, one line each."""
    inspection, splits = proposal.inspection, proposal.splits
    lines = inspect.warnings(inspection)
    for finding, groups in {
        "the same sample in several classes": _across_classes(inspection.duplicates),
        "the same sample in two splits, removed from training or validation (repeated: remove)": (
            _across_splits(inspection.duplicates, splits)
        ),
        "nearly the same sample in two splits, which stays": (
            _across_splits(inspection.near_duplicates, splits)
        ),
    }.items():
        if groups:
            lines.append(f"{finding}: {len(groups):,} ({_list_groups(inspection, groups)})")
    if proposal.known_classes:
        lines.append(
            f"{len(inspection.class_sizes)} classes are too few for splits with classes of their own (3 x "
            f"{settings.WAY}): the samples are divided (split: {{of: samples}}), and results are about known "
            "classes"
        )
    return lines


def _propose(file: params.File, inspection: Inspection, name: str, known: params.DataSet | None) -> Proposal:
    mistakes = [*inspection.contents.mistakes, *inspection.unreadable]
    split, items = _divide(inspection, known, mistakes)
    splits = {item.origin: item.key.split for item in items}
    repeated: Literal["refuse", "remove"] = "refuse"
    removed: set[str] = set()
    for names in inspection.duplicates if splits else ():
        first = min(splits[n] for n in names)  # preprocessing goes through the splits in alphabetical order
        removed.update(n for n in names if splits[n] != first)
    if removed:
        repeated = "remove"
    sizes: dict[str, Counter[str]] = {split: Counter() for split in split_lists.SPLITS}
    for item in items:
        sizes[item.key.split][item.key.path] += item.origin not in removed
    if items:
        disjoint = split == "listed" or split.of == "classes"
        counts = {(split_, class_): n for split_, classes in sizes.items() for class_, n in classes.items()}
        mend = ": mend what lists the splits, or leave it out" if split == "listed" else ""
        lines = unfit(counts, disjoint, removed=bool(removed))
        mistakes += [f"{inspection.raw.path}: {line}{mend}" for line in lines]
    setting, new_setting = "", None
    if items and not mistakes:
        if settings.max_way(sizes) < 2:
            mistakes.append(f"{inspection.raw.path}: a split has fewer than 2 classes: add some")
        else:
            setting, new_setting = settings.choose(file, name, sizes, known is not None)
    proposal = Proposal(inspection, name, split, splits, repeated, sizes, setting, new_setting, mistakes)
    return proposal if mistakes or known else _with_choices(proposal)


def _with_choices(proposal: Proposal) -> Proposal:
    """Add what validation episodes choose."""
    inspection, sizes = proposal.inspection, proposal.sizes
    if not (isinstance(inspection.inspector, Chooser) and proposal.splits):
        return proposal
    n_way = min(settings.WAY, settings.max_way(sizes))
    n_query = min(settings.QUERIES, min(sizes["val"].values()) - 1)
    chosen, tried = inspection.inspector.chosen(
        inspection.gathered, inspection.prepare, proposal.splits, n_way, n_query
    )
    return replace(proposal, chosen=chosen, tried=tried)


def _divide(
    inspection: Inspection, known: params.DataSet | None, mistakes: list[str]
) -> tuple[division.Division, list[Item]]:
    """The key ``prepare.split``, and an item with a split for each sample; no items in case of mistakes."""
    items = []
    for path in inspection.samples:
        parts = path.split("/")
        *split, superclass, class_, name = parts if len(parts) > 2 else [split_lists.ALL, *parts]
        items.append(Item(Key("".join(split), superclass, class_, name), bytes, path))
    if inspection.gathered.listed:
        return "listed", items
    classes = {item.key.path for item in items}
    shares = _propose_shares(classes)
    if known and isinstance(section := known.prepare.get("split"), Mapping):
        previous = division.Shares(**section)
        if previous.of == shares.of and (previous.of == "samples" or _leaves_two_classes(previous, classes)):
            shares = previous  # classes keep their split when the data set grows
    if len(classes) < 2:
        return shares, []
    try:
        return shares, division.divide(items, shares)
    except MetashotError as error:
        mistakes.append(f"{inspection.raw.path}: {error}")
        return shares, []


def _propose_shares(classes: set[str]) -> division.Shares:
    """Shares and seed that give every split enough classes for an episode; of samples for few classes."""
    total = len(classes)
    if total < 3 * settings.WAY:
        return division.Shares(of="samples", seed=0, val=0.15, test=0.25)
    n_val, n_test = max(settings.WAY, round(0.15 * total)), max(settings.WAY, round(0.25 * total))
    target = division.Shares(of="classes", seed=0, val=round(n_val / total, 2), test=round(n_test / total, 2))
    best, least = target, total
    for seed in range(SEEDS):
        candidate = replace(target, seed=seed)
        counts = _classes_per_split(candidate, classes)
        deviation = abs(counts["val"] - n_val) + abs(counts["test"] - n_test)
        if deviation < least and min(counts.values()) >= settings.WAY:
            best, least = candidate, deviation
        if least <= total // 50:
            break
    return best


def _leaves_two_classes(shares: division.Shares, classes: set[str]) -> bool:
    return min(_classes_per_split(shares, classes).values()) >= 2


def _classes_per_split(shares: division.Shares, classes: set[str]) -> Mapping[str, int]:
    counts = Counter(division.split_of(shares, class_) for class_ in classes)
    return {split: counts[split] for split in split_lists.SPLITS}


def _across_classes(groups: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """Groups of duplicates that are in several classes."""
    return [names for names in groups if len({_class(name) for name in names}) > 1]


def _across_splits(groups: Sequence[Sequence[str]], splits: Mapping[str, str]) -> list[Sequence[str]]:
    """Groups of duplicates that are in several splits."""
    return [names for names in groups if len({splits.get(name) for name in names}) > 1]


def _count_duplicates(groups: Sequence[Sequence[str]], splits: Mapping[str, str]) -> str:
    """Number of groups within and across classes and splits, for the user."""
    across_classes, across_splits = len(_across_classes(groups)), len(_across_splits(groups, splits))
    return (
        f"{len(groups) - across_classes:,} within a class, {across_classes:,} across classes, "
        f"{across_splits:,} of them across splits"
    )


def _list_groups(inspection: Inspection, groups: Sequence[Sequence[str]]) -> str:
    listed = "; ".join(_list_group(inspection, names) for names in groups[:GROUPS])
    return f"{listed}{f'; and {len(groups) - GROUPS:,} more' if len(groups) > GROUPS else ''}"


def _list_group(inspection: Inspection, names: Sequence[str]) -> str:
    """A group of duplicates: the first of each class if there are several, and the number of the others."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(_class(name), name)
    listed = [*(first.values() if len(first) > 1 else names)][:SHOWN]
    more = len(names) - len(listed)
    return " = ".join([*map(inspection.shown, listed), *([f"{more:,} more"] if more else [])])


def _class(name: str) -> str:
    return name.rpartition("/")[0]
