"""Text table: labelled texts of your own, as CSV, JSON or Parquet, in one file or several together.

See `tables.entries` for what files hold. A row is an object with the columns, or a pair of text and label.
"""

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from metashot.data import Item, label, label_of
from metashot.data.files import folders, split_lists, tables
from metashot.data.kinds import texts
from metashot.errors import MetashotError, Mistakes, short
from metashot.section import Section

SUFFIXES = tables.DELIMITED | tables.JSON | {tables.PARQUET}
FORMATS = "CSV, TSV, JSON, JSON Lines or Parquet"
ABOUT: Mapping[str, object] = {
    "source": "tables of texts",
    "licence": "as its owner says",
    "citation": "",
    "synthetic": False,
}
_TEXTS = folders.Folder(frozenset({".txt"}), "texts")
Labels = Callable[[object], str]
_NAME = re.compile(r"(?!\.|__MACOSX$)[^/\\:]+")  # of a folder in a zip


class Row(NamedTuple):
    """A row of a table: where it is, for a person who has to mend it, its text, and its label where asked."""

    where: str
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Raw(Section):
    """Section ``raw`` of a data set that is tables of texts.

    Attributes:
        path: A file in one of `FORMATS`, or a folder or zip file of them; relative to the repository, or
            absolute.
        parts: What of it counts: names of files in a folder or zip, or keys of the object in a JSON file;
            empty for all.
        text: Column of the texts.
        label: Column of the classes' names.
        groups: JSON file with an object of lists: superclasses and their classes; empty without.
        splits: Folder with the lists of what is in each split, as `folders.Raw` has it; empty without.
        md5: Digest of the texts, written by `metashot refresh`; empty before the first time.
    """

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
    return folders.digest(_samples(raw, root, tables.Labels()).items())


def download(raw: Raw, directory: Path) -> None:
    """Pack the texts into zips as `[<split>/]<superclass>/<class>/<digest>.txt`; same texts, same bytes.

    What is the same but for case and spaces is one text of its class.

    Raises MetashotError when there are no such files, they cannot be read, lack a column or a part, a text or
    a label is empty, a label is not a name for a folder or in no group, lists of splits name what is not
    there, and when the digest is not ``raw.md5``.
    """
    labels = tables.Labels()
    folders.pack(_samples(raw, Path(), labels).items(), raw, directory / _TEXTS.packed)
    labels.tell(raw.path)


def items(prepare: Prepare, directory: Path) -> list[Item]:
    """The texts that `download` packed, divided."""
    return [
        item._replace(origin=f"the text {_shown(item.read())}") for item in _TEXTS.items(prepare, directory)
    ]


def read(content: bytes, where: str, columns: Sequence[str]) -> list[Row]:
    """The rows of a file.

    Args:
        content: Of the file.
        where: Its path, whose suffix says what it is: one of `SUFFIXES`, or ``.txt``, a text on each line.
        columns: Of the texts and, if they are asked for, of the labels.

    Raises MetashotError when it is not UTF-8 or not what its suffix says, has no rows, or lacks a column, and
    for values that are missing or no text.
    """
    mistakes = Mistakes()
    found = list(_rows_of(content, where, columns, (), label_of, mistakes))
    mistakes.refuse()
    return found


def entries(
    raw: folders.Pinned, root: Path, parts: Sequence[str], mistakes: Mistakes
) -> Iterator[tables.Entry]:
    """Every row of a file, or of those in a folder or zip, as it is.

    What has mistakes is left out.
    """
    files = tables.local(raw, root, SUFFIXES)
    one = PurePosixPath(raw.path).name in files  # the path is the file
    for name, read_file in files.items():
        where = raw.path if one else f"{raw.path}/{name}"
        if one or not parts or name in parts:
            try:
                yield from tables.entries(read_file(), where, (), parts if one else (), mistakes)
            except MetashotError as error:
                mistakes.add_line(error)


def _rows_of(
    content: bytes,
    where: str,
    columns: Sequence[str],
    parts: Sequence[str],
    labels: Labels,
    mistakes: Mistakes,
) -> Iterator[Row]:
    """The rows of a file but for those with mistakes; see `read`."""
    empty, before = True, len(mistakes)
    for place, entry in tables.entries(content, where, columns, parts, mistakes):
        empty = False
        if row := _row(entry, columns, place, labels, mistakes):
            yield row
    if empty and len(mistakes) == before:
        raise MetashotError(f"{where}: has no rows")


def _row(entry: Any, columns: Sequence[str], place: str, labels: Labels, mistakes: Mistakes) -> Row | None:
    """A row with the text and the label, if it has such; None, and a mistake, where it has not."""
    if isinstance(entry, str):
        entry = [entry]
    if isinstance(entry, list) and len(entry) == len(columns):
        entry = dict(zip(columns, entry, strict=True))
    if not isinstance(entry, Mapping):
        mistakes.add(f"{place}:", f"give an object with {' and '.join(columns)}, or a list of these")
        return None
    values = {}
    for column in columns:
        try:
            values[column] = labels(entry.get(column)) if column != columns[0] else _text(entry.get(column))
            values[column].encode()
        except UnicodeEncodeError:
            mistakes.add(f"{place}:", f"{column} has half a character, which JSON can write")
            return None
        except ValueError as error:
            mistakes.add(f"{place}: {column} is {short(entry[column])}:", str(error))
            return None
        if not values[column].strip():
            mistakes.add(f"{place}:", f"{column} is empty")
            return None
    return Row(place, tuple(values.values()))


def _text(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None or value != value:
        return ""
    if not isinstance(value, str):
        raise ValueError("give a text")  # noqa: TRY004 - a mistake in the table
    return value


def _samples(raw: Raw, root: Path, labels: tables.Labels) -> Mapping[str, split_lists.Read]:
    """Every text by its place in the archive, sorted. Raises MetashotError as `download` does."""
    found = contents(raw, root, labels)
    folders.refuse(found.mistakes)
    return found.samples


def contents(raw: Raw, root: Path, labels: tables.Labels) -> folders.Contents:
    """Every text by its place in the archive, and the mistakes of the others.

    Raises MetashotError where there are no tables, and for lists of splits and groups that cannot be used.
    """
    superclasses = _superclasses(root / raw.groups) if raw.groups else {}
    found: dict[str, str] = {}
    mistakes = Mistakes()
    for where, (text, class_) in _rows(raw, root, labels, mistakes):
        superclass = superclasses.get(class_) if raw.groups else split_lists.ALL
        if not superclass:
            mistakes.add(f"{where}: label {class_!r}", f"is in no group of {raw.groups}")
            continue
        if bad := [name for name in (class_, superclass) if not _NAME.fullmatch(name)]:
            reason = "is not the name of a class: it has / \\ or :, or begins with a dot"
            mistakes.add(f"{where}: {bad[0]!r}", reason)
            continue
        place = f"{superclass}/{class_}/{texts.digest(texts.normalised(text)).hex()}.txt"
        found[place] = min(text, found.get(place, text))  # whichever order they come in
    lines = [*mistakes.lines, *folders.indistinct(raw.path, {place.rpartition("/")[0] for place in found})]
    samples: split_lists.Found = {
        place: functools.partial(text.encode, "utf-8") for place, text in sorted(found.items())
    }
    if raw.splits and not lines:
        samples = folders.listed(samples, raw, root)
    return folders.Contents(samples, {}, 0, lines)


def _rows(raw: Raw, root: Path, labels: tables.Labels, mistakes: Mistakes) -> Iterator[Row]:
    """The rows of all files, or of those parts that count, but for those with mistakes."""
    found = tables.local(raw, root, SUFFIXES)
    if not found:
        raise MetashotError(f"raw.path: {raw.path}: no {FORMATS} file in it")
    if PurePosixPath(raw.path).name in found:  # the path is the file
        (read_file,) = found.values()
        files = [(read_file, raw.path, raw.parts)]
    else:
        names = raw.parts or list(found)
        for absent in [name for name in names if name not in found]:
            known = tables.named([*found])
            mistakes.add_line(f"raw.parts: no file {absent!r} in {raw.path} (there are {known})")
        files = [(found[name], f"{raw.path}/{name}", []) for name in names if name in found]
    for read_file, where, parts in files:
        try:
            columns = raw.text, raw.label
            yield from _rows_of(read_file(), where, columns, parts, labels.name, mistakes)
        except MetashotError as error:
            mistakes.add_line(error)


def _superclasses(path: Path) -> dict[str, str]:
    """The superclass of each class, as a file says it."""
    try:
        groups: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8-sig"))
        pairs = [(label_of(class_), label(group)) for group, classes in groups.items() for class_ in classes]
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
