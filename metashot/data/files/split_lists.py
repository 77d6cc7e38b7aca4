"""Lists of the classes or files in each split, in the formats in which benchmarks publish them.

Lists are decoded by `delimited.decoded`; names are compared in Unicode's form NFC.
"""

import json
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from metashot.data import Split, label, label_of
from metashot.data.files import Files, delimited
from metashot.errors import MetashotError, Mistakes, short, some
from metashot.output import say

DIGITS = 8  # of the number after a label
ALL = "all"  # the superclass of classes that have none
HIERARCHY = "hierarchy.json"
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class _Entry(NamedTuple):
    """An entry of a list of classes: a class, a superclass and a class, or a superclass."""

    split: Split
    parts: tuple[str, ...]


class _Destination(NamedTuple):
    """Where a file goes: the folder ``<split>/<superclass>/<class>``, and its name there."""

    folder: str
    name: str


def arrange(files: Files, folder: Path, shown: str) -> tuple[Files, int]:
    """Arrange files by the splits and classes that lists give them.

    Args:
        files: Files to arrange.
        folder: Folder of the lists ``train``, ``val`` and ``test``, each as ``.txt``, ``.json`` or ``.csv``.
            With a ``hierarchy.json``, a list of pairs of superclass and class, a superclass in a list stands
            for its classes, wherever their folders are.
        shown: What to call the folder of the files.

    Returns:
        The listed files, as ``<split>/<superclass>/<class>/<name>``, and the number of the others.

    Raises:
        MetashotError: A list is missing, cannot be read or names something that is missing, or a class or a
            file is in two places.
    """
    lists = {split: _list_file(folder, split) for split in SPLITS}
    of_files = {path.suffix == ".csv" for path in lists.values()}
    if len(of_files) > 1:
        raise MetashotError(f"{folder}: lists of files (.csv) and of classes together: use one kind")
    if of_files == {True}:
        destinations = _by_file(files, shown, lists)
    else:
        destinations = _by_class(files, shown, folder, lists)
    members: dict[str, dict[str, str]] = defaultdict(dict)
    for path, destination in destinations.items():
        members[destination.folder][path] = destination.name
    arranged = {
        f"{target}/{name}": files[path]
        for target, names in members.items()
        for path, name in _unique_names(names)
    }
    return arranged, len(files) - len(destinations)


def arranged(files: Files, folder: Path, path: str, splits: str) -> Files:
    """The files that lists name, sorted as `arrange` returns them; reports how many they do not name.

    Args:
        files: Files to arrange.
        folder: Folder of the lists.
        path: The path of the files in params.yaml, for messages.
        splits: The path of the lists in params.yaml, for messages.
    """
    listed, unlisted = arrange(files, folder, path)
    report_unlisted(path, splits, unlisted)
    return dict(sorted(listed.items()))


def report_unlisted(path: str, splits: str, count: int) -> None:
    """Print how many files no list names, if any."""
    if count:
        say(f"{path}: leaves out {count:,} files that no list in {splits} names", err=True)


def _list_file(folder: Path, split: Split) -> Path:
    paths = [path for suffix in ("txt", "json", "csv") if (path := folder / f"{split}.{suffix}").is_file()]
    if len(paths) != 1:
        raise MetashotError(
            f"{folder}: {'more than one' if paths else 'no'} list of split {split}: "
            f"it needs one of {split}.txt, {split}.json and {split}.csv"
        )
    return paths[0]


def _unique_names(names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The files of a class, with names that are unique in it.

    Equal names get the folders above their class as a prefix.

    Args:
        names: Name of each file, by its path.

    Raises:
        MetashotError: Two names are equal even so.
    """
    count = Counter(names.values())
    taken: dict[str, str] = {}
    for path, name in names.items():
        unique = name if count[name] == 1 else "-".join([*PurePosixPath(path).parts[:-2], name])
        if (other := taken.setdefault(unique, path)) != path:
            raise MetashotError(
                f"{other!r} and {path!r} are of one class and would have one name: rename one of them"
            )
        yield path, unique


def _by_class(files: Files, shown: str, folder: Path, lists: dict[Split, Path]) -> dict[str, _Destination]:
    """Destinations of the files in class folders that lists name.

    Folders of one name below several parents are one class.
    """
    entries = _class_entries(folder, lists)
    count = Counter(entry.parts[-1] for entry in entries.values())
    # A pair is found by its class alone too, unless that is ambiguous
    by_name = {e.parts[-1]: e for e in entries.values() if count[e.parts[-1]] == 1} | entries

    members: dict[tuple[Split, str, str], list[str]] = defaultdict(list)
    matched = set()
    for path in files:
        above, class_ = ("", "", *map(label, path.split("/")[:-1]))[-2:]
        for candidate in (f"{above}/{class_}", class_, above):
            if candidate in by_name:
                matched.add(entry := by_name[candidate])
                superclass = above if candidate == above != class_ else "".join(entry.parts[:-1])
                members[entry.split, superclass, class_].append(path)
                break
    if absent := sorted("/".join(entry.parts) for entry in {*entries.values()} - matched):
        subject = f"{absent[0]!r} has"
        if len(absent) > 1:
            cases = some([*map(repr, absent)])
            subject = f"{len(absent):,} of {len(entries):,} that the lists name ({cases}) have"
        raise MetashotError(f"{folder}: {subject} no folder with samples in {shown}")
    destinations: dict[str, _Destination] = {}
    for (split, superclass, class_), paths in members.items():
        parents = {label(path.split("/")[-3]) if path.count("/") > 1 else ALL for path in paths}
        superclass = superclass or (parents.pop() if len(parents) == 1 else ALL)
        target = f"{split}/{superclass}/{class_}"
        destinations |= {path: _Destination(target, PurePosixPath(path).name) for path in paths}
    return destinations


def _class_entries(folder: Path, lists: dict[Split, Path]) -> dict[str, _Entry]:
    """Entries of lists of classes, superclasses replaced by their classes; by ``[<superclass>/]<class>``."""
    hierarchy: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    if (tree := folder / HIERARCHY).is_file():
        for pair in _classes(tree):
            if len(pair) != 2:
                raise MetashotError(f"{tree}: {'/'.join(pair)!r} is not a pair of superclass and class")
            hierarchy[pair[0]].append(pair)
    entries: dict[str, _Entry] = {}
    for split, path in lists.items():
        for parts in chain.from_iterable(hierarchy.get("/".join(line), [line]) for line in _classes(path)):
            entry = entries.setdefault("/".join(parts), _Entry(split, parts))
            if entry.split != split:
                raise MetashotError(f"{folder}: {'/'.join(parts)!r} is in {entry.split} and in {split}")
    return entries


def _text(path: Path) -> str:
    """The text of a list. Raises MetashotError if it cannot be read as text."""
    try:
        return delimited.decoded(path.read_bytes(), str(path))
    except OSError as error:
        raise MetashotError(f"{path}: cannot be read ({error.strerror})") from None


def _classes(path: Path) -> list[tuple[str, ...]]:
    """The entries of a list of classes, each split into its parts."""
    entries = [_parts(path, entry) for entry in _entries(path)]
    if not any(map(any, entries)):
        raise MetashotError(f"{path}: an empty list of classes")
    return [entry for entry in entries if any(entry)]


def _entries(path: Path) -> Iterable[Any]:
    """Lines of a text, items of a JSON list, or names of the class folders of easyfsl's EasySet."""
    text = _text(path)
    if path.suffix != ".json":
        return text.splitlines()
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MetashotError(f"{path}: is not JSON ({error})") from None
    if isinstance(parsed, Mapping):
        roots = parsed.get("class_roots")
        if isinstance(roots, list) and all(isinstance(root, str) for root in roots):
            return [PurePosixPath(root.replace("\\", "/")).name for root in roots]
    if not isinstance(parsed, list):
        raise MetashotError(
            f"{path}: {short(parsed)}: expected a list of classes, of pairs of superclass and class, or of "
            "superclasses; or an object whose class_roots is a list of class folders"
        )
    return parsed


def _parts(path: Path, entry: Any) -> tuple[str, ...]:
    parts = entry.strip().rstrip("/").split("/") if isinstance(entry, str) else entry
    parts = parts if isinstance(parts, list) else [parts]
    if len(parts) > 2 or not all(isinstance(part, str | int | float) for part in parts):
        raise MetashotError(f"{path}: {short(entry)} is neither a class nor a pair of superclass and class")
    return tuple(map(label_of, parts))


class _Row(NamedTuple):
    """A row of a list of files: its place for messages, a file name or path, and a label."""

    where: str
    name: str
    label: str


def _by_file(files: Files, shown: str, lists: dict[Split, Path]) -> dict[str, _Destination]:
    """Destinations of the files that lists name, by file name or by the end of a path.

    A file in the folder of another listed class is another file. A name that no file has is looked up by
    `_numbered`.
    """
    rows = {split: list(_rows(path)) for split, path in lists.items()}
    labels = {row.label for row in chain.from_iterable(rows.values())}
    by_name: dict[str, list[str]] = defaultdict(list)
    for path in files:
        by_name[_nfc(PurePosixPath(path).name)].append(path)
    numbered = _numbered(files, labels)

    destinations: dict[str, _Destination] = {}
    absent: list[str] = []
    ambiguous: list[str] = []
    contradictory: list[str] = []
    split_of: dict[str, Split] = {}
    for split, row in ((split, row) for split, its_rows in rows.items() for row in its_rows):
        if split_of.setdefault(row.label, split) != split:
            raise MetashotError(f"{row.where}: {row.label!r} is in {split_of[row.label]} and in {split}")
        candidates = _candidates(row, by_name, labels) or numbered(row)
        destination = _Destination(f"{split}/{ALL}/{row.label}", PurePosixPath(row.name).name)
        if len(candidates) != 1:
            (ambiguous if candidates else absent).append(repr(row.name))
        elif destinations.setdefault(candidates[0], destination).folder != destination.folder:
            contradictory.append(repr(row.name))
    total = sum(map(len, rows.values()))
    for names, reason in (
        (absent, "are missing"),
        (ambiguous, "exist more than once: give their paths, as <class>/<file>"),
        (contradictory, "are listed with two labels"),
    ):
        if names:
            raise MetashotError(
                f"{shown}: {len(names):,} of {total:,} files that the lists name {reason} ({some(names)})"
            )
    return destinations


def _candidates(row: _Row, by_name: Mapping[str, Sequence[str]], labels: set[str]) -> list[str]:
    """Paths of files that a row may mean: those that end with the path it gives."""
    listed = PurePosixPath(_nfc(row.name)).parts
    candidates = []
    for path in by_name.get(listed[-1] if listed else "", ()):
        parts = PurePosixPath(_nfc(path)).parts
        depth = min(len(listed), len(parts))
        folder = label(parts[-2]) if len(parts) > 1 else ""
        if listed[-depth:] == parts[-depth:] and (folder == row.label or folder not in labels):
            candidates.append(path)
    if len(candidates) > 1:
        own = [path for path in candidates if label(PurePosixPath(path).parent.name) == row.label]
        candidates = own or candidates
    return candidates


def _numbered(files: Files, labels: set[str]) -> Callable[[_Row], list[str]]:
    """A function that finds files by the names of Ravi and Larochelle's miniImageNet: a label and a number.

    The number is the position among the ImageNet files of the class: ``n0185567200000003.jpg`` is the third
    of ``n01855672/n01855672_*.JPEG``. No other names have that meaning: not if the label is itself a number,
    nor if the files are not numbered after their label.
    """
    by_class: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for path in files:
        file = PurePosixPath(path)
        class_, _, number = file.stem.rpartition("_")
        if class_ == file.parent.name in labels and number.isdecimal():
            by_class[class_].append((int(number), path))
    for members in by_class.values():
        members.sort()

    def find(row: _Row) -> list[str]:
        stem = PurePosixPath(row.name).stem
        number = stem.removeprefix(row.label)
        if number == stem or row.label.isdecimal() or not (number.isdecimal() and len(number) == DIGITS):
            return []
        members = by_class.get(row.label, [])
        return [members[int(number) - 1][1]] if 0 < int(number) <= len(members) else []

    return find


def _rows(path: Path) -> Iterator[_Row]:
    """The rows of a list of files.

    Raises MetashotError if it cannot be read, and for rows without a file name or label, or with a label that
    cannot be the name of a class.
    """
    text, mistakes = _text(path), Mistakes()
    columns = [column.lower() for column in delimited.header(text, str(path)).columns]
    if any(columns.count(column) != 1 for column in ("filename", "label")):
        first_line = short(text.partition("\n")[0])
        raise MetashotError(
            f"{path}: not a CSV file with the columns filename and label, once each (it begins {first_line})"
        )
    incomplete, invalid = [], []
    for place, row in delimited.rows(text, str(path), mistakes):
        values = {column.lower(): value for column, value in row.items()}
        name, class_ = values.get("filename", "").strip(), label_of(values.get("label"))
        where = place.removeprefix(f"{path}: ")
        if not (name and class_):
            incomplete.append(where)
        elif "/" in class_ or "\\" in class_ or class_.startswith(".") or not class_.isprintable():
            invalid.append(f"{where}: {short(class_)}")
        else:
            yield _Row(place, name.replace("\\", "/"), class_)
    mistakes.refuse()
    for places, reason in (
        (incomplete, "without a filename or a label"),
        (invalid, "with a label that cannot name a class: it has / or \\, or begins with a dot"),
    ):
        if places:
            raise MetashotError(f"{path}: {len(places):,} rows {reason} ({some(places)})")


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)
