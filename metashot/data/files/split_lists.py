"""Lists of what is in each split: of classes, or of files, as benchmarks publish them.

Lists are read as `delimited.decoded` does; names are compared in Unicode's form NFC.
"""

import json
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from metashot.data import Split, label, label_of
from metashot.data.files import delimited
from metashot.errors import MetashotError, Mistakes, short, some

DIGITS = 8  # of a number behind a label
ALL = "all"  # the superclass where there is none
HIERARCHY = "hierarchy.json"
SPLITS: tuple[Split, ...] = ("train", "val", "test")

Read = Callable[[], bytes]
Found = dict[str, Read]  # files by their path in a folder


class _Entry(NamedTuple):
    """A line of a list of classes: a class, a superclass and a class, or a superclass."""

    split: Split
    parts: tuple[str, ...]


class _Home(NamedTuple):
    """Where a file belongs: `<split>/<superclass>/<class>`, and what it is called."""

    place: str
    file: str


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
        MetashotError: A list is missing or cannot be read, names what is not there, or a class or a file is
            in two places.
    """
    lists = {split: _list_file(folder, split) for split in SPLITS}
    of_files = {path.suffix == ".csv" for path in lists.values()}
    if len(of_files) > 1:
        raise MetashotError(f"{folder}: lists of files (.csv) and of classes together: use one kind")
    homes = _by_file(found, shown, lists) if of_files == {True} else _by_class(found, shown, folder, lists)
    members: dict[str, dict[str, str]] = defaultdict(dict)
    for name, home in homes.items():
        members[home.place][name] = home.file
    arranged = {
        f"{place}/{file}": found[name] for place, names in members.items() for name, file in _apart(names)
    }
    return arranged, len(found) - len(homes)


def _list_file(folder: Path, split: Split) -> Path:
    there = [path for suffix in ("txt", "json", "csv") if (path := folder / f"{split}.{suffix}").is_file()]
    if len(there) != 1:
        raise MetashotError(
            f"{folder}: {'more than one' if there else 'no'} list of split {split}: "
            f"it needs one of {split}.txt, {split}.json and {split}.csv"
        )
    return there[0]


def _apart(names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The files of a class, each with a name of its own.

    Where several are called the same the folders above their class are added.

    Args:
        names: What they are called, by their path.

    Raises:
        MetashotError: Two would have one name even so.
    """
    count = Counter(names.values())
    taken: dict[str, str] = {}
    for name, file in names.items():
        unique = file if count[file] == 1 else "-".join([*PurePosixPath(name).parts[:-2], file])
        if (other := taken.setdefault(unique, name)) != name:
            raise MetashotError(
                f"{other!r} and {name!r} are of one class and would have one name: rename one of them"
            )
        yield name, unique


def _by_class(found: Found, shown: str, folder: Path, lists: dict[Split, Path]) -> dict[str, _Home]:
    """The homes of files in folders that lists name.

    Folders of one name under several parents are one class.
    """
    entries: dict[str, _Entry] = {}
    hierarchy: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    if (tree := folder / HIERARCHY).is_file():
        for pair in _classes(tree):
            if len(pair) != 2:
                raise MetashotError(f"{tree}: {'/'.join(pair)!r} is not a pair of superclass and class")
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
        above, class_ = ("", "", *map(label, name.split("/")[:-1]))[-2:]
        for candidate in (f"{above}/{class_}", class_, above):
            if candidate in known:
                matched.add(entry := known[candidate])
                superclass = above if candidate == above != class_ else "".join(entry.parts[:-1])
                members[entry.split, superclass, class_].append(name)
                break
    if absent := sorted("/".join(entry.parts) for entry in {*entries.values()} - matched):
        what = f"{absent[0]!r} has"
        if len(absent) > 1:
            cases = some([*map(repr, absent)])
            what = f"{len(absent):,} of {len(entries):,} that the lists name ({cases}) have"
        raise MetashotError(f"{folder}: {what} no folder with samples in {shown}")
    homes: dict[str, _Home] = {}
    for (split, superclass, class_), names in members.items():
        parents = {label(name.split("/")[-3]) if name.count("/") > 1 else ALL for name in names}
        superclass = superclass or (parents.pop() if len(parents) == 1 else ALL)
        place = f"{split}/{superclass}/{class_}"
        homes |= {name: _Home(place, PurePosixPath(name).name) for name in names}
    return homes


def _text(path: Path) -> str:
    """The text of a list. Raises MetashotError where it is not one."""
    try:
        return delimited.decoded(path.read_bytes(), str(path))
    except OSError as error:
        raise MetashotError(f"{path}: cannot be read ({error.strerror})") from None


def _classes(path: Path) -> list[tuple[str, ...]]:
    """The lines of a list of classes."""
    entries = [_parts(path, entry) for entry in _listed(path)]
    if not any(map(any, entries)):
        raise MetashotError(f"{path}: an empty list of classes")
    return [entry for entry in entries if any(entry)]


def _listed(path: Path) -> Iterable[Any]:
    """What a list has: lines, or a list in JSON. Of easyfsl's EasySet the names of the classes' folders."""
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
    """A row of a list of files: where it is, for a person who has to mend it, and what it says."""

    where: str
    name: str
    label: str


def _by_file(found: Found, shown: str, lists: dict[Split, Path]) -> dict[str, _Home]:
    """The places of files that lists name, wherever they lie: by their names, or by as much of their paths.

    A file that lies in the folder of another class of the lists is another file. A name that is not there is
    looked up as `_numbered` does.
    """
    rows = {split: list(_rows(path)) for split, path in lists.items()}
    labels = {row.label for row in chain.from_iterable(rows.values())}
    by_name: dict[str, list[str]] = defaultdict(list)
    for name in found:
        by_name[_spelled(PurePosixPath(name).name)].append(name)
    numbered = _numbered(found, labels)

    homes: dict[str, _Home] = {}
    absent: list[str] = []
    several: list[str] = []
    twice: list[str] = []
    split_of: dict[str, Split] = {}
    for split, row in ((split, row) for split, its_rows in rows.items() for row in its_rows):
        if split_of.setdefault(row.label, split) != split:
            raise MetashotError(f"{row.where}: {row.label!r} is in {split_of[row.label]} and in {split}")
        candidates = _candidates(row, by_name, labels) or numbered(row)
        home = _Home(f"{split}/{ALL}/{row.label}", PurePosixPath(row.name).name)
        if len(candidates) != 1:
            (several if candidates else absent).append(repr(row.name))
        elif homes.setdefault(candidates[0], home).place != home.place:
            twice.append(repr(row.name))
    total = sum(map(len, rows.values()))
    for names, reason in (
        (absent, "are not there"),
        (several, "are there more than once: give their paths, as <class>/<file>"),
        (twice, "are there with two labels"),
    ):
        if names:
            raise MetashotError(
                f"{shown}: {len(names):,} of {total:,} files that the lists name {reason} ({some(names)})"
            )
    return homes


def _candidates(row: _Row, by_name: Mapping[str, Sequence[str]], labels: set[str]) -> list[str]:
    """Files that a row may name: those of its name, whose paths agree with as much of one as it gives."""
    wanted = PurePosixPath(_spelled(row.name)).parts
    candidates = []
    for name in by_name.get(wanted[-1] if wanted else "", ()):
        parts = PurePosixPath(_spelled(name)).parts
        deep = min(len(wanted), len(parts))
        folder = label(parts[-2]) if len(parts) > 1 else ""
        if wanted[-deep:] == parts[-deep:] and (folder == row.label or folder not in labels):
            candidates.append(name)
    if len(candidates) > 1:
        own = [name for name in candidates if label(PurePosixPath(name).parent.name) == row.label]
        candidates = own or candidates
    return candidates


def _numbered(found: Found, labels: set[str]) -> Callable[[_Row], list[str]]:
    """What finds files as Ravi and Larochelle named miniImageNet's: by a label and a number.

    The number is the place among the ImageNet files of the class: ``n0185567200000003.jpg`` is the third of
    ``n01855672/n01855672_*.JPEG``. No other names have that meaning: not where the label is a number itself,
    nor where the files are not numbered behind their label.
    """
    by_class: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for name in found:
        path = PurePosixPath(name)
        class_, _, number = path.stem.rpartition("_")
        if class_ == path.parent.name in labels and number.isdecimal():
            by_class[class_].append((int(number), name))
    for members in by_class.values():
        members.sort()

    def find(row: _Row) -> list[str]:
        stem = PurePosixPath(row.name).stem
        place = stem.removeprefix(row.label)
        if place == stem or row.label.isdecimal() or not (place.isdecimal() and len(place) == DIGITS):
            return []
        members = by_class.get(row.label, [])
        return [members[int(place) - 1][1]] if 0 < int(place) <= len(members) else []

    return find


def _rows(path: Path) -> Iterator[_Row]:
    """The rows of a list of files.

    Raises MetashotError where it cannot be read, and where a row lacks a file name or a label, or has a
    label that is not the name of a class.
    """
    text, mistakes = _text(path), Mistakes()
    columns = [column.lower() for column in delimited.header(text, str(path)).columns]
    if any(columns.count(column) != 1 for column in ("filename", "label")):
        begins = short(text.partition("\n")[0])
        raise MetashotError(
            f"{path}: not a CSV file with the columns filename and label, once each (it begins {begins})"
        )
    lacking, unusable = [], []
    for place, row in delimited.rows(text, str(path), mistakes):
        values = {column.lower(): value for column, value in row.items()}
        name, class_ = values.get("filename", "").strip(), label_of(values.get("label"))
        where = place.removeprefix(f"{path}: ")
        if not (name and class_):
            lacking.append(where)
        elif "/" in class_ or "\\" in class_ or class_.startswith(".") or not class_.isprintable():
            unusable.append(f"{where}: {short(class_)}")
        else:
            yield _Row(place, name.replace("\\", "/"), class_)
    mistakes.refuse()
    for places, reason in (
        (lacking, "without a filename or a label"),
        (unusable, "with a label that is not the name of a class: it has / or \\, or begins with a dot"),
    ):
        if places:
            raise MetashotError(f"{path}: {len(places):,} rows {reason} ({some(places)})")


def _spelled(name: str) -> str:
    return unicodedata.normalize("NFC", name)
