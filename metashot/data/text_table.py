"""Text table: labelled texts of your own, as CSV, JSON or JSON Lines, in one file or several together.

CSV has a line of column names. JSON is a list of rows, or an object with such lists; JSON Lines has a row on
each line. A row is an object with the columns, or a pair of text and label. Files are in UTF-8.
"""

import csv
import functools
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple

from metashot.data import folders, listing, texts
from metashot.data.source import Item
from metashot.errors import MetashotError, refuse

SUFFIXES = frozenset({".csv", ".json", ".jsonl"})
ABOUT: Mapping[str, object] = {
    "source": "tables of texts",
    "licence": "as its owner says",
    "citation": "",
    "synthetic": False,
}
_TEXTS = folders.Folder(frozenset({".txt"}), "texts")
Tell = Callable[[str], None]
_NAME = re.compile(r"(?!\.|__MACOSX$)[^/\\:]+")  # of a folder in a zip


class Row(NamedTuple):
    """A row of a table: where it is, for a person who has to mend it, and its values."""

    where: str
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Raw:
    """Section ``raw`` of a data set that is tables of texts.

    Attributes:
        path: A CSV, JSON or JSON Lines file, or a folder or zip file of them; relative to the repository, or
            absolute.
        parts: What of it counts: names of files in a folder or zip, or keys of the object in a JSON file;
            empty for all.
        text: Column of the texts.
        label: Column of the classes' names.
        groups: JSON file with an object of lists: superclasses and their classes; empty without.
        splits: Folder with the lists of what is in each split, as `folders.Raw` has it; empty without.
        md5: Digest of the texts, written by `metashot refresh`; empty before the first time.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    path: str
    parts: list[str]
    text: str
    label: str
    groups: str
    splits: str
    md5: str


@dataclass(frozen=True, kw_only=True)
class Prepare(texts.Prepare, folders.Prepare):
    """Section ``prepare`` of a data set that is tables of texts."""


def digest(raw: Raw, root: Path) -> str:
    """Digest of the texts as they are now, in whatever files and order."""
    return folders.digest(_samples(raw, root).items())


def download(raw: Raw, directory: Path) -> None:
    """Pack the texts into zips as `[<split>/]<superclass>/<class>/<digest>.txt`; same texts, same bytes.

    What is the same but for case and spaces is one text of its class.

    Raises MetashotError when there are no such files, they cannot be read, lack a column or a part, a text or
    a label is empty, a label is no name for a folder or in no group, lists of splits name what is not there,
    and when the digest is not ``raw.md5``.
    """
    folders.pack(_samples(raw, Path()).items(), raw, directory / _TEXTS.packed)


def items(prepare: Prepare, directory: Path) -> list[Item]:
    """The texts that `download` packed, divided."""
    return [
        item._replace(origin=f"the text {_shown(item.read())}") for item in _TEXTS.items(prepare, directory)
    ]


def read(
    content: bytes, where: str, columns: Sequence[str], parts: Sequence[str] = (), tell: Tell = refuse
) -> list[Row]:
    """The rows of a file, but for those with mistakes, which are told.

    Args:
        content: Of the file.
        where: Its path, whose suffix says what it is: one of `SUFFIXES`, or ``.txt``, a text on each line.
        columns: What is wanted of a row, in this order.
        parts: Keys of the object that a JSON file holds; empty for all.
        tell: Called with each mistake: a value that is missing, empty or no text, a row that is none.

    Raises MetashotError when it is not UTF-8 or not what its suffix says, has no rows, or lacks a column or a
    part.
    """
    found, empty = [], True
    for place, entry in _entries(content, where, columns, parts, tell):
        empty = False
        try:
            found.append(Row(place, _values(entry, columns, place)))
        except MetashotError as error:
            tell(str(error))
    if empty:
        raise MetashotError(f"{where}: has no rows")
    return found


def entries(raw: folders.Pinned, root: Path, parts: Sequence[str], tell: Tell) -> Iterator[tuple[str, Any]]:
    """Every row of a file, or of those in a folder or zip, as it is: where it is, and an object or a list.

    Mistakes are told, and what has them is left out.
    """
    tables = folders.local(raw, root, SUFFIXES)
    one = PurePosixPath(raw.path).name in tables  # the path is the file
    for name, read_file in tables.items():
        where = raw.path if one else f"{raw.path}/{name}"
        if one or not parts or name in parts:
            try:
                yield from _entries(read_file(), where, (), parts if one else (), tell)
            except MetashotError as error:
                tell(str(error))


def _entries(
    content: bytes, where: str, columns: Sequence[str], parts: Sequence[str], tell: Tell
) -> Iterator[tuple[str, Any]]:
    try:
        text = content.decode("utf-8-sig")  # a mark that some editors leave is none of the text
    except UnicodeDecodeError as error:
        raise MetashotError(f"{where}: byte {error.start} is not UTF-8: save the file as UTF-8") from None
    try:
        yield from _READERS[PurePosixPath(where).suffix.lower()](text, where, columns, parts, tell)
    except (csv.Error, ValueError, RecursionError) as error:
        raise MetashotError(f"{where}: cannot be read ({error})") from None


def _csv(
    text: str, where: str, columns: Sequence[str], _: Sequence[str], tell: Tell
) -> Iterator[tuple[str, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    there = reader.fieldnames or []
    for column in columns:
        if there.count(column) != 1:
            problem = "more than one" if column in there else "no"
            raise MetashotError(f"{where}: {problem} column {column!r} (there are {', '.join(there)})")
    for row in reader:
        place = f"{where}: line {reader.line_num}"
        if None in row:
            tell(f"{place}: more values than columns: put quotes around what has a comma")
        else:
            yield place, row


def _json(
    text: str, where: str, _: Sequence[str], parts: Sequence[str], tell: Tell
) -> Iterator[tuple[str, Any]]:
    said = json.loads(text)
    lists = said if isinstance(said, dict) else {"": said}
    for part in parts:
        if part not in lists:
            there = ", ".join(filter(None, lists)) or "none"
            raise MetashotError(f"{where}: no part {part!r} (there are {there})")
    for part in parts or lists:
        shown = f"{where}: {part}" if part else where
        if not isinstance(lists[part], list):
            raise MetashotError(f"{shown}: is no list of rows")
        yield from ((f"{shown}: row {number}", entry) for number, entry in enumerate(lists[part]))


def _lines(
    text: str, where: str, _: Sequence[str], __: Sequence[str], tell: Tell
) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would divide texts
        if line.strip():
            place = f"{where}: line {number}"
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError) as error:
                tell(f"{place}: is not JSON ({error})")
            else:
                yield place, entry


def _plain(text: str, where: str, *_: object) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{where}: line {number}", line.strip()


_READERS: Mapping[str, Callable[..., Iterator[tuple[str, Any]]]] = {
    ".csv": _csv,
    ".json": _json,
    ".jsonl": _lines,
    ".txt": _plain,
}


def _values(entry: Any, columns: Sequence[str], place: str) -> tuple[str, ...]:
    if isinstance(entry, str):
        entry = [entry]
    if isinstance(entry, list) and len(entry) == len(columns):
        entry = dict(zip(columns, entry, strict=True))
    if not isinstance(entry, Mapping):
        raise MetashotError(f"{place}: give an object with {' and '.join(columns)}, or a list of these")
    values = []
    for column in columns:
        value = entry.get(column)
        if isinstance(value, int) and not isinstance(value, bool):  # classes may be numbered
            value = str(value)
        if not isinstance(value, str) or not value.strip():
            raise MetashotError(f"{place}: {column} is {repr(value) if value else 'empty'}")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise MetashotError(f"{place}: {column} has half a character, which JSON can write") from None
        values.append(value)
    return tuple(values)


def _samples(raw: Raw, root: Path) -> Mapping[str, listing.Read]:
    """Every text by its place in the archive, sorted. Raises MetashotError as `download` does."""
    found = contents(raw, root)
    folders.refuse(found.mistakes)
    return found.samples


def contents(raw: Raw, root: Path) -> folders.Contents:
    """Every text by its place in the archive, and the mistakes of the others.

    Raises MetashotError where there are no tables, and for lists of splits and groups that cannot be used.
    """
    superclasses = _superclasses(root / raw.groups) if raw.groups else {}
    found: dict[str, str] = {}
    mistakes: list[str] = []
    for where, (text, label) in _rows(raw, root, mistakes.append):
        label = label.strip()
        superclass = superclasses.get(label) if raw.groups else listing.ALL
        if not superclass:
            mistakes.append(f"{where}: label {label!r} is in no group of {raw.groups}")
            continue
        if bad := [name for name in (label, superclass) if not _NAME.fullmatch(name)]:
            mistakes.append(
                f"{where}: {bad[0]!r} is no name of a class: it has / \\ or :, or begins with a dot"
            )
            continue
        place = f"{superclass}/{label}/{texts.digest(texts.normalised(text)).hex()}.txt"
        found[place] = min(text, found.get(place, text))  # whichever order they come in
    mistakes += folders.indistinct(raw.path, {place.rpartition("/")[0] for place in found})
    samples: listing.Found = {
        place: functools.partial(text.encode, "utf-8") for place, text in sorted(found.items())
    }
    if raw.splits and not mistakes:
        samples = folders.listed(samples, raw, root)
    return folders.Contents(samples, {}, 0, mistakes)


def _rows(raw: Raw, root: Path, tell: Tell) -> Iterator[Row]:
    """The rows of all files, or of those parts that count; mistakes are told."""
    tables = folders.local(raw, root, SUFFIXES)
    if not tables:
        raise MetashotError(f"raw.path: {raw.path}: no CSV, JSON or JSON Lines file in it")
    columns = (raw.text, raw.label)
    if PurePosixPath(raw.path).name in tables:  # the path is the file
        (read_file,) = tables.values()
        files = [(read_file, raw.path, raw.parts)]
    else:
        names = raw.parts or list(tables)
        for absent in [name for name in names if name not in tables]:
            tell(f"raw.parts: no file {absent!r} in {raw.path} (there are {', '.join(tables)})")
        files = [(tables[name], f"{raw.path}/{name}", []) for name in names if name in tables]
    for read_file, where, parts in files:
        try:
            rows = read(read_file(), where, columns, parts, tell)
        except MetashotError as error:
            tell(str(error))
        else:
            yield from rows


def _superclasses(path: Path) -> dict[str, str]:
    """The superclass of each class, as a file says it."""
    try:
        said = json.loads(path.read_text(encoding="utf-8-sig"))
        pairs = [(class_, superclass) for superclass, classes in said.items() for class_ in classes]
    except (OSError, ValueError, AttributeError, TypeError):
        raise MetashotError(f"{path}: not a JSON object of superclasses and lists of their classes") from None
    found: dict[str, str] = {}
    for class_, superclass in pairs:
        if found.setdefault(class_, superclass) != superclass:
            raise MetashotError(f"{path}: {class_!r} is in {found[class_]!r} and in {superclass!r}")
    return found


def _shown(content: bytes) -> str:
    """A text in an error, on one line."""
    text = " ".join(content.decode().split())
    return repr(text if len(text) <= 80 else f"{text[:79]}…")
