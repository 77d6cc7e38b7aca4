"""Text table: your own labelled texts, in one or several CSV, JSON or Parquet files.

`tables.entries` describes the formats. A row is an object with the columns, or a pair of text and label.
"""

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from metashot.data import Item, label, label_of
from metashot.data.files import Files, class_names, division, folders, local, pinned, split_lists, tables
from metashot.data.kinds import texts
from metashot.data.sources.folder import FolderSource, about
from metashot.errors import MetashotError, Mistakes, short
from metashot.section import Section

SUFFIXES = tables.DELIMITED | tables.JSON | {tables.PARQUET}
FORMATS = "CSV, TSV, JSON, JSON Lines or Parquet"
ABOUT = about("tables of texts")
_TEXTS = FolderSource(frozenset({".txt"}), "texts")
_NAME = re.compile(r"(?!\.|__MACOSX$)[^/\\:]+")  # of a folder in a zip

LabelOf = Callable[[object], str]


class TextRow(NamedTuple):
    """A row of a table: its place for messages, and its text, followed by its label if that was requested."""

    where: str
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Raw(Section):
    """Section ``raw`` of a data set of texts.

    Attributes:
        path: A file in one of `FORMATS`, or a folder or zip file of them; relative to the repository, or
            absolute.
        parts: Files to read of a folder or zip file, or keys to read of the object in a JSON file; empty for
            all.
        text: Column of the texts.
        label: Column of the class names.
        groups: JSON file with an object that maps superclasses to lists of classes; empty if there is none.
        splits: Folder with the lists of splits, as in `folders.Raw`; empty if there are none.
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
class Prepare(texts.Prepare, division.Prepare):
    """Section ``prepare`` of a data set of texts."""


def digest(raw: Raw, root: Path) -> str:
    """Digest of the texts as they are now, whatever the files and their order."""
    return pinned.digest(_samples(raw, root, tables.Labels()).items())


def download(raw: Raw, directory: Path) -> None:
    """Pack the texts into zips as ``[<split>/]<superclass>/<class>/<digest>.txt``.

    The same texts give the same bytes. Texts of a class that differ only in case and spaces are one text.

    Raises MetashotError when a file, column or part is missing or unreadable, when a text or label is empty,
    when a label cannot name a folder or is in no group, when lists of splits name something that is missing,
    and when the digest is not ``raw.md5``.
    """
    labels = tables.Labels()
    pinned.pack(_samples(raw, Path(), labels).items(), raw, directory / _TEXTS.packed)
    labels.report_merged(raw.path)


def items(prepare: Prepare, directory: Path) -> list[Item]:
    """The texts that `download` packed, divided into splits."""
    return [
        item._replace(origin=f"the text {_shown(item.read())}") for item in _TEXTS.items(prepare, directory)
    ]


def read(content: bytes, where: str, columns: Sequence[str]) -> list[TextRow]:
    """The rows of a file.

    Args:
        content: Content of the file.
        where: Path of the file; its suffix is the format: one of `SUFFIXES`, or ``.txt``, a text on each
            line.
        columns: Column of the texts and, optionally, column of the labels.

    Raises MetashotError if the file is not UTF-8, not in its format, or has no rows or lacks a column, and
    for values that are missing or not texts.
    """
    mistakes = Mistakes()
    rows = list(_rows_of(content, where, columns, (), label_of, mistakes))
    mistakes.refuse()
    return rows


def entries(path: str, root: Path, parts: Sequence[str], mistakes: Mistakes) -> Iterator[tables.Entry]:
    """Every row of the tables at a path, unchecked; those that cannot be read are added to ``mistakes``."""
    files = tables.find(path, root, SUFFIXES)
    single = PurePosixPath(path).name in files  # the path is that of a file
    for name, read_file in files.items():
        where = path if single else f"{path}/{name}"
        if single or not parts or name in parts:
            try:
                yield from tables.entries(read_file(), where, (), parts if single else (), mistakes)
            except MetashotError as error:
                mistakes.add_line(error)


def _rows_of(
    content: bytes,
    where: str,
    columns: Sequence[str],
    parts: Sequence[str],
    label_of: LabelOf,
    mistakes: Mistakes,
) -> Iterator[TextRow]:
    """The rows of a file without mistakes; see `read`."""
    empty, before = True, len(mistakes)
    for place, entry in tables.entries(content, where, columns, parts, mistakes):
        empty = False
        if row := _row(entry, columns, place, label_of, mistakes):
            yield row
    if empty and len(mistakes) == before:
        raise MetashotError(f"{where}: has no rows")


def _row(
    entry: Any, columns: Sequence[str], place: str, label_of: LabelOf, mistakes: Mistakes
) -> TextRow | None:
    """Text and, if requested, label of an entry; None if they are missing or invalid, with a mistake."""
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
            values[column] = label_of(entry.get(column)) if column != columns[0] else _text(entry.get(column))
            values[column].encode()
        except UnicodeEncodeError:
            mistakes.add(f"{place}:", f"{column} has half of a surrogate pair: write the whole character")
            return None
        except ValueError as error:
            mistakes.add(f"{place}: {column} is {short(entry[column])}:", str(error))
            return None
        if not values[column].strip():
            mistakes.add(f"{place}:", f"{column} is empty")
            return None
    return TextRow(place, tuple(values.values()))


def _text(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None or value != value:
        return ""
    if not isinstance(value, str):
        raise ValueError("give a text")  # noqa: TRY004 - a mistake in the table
    return value


def _samples(raw: Raw, root: Path, labels: tables.Labels) -> Files:
    """Every text by its path in the archive, sorted. Raises MetashotError as `download` does."""
    found = contents(raw, root, labels)
    local.refuse(found.mistakes)
    return dict(found.samples)


def contents(raw: Raw, root: Path, labels: tables.Labels) -> folders.Contents:
    """Every text by its path in the archive, and mistakes in other rows.

    Raises MetashotError if there are no tables, and for lists of splits or groups that cannot be used.
    """
    superclasses = _superclasses(root / raw.groups) if raw.groups else {}
    texts_by_path: dict[str, str] = {}
    mistakes = Mistakes()
    for where, (text, class_) in _rows(raw, root, labels, mistakes):
        superclass = superclasses.get(class_) if raw.groups else split_lists.ALL
        if not superclass:
            mistakes.add(f"{where}: label {class_!r}", f"is in no group of {raw.groups}")
            continue
        if invalid := [name for name in (class_, superclass) if not _NAME.fullmatch(name)]:
            reason = "cannot name a class: it has / \\ or :, or begins with a dot"
            mistakes.add(f"{where}: {invalid[0]!r}", reason)
            continue
        path = f"{superclass}/{class_}/{texts.digest(texts.normalised(text)).hex()}.txt"
        texts_by_path[path] = min(text, texts_by_path.get(path, text))  # independent of the order of rows
    classes = {path.rpartition("/")[0] for path in texts_by_path}
    lines = [*mistakes.lines, *class_names.ambiguous(raw.path, classes)]
    samples: Files = {
        path: functools.partial(text.encode, "utf-8") for path, text in sorted(texts_by_path.items())
    }
    if raw.splits and not lines:
        samples = split_lists.arranged(samples, root / raw.splits, raw.path, raw.splits)
    return folders.Contents(samples, {}, 0, lines)


def _rows(raw: Raw, root: Path, labels: tables.Labels, mistakes: Mistakes) -> Iterator[TextRow]:
    """The rows without mistakes of all files, or of the parts that ``raw`` names."""
    tables_by_name = tables.find(raw.path, root, SUFFIXES)
    if not tables_by_name:
        raise MetashotError(f"raw.path: {raw.path}: no {FORMATS} file in it")
    if PurePosixPath(raw.path).name in tables_by_name:  # the path is that of a file
        (read_file,) = tables_by_name.values()
        files = [(read_file, raw.path, raw.parts)]
    else:
        names = raw.parts or list(tables_by_name)
        for absent in [name for name in names if name not in tables_by_name]:
            known = tables.listed([*tables_by_name])
            mistakes.add_line(f"raw.parts: no file {absent!r} in {raw.path} (there are {known})")
        files = [(tables_by_name[name], f"{raw.path}/{name}", []) for name in names if name in tables_by_name]
    for read_file, where, parts in files:
        try:
            columns = raw.text, raw.label
            yield from _rows_of(read_file(), where, columns, parts, labels.name, mistakes)
        except MetashotError as error:
            mistakes.add_line(error)


def _superclasses(path: Path) -> dict[str, str]:
    """Superclass of each class, from a file of groups."""
    try:
        groups: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8-sig"))
        pairs = [(label_of(class_), label(group)) for group, classes in groups.items() for class_ in classes]
    except (OSError, ValueError, AttributeError, TypeError):
        raise MetashotError(f"{path}: not a JSON object of superclasses and lists of their classes") from None
    superclasses: dict[str, str] = {}
    for class_, superclass in pairs:
        if (other := superclasses.setdefault(class_, superclass)) != superclass:
            raise MetashotError(f"{path}: {class_!r} is in {other!r} and in {superclass!r}")
    return superclasses


def _shown(content: bytes) -> str:
    """A text for a message, on one line."""
    text = " ".join(content.decode().split())
    return repr(text if len(text) <= 80 else f"{text[:79]}…")
