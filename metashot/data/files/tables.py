"""Tables in CSV, JSON, Parquet or plain text: which files are tables, their rows, their labels."""

import json
import re
import zipfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from metashot.data import label_of
from metashot.data.files import Files, delimited, local
from metashot.errors import MetashotError, Mistakes, reason_of
from metashot.output import say

Entry = tuple[str, Any]  # place of a row, and the row
DELIMITED = frozenset({".csv", ".tsv"})
JSON = frozenset({".json", ".jsonl", ".ndjson"})
PARQUET = ".parquet"
# Column names that pandas, Excel and readr give to an index
INDEX = re.compile(r"|Unnamed: [0-9]+.*|__index_level_[0-9]+__|\.\.\.[0-9]+")
SHOWN = 20  # columns in a message
_SPREADSHEETS = frozenset({".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers"})
_COMPRESSED = frozenset({".gz", ".gzip", ".bz2", ".xz", ".zst", ".7z", ".rar", ".tar", ".tgz"})


class Labels:
    """Class names, normalised by `label_of`; remembers those that are written in more than one way."""

    def __init__(self) -> None:
        self._written: dict[str, str] = {}
        self._merged: dict[str, str] = {}

    def name(self, value: object) -> str:
        """Class name of a value. Raises ValueError as `label_of` does."""
        name, written = label_of(value), str(value)
        if self._written.setdefault(name, written) != written:
            self._merged.setdefault(name, written)
        return name

    def report_merged(self, path: str) -> None:
        """Print which labels count as one class, if any do."""
        if self.merged:
            say(f"{path}: {self.merged}", err=True)

    @property
    def merged(self) -> str:
        """Which labels count as one class, in words; empty if none do."""
        if not self._merged:
            return ""
        name, written = next(iter(self._merged.items()))
        return (
            f"labels that read alike are one class: {written!a} and {self._written[name]!a} are {name!r}"
            + (f" ({len(self._merged):,} such classes)" if len(self._merged) > 1 else "")
        )


def find(path: str, root: Path, suffixes: Collection[str]) -> Files:
    """The tables at a path in params.yaml: a file, or all tables of a folder or zip file.

    Raises MetashotError as `local.samples` does, and for a file that is neither a table nor a zip file.
    """
    refuse_other(root / path, path, suffixes)
    return local.samples(path, root, suffixes)


def refuse_other(path: Path, shown: str, suffixes: Collection[str]) -> None:
    """Raise a MetashotError that says how to save a file that has no known suffix and is not a zip file."""
    suffix = path.suffix.lower()
    if not path.is_file() or suffix in suffixes:
        return
    if suffix in _SPREADSHEETS:
        raise MetashotError(f"{shown}: spreadsheets cannot be read: save it as CSV in UTF-8")
    if suffix in _COMPRESSED:
        raise MetashotError(f"{shown}: compressed, but not as zip: unpack it, or pack it as zip")
    if suffix != ".zip" and not zipfile.is_zipfile(path):
        formats = ", ".join(sorted(suffixes))
        raise MetashotError(f"{shown}: neither a zip file nor a file with a known suffix ({formats})")


def entries(
    content: bytes, where: str, columns: Sequence[str], parts: Sequence[str], mistakes: Mistakes
) -> Iterator[Entry]:
    """Rows of a file, each with its place: a mapping by column, a list or, in plain text, a line.

    CSV and TSV begin with column names; the separator is detected. JSON is a list of rows, an object of such
    lists, or a table as pandas writes it; JSON Lines has a row on each line. Text is in UTF-8, or in UTF-16
    with a byte order mark.

    Args:
        content: Content of the file.
        where: Path of the file; its suffix is the format, by default plain text.
        columns: Columns that the file needs, if it has column names.
        parts: Keys of the object in a JSON file; empty for all.
        mistakes: Gets rows that cannot be read.

    Raises MetashotError if the file is not in its format, or lacks a column or a part.
    """
    suffix = PurePosixPath(where).suffix.lower()
    if suffix == PARQUET:
        yield from _parquet(content, where, columns)
        return
    text = delimited.decoded(content, where)
    if suffix in DELIMITED:
        require(columns, delimited.header(text, where).columns, where)
        yield from delimited.rows(text, where, mistakes)
    elif suffix in JSON:
        yield from _json(text, where, parts, mistakes)
    else:
        yield from ((place, line.strip()) for place, line in _numbered(text, where))


def _parquet(content: bytes, where: str, columns: Sequence[str]) -> Iterator[Entry]:
    file = parquet(content, where)
    require(columns, file.schema_arrow.names, where)
    number = 0
    try:
        for batch in file.iter_batches(columns=list(columns) or None):
            for entry in batch.to_pylist():
                yield f"{where}: row {number}", entry
                number += 1
    except (pa.ArrowException, OSError, ValueError) as error:
        raise MetashotError(f"{where}: cannot be read ({reason_of(error)})") from None


def _json(text: str, where: str, parts: Sequence[str], mistakes: Mistakes) -> Iterator[Entry]:
    lines = PurePosixPath(where).suffix.lower() != ".json"
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        if lines or _begins_with_a_row(text):  # pandas' `lines=True`, whatever the suffix
            yield from _lines(text, where, mistakes)
            return
        raise MetashotError(f"{where}: cannot be read ({error})") from None
    if lines and not (isinstance(content, list) and all(isinstance(row, dict | list) for row in content)):
        yield from _lines(text, where, mistakes)  # a single line
        return
    if (frame := _frame(content)) is not None:
        content = frame
    lists = content if isinstance(content, dict) else {"": content}
    for part in parts:
        if part not in lists:
            known = listed([*filter(None, lists)]) or "none"
            raise MetashotError(f"{where}: no part {part!r} (there are {known})")
    for part in parts or lists:
        shown = f"{where}: {part}" if part else where
        if not isinstance(lists[part], list):
            raise MetashotError(
                f"{shown}: is not a list of rows: write a list of objects (pandas: orient='records')"
            )
        yield from ((f"{shown}: row {number}", entry) for number, entry in enumerate(lists[part]))


def _frame(content: Any) -> list[Any] | None:
    """Rows of a table that pandas wrote as an object, with any ``orient``; None for anything else."""
    if not isinstance(content, dict) or not content:
        return None
    columns, data, values = content.get("columns"), content.get("data"), list(content.values())
    if isinstance(data, list) and "schema" in content:  # table
        return data
    if isinstance(data, list) and isinstance(columns, list):  # split
        return [dict(zip(map(str, columns), row, strict=False)) for row in data if isinstance(row, list)]
    if all(isinstance(value, dict) for value in values):
        if all(key.isdecimal() for key in content):  # index
            return values
        places = dict.fromkeys(place for value in values for place in value)  # columns
        return [{column: value.get(place) for column, value in content.items()} for place in places]
    if len(values) < 2 or not all(
        isinstance(value, list) and len(value) == len(values[0]) for value in values
    ):
        return None
    rows = list(zip(*values, strict=True))
    nested = any(isinstance(value, list | dict) for row in rows for value in row)
    return None if nested else [dict(zip(content, row, strict=True)) for row in rows]  # nested: parts


def _begins_with_a_row(text: str) -> bool:
    try:
        return isinstance(json.loads(text.lstrip().partition("\n")[0]), dict | list)
    except (ValueError, RecursionError):
        return False


def _lines(text: str, where: str, mistakes: Mistakes) -> Iterator[Entry]:
    for place, line in _numbered(text, where):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            mistakes.add(f"{place}:", f"is not JSON ({error})")
        else:
            yield place, entry


def _numbered(text: str, where: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.split("\n"), 1):  # splitlines also splits at marks within a text
        if line.strip():
            yield f"{where}: line {number}", line


def require(needed: Sequence[str], columns: Sequence[str], where: str) -> None:
    """Raise a MetashotError if a needed column is missing or duplicated."""
    for column in needed:
        if columns.count(column) != 1:
            problem = "more than one" if column in columns else "no"
            raise MetashotError(f"{where}: {problem} column {column!r} (there are {listed(columns)})")


def listed(columns: Sequence[str]) -> str:
    """Column names for a message, shortened if they are many or long."""
    names = [name if len(name) <= 40 else f"{name[:39]}…" for name in columns[:SHOWN]]
    return ", ".join(names) + (f" and {len(columns) - SHOWN:,} more" if len(columns) > SHOWN else "")


def parquet(content: bytes, where: str) -> pq.ParquetFile:
    """Open a Parquet file. Raises MetashotError if it is not one."""
    try:
        return pq.ParquetFile(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        raise MetashotError(f"{where}: cannot be read ({reason_of(error)})") from None
