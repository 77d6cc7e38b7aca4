"""Lists of what is in each split: of classes, or of files, as benchmarks publish them."""

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from metashot.data import Split
from metashot.errors import MetashotError

ALL = "all"  # the superclass where there is none
HIERARCHY = "hierarchy.json"
SPLITS: tuple[Split, ...] = ("train", "val", "test")

Read = Callable[[], bytes]
Found = dict[str, Read]  # files by their path in a folder


class _Entry(NamedTuple):
    """A line of a list of classes: a class, a superclass and a class, or a superclass."""

    split: Split
    parts: tuple[str, ...]


def arrange(found: Found, folder: Path, shown: str) -> tuple[Found, int]:
    """Put files where lists say that they belong.

    Args:
        found: Files.
        folder: Of the lists, ``train``, ``val`` and ``test``, each as ``.txt``, ``.json`` or ``.csv``. With a
            ``hierarchy.json``, a list of pairs of superclass and class, a superclass in a list stands for its
            classes, wherever their folders lie.
        shown: What to call the folder of the files.

    Returns:
        Those that a list names, as `<split>/<superclass>/<class>/<name>`, and how many no list names.

    Raises:
        MetashotError: A list is missing or cannot be read, names what is not there, or a class is in two.
    """
    lists = {split: _list_file(folder, split) for split in SPLITS}
    of_files = {path.suffix == ".csv" for path in lists.values()}
    if len(of_files) > 1:
        raise MetashotError(f"{folder}: lists of files (.csv) and of classes together: use one kind")
    arranged = _by_file(found, shown, lists) if of_files == {True} else _by_class(found, shown, folder, lists)
    return arranged, len(found) - len(arranged)


def _list_file(folder: Path, split: Split) -> Path:
    there = [path for suffix in ("txt", "json", "csv") if (path := folder / f"{split}.{suffix}").is_file()]
    if len(there) != 1:
        raise MetashotError(
            f"{folder}: {'more than one' if there else 'no'} list of split {split}: "
            f"it needs one of {split}.txt, {split}.json and {split}.csv"
        )
    return there[0]


def _by_class(found: Found, shown: str, folder: Path, lists: dict[Split, Path]) -> Found:
    """The files in folders that lists name. Folders of one name under several parents are one class."""
    entries: dict[str, _Entry] = {}
    hierarchy: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    if (tree := folder / HIERARCHY).is_file():
        for pair in _classes(tree):
            if len(pair) != 2:
                raise MetashotError(f"{tree}: {'/'.join(pair)!r} is no pair of superclass and class")
            hierarchy[pair[0]].append(pair)
    for split, listed in lists.items():
        lines = _classes(listed)
        for parts in chain.from_iterable(hierarchy.get("/".join(line), [line]) for line in lines):
            entry = entries.setdefault("/".join(parts), _Entry(split, parts))
            if entry.split != split:
                raise MetashotError(f"{folder}: {'/'.join(parts)!r} is in {entry.split} and in {split}")
    last = Counter(entry.parts[-1] for entry in entries.values())
    # A pair also by its class alone, where that says which
    known = {e.parts[-1]: e for e in entries.values() if last[e.parts[-1]] == 1} | entries

    members: dict[tuple[Split, str, str], list[str]] = defaultdict(list)
    matched = set()
    for name in found:
        above, class_ = ("", "", *name.split("/")[:-1])[-2:]
        for candidate in (f"{above}/{class_}", class_, above):
            if candidate in known:
                matched.add(entry := known[candidate])
                superclass = above if candidate == above != class_ else "".join(entry.parts[:-1])
                members[entry.split, superclass, class_].append(name)
                break
    if absent := sorted("/".join(entry.parts) for entry in {*entries.values()} - matched):
        raise MetashotError(
            f"{folder}: {absent[0]!r} has no folder with samples in {shown} ({len(absent)} like that)"
        )
    arranged = {}
    for (split, superclass, class_), names in members.items():
        parents = {name.split("/")[-3] if name.count("/") > 1 else ALL for name in names}
        superclass = superclass or (parents.pop() if len(parents) == 1 else ALL)
        count = Counter(PurePosixPath(name).name for name in names)
        for name in names:
            path = PurePosixPath(name)
            file = path.name if count[path.name] == 1 else f"{path.parts[-3]}-{path.name}"
            arranged[f"{split}/{superclass}/{class_}/{file}"] = found[name]
    return arranged


def _classes(path: Path) -> list[tuple[str, ...]]:
    try:
        text = path.read_text(encoding="utf-8")
        said = json.loads(text) if path.suffix == ".json" else [line.strip() for line in text.splitlines()]
    except (OSError, ValueError) as error:
        raise MetashotError(f"{path}: cannot be read ({error})") from None
    entries = []
    for entry in said if isinstance(said, list) else [said]:
        parts = entry.split("/") if isinstance(entry, str) else entry
        if not isinstance(parts, list) or len(parts) > 2 or not all(isinstance(part, str) for part in parts):
            raise MetashotError(f"{path}: {entry!r} is no class, and no pair of superclass and class")
        if any(parts):
            entries.append(tuple(parts))
    if not entries:
        raise MetashotError(f"{path}: an empty list of classes")
    return entries


def _by_file(found: Found, shown: str, lists: dict[Split, Path]) -> Found:
    """The files that lists name, wherever they lie.

    A name that is not there is looked up as Ravi and Larochelle named miniImageNet's files: by its label and
    its place among the ImageNet files of that class, so ``n0185567200000003.jpg`` is the third of
    ``n01855672/n01855672_*.JPEG``.
    """
    by_name: dict[str, list[str]] = defaultdict(list)
    by_class: dict[str, list[str]] = defaultdict(list)
    for name in found:
        path = PurePosixPath(name)
        by_name[path.name].append(name)
        if path.stem.rpartition("_")[2].isdigit():
            by_class[path.parent.name].append(name)
    for numbered in by_class.values():
        numbered.sort(key=lambda name: int(PurePosixPath(name).stem.rpartition("_")[2]))

    arranged: Found = {}
    absent = []
    home: dict[str, Split] = {}
    for split, listed in lists.items():
        for name, label in _rows(listed):
            if home.setdefault(label, split) != split:
                raise MetashotError(f"{listed}: {label!r} is in {home[label]} and in {split}")
            candidates = by_name.get(name, [])
            if len(candidates) > 1:
                candidates = [c for c in candidates if PurePosixPath(c).parent.name == label]
            place = PurePosixPath(name).stem.removeprefix(label)
            if not candidates and place.isdigit() and int(place):
                candidates = by_class[label][int(place) - 1 : int(place)]
            if candidates:
                arranged[f"{split}/{ALL}/{label}/{name}"] = found[candidates[0]]
            else:
                absent.append(name)
    if absent:
        raise MetashotError(
            f"{shown}: {len(absent):,} of {len(absent) + len(arranged):,} files that the lists name are not "
            f"there, the first is {absent[0]!r}"
        )
    return arranged


def _rows(path: Path) -> list[tuple[str, str]]:
    """File names with their labels."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [(row["filename"], row["label"]) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, csv.Error):
        raise MetashotError(f"{path}: not a CSV file with the columns filename and label") from None
