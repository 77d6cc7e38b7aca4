"""What to write into params.yaml for data that were looked at: their division, and a setting that fits."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from metashot.config import check, edit, params
from metashot.data import Item, Key
from metashot.data.files import folders, split_lists
from metashot.data.preprocess import unfit
from metashot.errors import SHOWN, MetashotError
from metashot.files import replacing
from metashot.onboard import inspect
from metashot.onboard.inspect import Inspection

WAY, SHOTS, QUERIES = 5, 5, 15  # what is proposed where there is enough for it
SEEDS = 200  # tried for a draw of classes near the shares
BUDGET: Mapping[str, int] = {"maml": 150, "reptile": 400, "transfer": 300}
STEPS = 200  # of the other methods
NAMED = 10  # of the duplicates


@dataclass(frozen=True)
class Proposal:
    """How a folder is divided and what is trained on it.

    Attributes:
        found: The folder.
        name: Of the data set.
        division: The key ``prepare.split``.
        splits: Of every sample, by its path.
        repeated: The key ``prepare.repeated``.
        sizes: Samples of each split's classes, once those that are in two splits are removed.
        setting: Name of the N-way K-shot setting.
        described: That setting, unless params.yaml has it.
        mistakes: What would stop the pipeline, a line each.
    """

    found: Inspection
    name: str
    division: folders.Division
    splits: Mapping[str, str]
    repeated: Literal["refuse", "remove"]
    sizes: Mapping[str, Counter[str]]
    setting: str
    described: params.Setting | None
    mistakes: Sequence[str]

    @property
    def known_classes(self) -> bool:
        """Whether the classes of the test are those of training."""
        return bool(self.splits) and self.division != "listed" and self.division.of == "samples"

    @property
    def found_out(self) -> dict[str, Any]:
        """What is written of ``prepare`` each time."""
        split = self.division if self.division == "listed" else asdict(self.division)
        return {**self.found.prepare, "repeated": self.repeated, "split": split}

    def block(self, methods: Sequence[str]) -> dict[str, Any]:
        """The section ``data.<name>``."""
        kind = self.found.kind
        defaults = kind.defaults(self.found.prepare)
        return {
            "source": kind.source,
            "raw": {**self.found.gathered.raw, "md5": self.found.md5},
            "prepare": {**self.found_out, **defaults.pop("prepare")},
            **defaults,
            "budget": {method: BUDGET.get(method, STEPS) for method in methods},
        }


def name_of(folder: Path) -> str:
    """A name for the data set of a folder, zip file or table."""
    name = re.sub(r"\.(zip|csv|tsv|jsonl?|ndjson|parquet)$", "", folder.absolute().name, flags=re.IGNORECASE)
    words = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_")
    return words if words[:1].isalpha() else f"data_{words}".rstrip("_")


def init(root: Path, raw: folders.Raw, name: str) -> Proposal:
    """Look at a folder, and propose how to train on it; nothing is written.

    Args:
        root: The repository.
        raw: The folder; its ``md5`` does not matter.
        name: Of the data set, a section of ``data`` in params.yaml that may be there already.

    Raises:
        MetashotError: There is no such folder, params.yaml is wrong, or has other data by that name.
    """
    path = root / "params.yaml"
    check.check(path)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise MetashotError(f"--name {name}: needs a letter, and after it letters, digits and _ only")
    file: params.File = params.read(path, "", params.File)
    known = file.data.get(name)
    if known and known.raw.get("path") != raw.path:
        raise MetashotError(
            f"params.yaml: data.{name} is of other data ({known.raw.get('path') or known.source}): "
            "give these another name with --name"
        )
    try:
        raw.path.encode()
    except UnicodeEncodeError:
        raise MetashotError(f"{raw.path!a}: its name is not UTF-8: rename it") from None
    if known and not raw.splits:
        raw = replace(raw, splits=known.raw.get("splits", ""))
    found = inspect.inspect(raw, root, asdict(known) if known else None)
    return _propose(file, found, name, known)


def write(root: Path, proposal: Proposal) -> None:
    """Describe the data set, and its setting, in params.yaml.

    Of a description that is there already only what was found out is brought up to date: network, variation
    and budgets stay as they are. So do the lists of what a run makes.

    Raises:
        MetashotError: The text of params.yaml is not one that this can be written into.
    """
    path, name = root / "params.yaml", proposal.name
    methods = params.read(path, "methods", list[str])
    text = path.read_bytes().decode()
    block = proposal.block(methods)
    known: params.File = params.read(path, "", params.File)
    if there := known.data.get(name):
        for key, parts in {"raw": block["raw"], "prepare": proposal.found_out}.items():
            for part, value in parts.items():
                text = edit.edited(text, f"data.{name}.{key}.{part}", value)
        for method, steps in block["budget"].items():
            if method not in there.budget:
                text = edit.edited(text, f"data.{name}.budget.{method}", steps)
    else:
        text = edit.edited(text, f"data.{name}", block)
    if proposal.described:
        text = edit.edited(text, f"setting.{proposal.setting}", asdict(proposal.described))
    with replacing(path) as partial:
        partial.write_bytes(text.encode())
        try:
            check.check(partial)
        except MetashotError as error:
            raise MetashotError(str(error).replace(str(partial), str(path))) from None


def shown(proposal: Proposal) -> dict[str, str]:
    """What a person is shown of it: name and value."""
    found = proposal.found
    rows = inspect.rows(found)
    if found.looks:
        rows |= dict(_duplicates("duplicates", found.duplicates, proposal.splits))
        rows |= dict(_duplicates("near duplicates", found.near, proposal.splits))
    if proposal.splits:
        sizes = {split: len(proposal.sizes[split]) for split in split_lists.SPLITS}
        counts = " / ".join(f"{count:,}" for count in sizes.values())
        how = "by lists" if proposal.division == "listed" else f"of {proposal.division.of}"
        rows["split"] = f"{how}: {counts} classes for training / validation / test"
        if (n_way := _ways(proposal.sizes)) and (most := _least(proposal.sizes)) > 1:
            queries = min(QUERIES, most - 1)
            rows["supports"] = f"up to {n_way}-way {most - queries}-shot with {queries} queries of each class"
    return rows


def warnings(proposal: Proposal) -> list[str]:
    """What a person should know before training, a line each."""
    found, splits = proposal.found, proposal.splits
    said = inspect.warnings(found)
    across = [names for names in found.duplicates if len({_class(name) for name in names}) > 1]
    twice = [names for names in found.duplicates if len({splits.get(name) for name in names}) > 1]
    near = [names for names in found.near if len({splits.get(name) for name in names}) > 1]
    for what, groups in {
        "the same sample in several classes": across,
        "the same sample in two splits, removed from training or validation (repeated: remove)": twice,
        "nearly the same sample in two splits, which stays": near,
    }.items():
        if groups:
            said.append(f"{what}: {len(groups):,} ({_some(found, groups)})")
    if proposal.known_classes:
        said.append(
            f"{len(found.sizes)} classes are too few for splits with classes of their own (3 x {WAY}): "
            "the samples are divided (split: {of: samples}), and results are about known classes"
        )
    return said


def _propose(file: params.File, found: Inspection, name: str, known: params.DataSet | None) -> Proposal:
    mistakes = [*found.contents.mistakes, *found.unreadable]
    division, items = _divided(found, known, mistakes)
    splits = {item.origin: item.key.split for item in items}
    repeated: Literal["refuse", "remove"] = "refuse"
    removed: set[str] = set()
    for names in found.duplicates if splits else ():
        first = min(splits[n] for n in names)  # the pipeline goes through the splits by name
        removed.update(n for n in names if splits[n] != first)
    if removed:
        repeated = "remove"
    sizes: dict[str, Counter[str]] = {split: Counter() for split in split_lists.SPLITS}
    for item in items:
        sizes[item.key.split][item.key.path] += item.origin not in removed
    if items:
        disjoint = division == "listed" or division.of == "classes"
        counts = {(split, class_): n for split, classes in sizes.items() for class_, n in classes.items()}
        mend = ": mend what lists the splits, or leave it out" if division == "listed" else ""
        lines = unfit(counts, disjoint, removed=bool(removed))
        mistakes += [f"{found.raw.path}: {line}{mend}" for line in lines]
    setting, described = "", None
    if items and not mistakes:
        if _ways(sizes) < 2:
            mistakes.append(f"{found.raw.path}: a split has fewer than 2 classes: add some")
        else:
            setting, described = _setting(file, name, sizes, known is not None)
    return Proposal(found, name, division, splits, repeated, sizes, setting, described, mistakes)


def _divided(
    found: Inspection, known: params.DataSet | None, mistakes: list[str]
) -> tuple[folders.Division, list[Item]]:
    """How the samples are divided, and they with their splits; none, and a mistake, where they cannot be."""
    listed = found.gathered.listed
    items = []
    for name in found.looks:
        *split, superclass, class_, file = ([] if name.count("/") > 1 else [split_lists.ALL]) + name.split(
            "/"
        )
        items.append(Item(Key("".join(split), superclass, class_, file), bytes, name))
    if listed:
        return "listed", items
    classes = {item.key.path for item in items}
    shares = _shares(classes)
    if known and isinstance(given := known.prepare.get("split"), Mapping):
        before = folders.Shares(**given)
        if before.of == shares.of and (before.of == "samples" or _enough(before, classes)):
            shares = before  # a class stays in its split when the folder grows
    if len(classes) < 2:
        return shares, []
    try:
        return shares, folders.divide(items, shares)
    except MetashotError as error:
        mistakes.append(f"{found.raw.path}: {error}")
        return shares, []


def _shares(classes: set[str]) -> folders.Shares:
    """Shares and a seed that give every split classes for an episode; of samples where there are too few."""
    total = len(classes)
    if total < 3 * WAY:
        return folders.Shares(of="samples", seed=0, val=0.15, test=0.25)
    n_val, n_test = max(WAY, round(0.15 * total)), max(WAY, round(0.25 * total))
    wanted = folders.Shares(of="classes", seed=0, val=round(n_val / total, 2), test=round(n_test / total, 2))
    best, least = wanted, total
    for seed in range(SEEDS):
        drawn = replace(wanted, seed=seed)
        counts = Counter(folders.split_of(drawn, class_) for class_ in classes)
        off = abs(counts["val"] - n_val) + abs(counts["test"] - n_test)
        if off < least and min(counts[split] for split in split_lists.SPLITS) >= WAY:
            best, least = drawn, off
        if least <= total // 50:
            break
    return best


def _enough(shares: folders.Shares, classes: set[str]) -> bool:
    counts = Counter(folders.split_of(shares, class_) for class_ in classes)
    return min(counts[split] for split in split_lists.SPLITS) >= 2


def _setting(
    file: params.File, name: str, sizes: Mapping[str, Counter[str]], known: bool
) -> tuple[str, params.Setting | None]:
    """The best setting that the splits can be tested under: one of params.yaml that is as good, or a new one.

    None that is described already is changed: other data sets may be tested under it. Data that are known
    stay under the setting that is named after them for as long as they are tested as well by it.
    """
    best = _best(sizes)
    short = f"{best.n_way}w1s"
    for candidate in dict.fromkeys([*file.settings, *file.setting]):
        setting: params.Setting = TypeAdapter(params.Setting).validate_python(file.setting[candidate])
        own = known and re.fullmatch(rf"{short}_{name}(_[0-9]+)?", candidate)
        if _fits(setting, sizes) and _asked(setting) == _asked(best):
            if own and 2 * setting.train_way >= best.train_way:
                return candidate, None
            if (setting.train_way, setting.train_query) == (best.train_way, best.train_query):
                return candidate, None
    names = [short, f"{short}_{name}", *(f"{short}_{name}_{n}" for n in range(2, len(file.setting) + 3))]
    return next(new for new in names if new not in file.setting), best


def _asked(setting: params.Setting) -> tuple[object, ...]:
    """What models are tested by, but for the number of episodes."""
    extra = {(extra.n_way, extra.k_shot) for extra in setting.extra.values()}
    return setting.n_way, setting.k_shot, setting.n_query, frozenset(extra)


def _best(sizes: Mapping[str, Counter[str]]) -> params.Setting:
    """The setting that asks the most of the data, up to what is usual."""
    most = _least(sizes)
    n_way = min(WAY, _ways(sizes))
    n_query = min(QUERIES, most - SHOTS) if most >= 2 * SHOTS else min(QUERIES, most - 1)
    extra = {}
    if most >= 2 * SHOTS:
        extra[f"{n_way}w{SHOTS}s"] = params.ExtraSetting(n_way, SHOTS, 1000)
    if len(sizes["test"]) >= 20:
        extra["20w1s"] = params.ExtraSetting(20, 1, 1000)
    return params.Setting(
        n_way=n_way,
        k_shot=1,
        n_query=n_query,
        val_episodes=40,
        test_episodes=1000,
        train_way=min(60, len(sizes["train"])),
        train_query=min(5, min(sizes["train"].values()) - 1),
        train_episodes=2000,
        extra=extra,
    )


def _fits(setting: params.Setting, sizes: Mapping[str, Counter[str]]) -> bool:
    """Whether every manifest of a setting can be drawn."""
    wanted = [
        ("train", setting.train_way, setting.k_shot + setting.train_query),
        ("val", setting.n_way, setting.k_shot + setting.n_query),
        ("test", setting.n_way, setting.k_shot + setting.n_query),
        *(("test", extra.n_way, extra.k_shot + setting.n_query) for extra in setting.extra.values()),
    ]
    return all(
        len(sizes[split]) >= n_way and min(sizes[split].values()) >= need for split, n_way, need in wanted
    )


def _ways(sizes: Mapping[str, Counter[str]]) -> int:
    """The most classes that an episode of any split can have."""
    return min(len(sizes[split]) for split in split_lists.SPLITS)


def _least(sizes: Mapping[str, Counter[str]]) -> int:
    """Samples of the smallest class that is validated or tested on."""
    return min((*sizes["val"].values(), *sizes["test"].values()), default=0)


def _duplicates(
    what: str, groups: Sequence[Sequence[str]], splits: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """A row for the table."""
    across = [names for names in groups if len({_class(name) for name in names}) > 1]
    apart = [names for names in groups if len({splits.get(name) for name in names}) > 1]
    yield (
        what,
        (
            f"{len(groups) - len(across):,} within a class, {len(across):,} across classes, "
            f"{len(apart):,} of them across splits"
        ),
    )


def _some(found: Inspection, groups: Sequence[Sequence[str]]) -> str:
    shown = "; ".join(_equal(found, names) for names in groups[:NAMED])
    return f"{shown}{f'; and {len(groups) - NAMED:,} more' if len(groups) > NAMED else ''}"


def _equal(found: Inspection, names: Sequence[str]) -> str:
    """Samples of a group, the first of each class where there are several, and how many more there are."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(_class(name), name)
    named = [*(first.values() if len(first) > 1 else names)][:SHOWN]
    more = len(names) - len(named)
    return " = ".join([*map(found.shown, named), *([f"{more:,} more"] if more else [])])


def _class(name: str) -> str:
    return name.rpartition("/")[0]
