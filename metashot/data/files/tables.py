"""Tables as people have them: which files are tables, their rows and their labels."""

import json
import re
import zipfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from metashot.data import label_of
from metashot.data.files import delimited, folders, split_lists
from metashot.errors import MetashotError, Mistakes
from metashot.output import say

Entry = tuple[str, Any]  # where a row is, and the row
DELIMITED = frozenset({".csv", ".tsv"})
JSON = frozenset({".json", ".jsonl", ".ndjson"})
PARQUET = ".parquet"
INDEX = re.compile(r"|Unnamed: [0-9]+.*|__index_level_[0-9]+__|\.\.\.[0-9]+")  # pandas, Excel and readr
SHOWN = 20  # columns in a message
_SPREADSHEETS = frozenset({".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers"})
_COMPRESSED = frozenset({".gz", ".gzip", ".bz2", ".xz", ".zst", ".7z", ".rar", ".tar", ".tgz"})


class Labels:
    """Names of classes, as `label_of` has them; notes which were written in more than one way."""

    def __init__(self) -> None:
        self._written: dict[str, str] = {}
        self._merged: dict[str, str] = {}

    def name(self, value: object) -> str:
        """The name that a value is. Raises ValueError as `label_of` does."""
        name, written = label_of(value), str(value)
        if self._written.setdefault(name, written) != written:
            self._merged.setdefault(name, written)
        return name

    def tell(self, path: str) -> None:
        """Tell a person which labels count as one, if any do."""
        if self.merged:
            say(f"{path}: {self.merged}", err=True)

    @property
    def merged(self) -> str:
        """Which labels count as one, in words; empty where there are none."""
        if not self._merged:
            return ""
        name, written = next(iter(self._merged.items()))
        return (
            f"labels that read alike are one class: {written!a} and {self._written[name]!a} are {name!r}"
            + (f" ({len(self._merged):,} like this)" if len(self._merged) > 1 else "")
        )


def local(raw: folders.Pinned, root: Path, suffixes: Collection[str]) -> split_lists.Found:
    """The tables that a path of params.yaml names: a file, or all of a folder or zip.

    Raises MetashotError as `folders.local` does, and for a file that is neither a table nor a zip.
    """
    refuse_other(root / raw.path, raw.path, suffixes)
    return folders.local(raw, root, suffixes)


def refuse_other(path: Path, shown: str, suffixes: Collection[str]) -> None:
    """Raise a MetashotError that says how to save a file which is neither a table, sample nor zip."""
    suffix = path.suffix.lower()
    if not path.is_file() or suffix in suffixes:
        return
    if suffix in _SPREADSHEETS:
        raise MetashotError(f"{shown}: a spreadsheet, which is not read: save it as CSV in UTF-8")
    if suffix in _COMPRESSED:
        raise MetashotError(f"{shown}: compressed, and not as zip: unpack it, or pack it as zip")
    if suffix != ".zip" and not zipfile.is_zipfile(path):
        formats = ", ".join(sorted(suffixes))
        raise MetashotError(f"{shown}: neither a zip file nor named like one that is read ({formats})")


def entries(
    content: bytes, where: str, columns: Sequence[str], parts: Sequence[str], mistakes: Mistakes
) -> Iterator[Entry]:
    """The rows of a file: where each is, and an object with the columns, a list or, of plain text, a line.

    CSV and TSV have a line of column names; the separator is found out. JSON is a list of rows, an object
    with such lists, or what pandas writes of a table; JSON Lines has a row on each line. Text is in UTF-8, or
    in UTF-16 with a mark.

    Args:
        content: Of the file.
        where: Its path, whose suffix says what it is; plain text by default.
        columns: What it has to have, if it has names of columns.
        parts: Keys of the object that a JSON file holds; empty for all.
        mistakes: Takes up rows that cannot be read.

    Raises MetashotError where it cannot be read as what it is, or lacks a column or a part.
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
        raise MetashotError(f"{where}: cannot be read ({' '.join(str(error).split())[:200]})") from None


def _json(text: str, where: str, parts: Sequence[str], mistakes: Mistakes) -> Iterator[Entry]:
    lines = PurePosixPath(where).suffix.lower() != ".json"
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        if lines or _begins_with_a_row(text):  # pandas' `lines=True`, under any name
            yield from _lines(text, where, mistakes)
            return
        raise MetashotError(f"{where}: cannot be read ({error})") from None
    if lines and not (isinstance(content, list) and all(isinstance(row, dict | list) for row in content)):
        yield from _lines(text, where, mistakes)  # a single one
        return
    if (frame := _frame(content)) is not None:
        content = frame
    lists = content if isinstance(content, dict) else {"": content}
    for part in parts:
        if part not in lists:
            known = named([*filter(None, lists)]) or "none"
            raise MetashotError(f"{where}: no part {part!r} (there are {known})")
    for part in parts or lists:
        shown = f"{where}: {part}" if part else where
        if not isinstance(lists[part], list):
            raise MetashotError(
                f"{shown}: is not a list of rows: write a list of objects (pandas: orient='records')"
            )
        yield from ((f"{shown}: row {number}", entry) for number, entry in enumerate(lists[part]))


def _frame(content: Any) -> list[Any] | None:
    """The rows of a table that pandas wrote as an object, by whatever ``orient``; None for anything else."""
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
    nested = any(isinstance(value, list | dict) for row in rows for value in row)  # parts, then
    return None if nested else [dict(zip(content, row, strict=True)) for row in rows]


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
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would divide texts
        if line.strip():
            yield f"{where}: line {number}", line


def require(wanted: Sequence[str], columns: Sequence[str], where: str) -> None:
    """Raise a MetashotError where a column is missing, or is there more than once."""
    for column in wanted:
        if columns.count(column) != 1:
            problem = "more than one" if column in columns else "no"
            raise MetashotError(f"{where}: {problem} column {column!r} (there are {named(columns)})")


def named(columns: Sequence[str]) -> str:
    """Names of columns in a message, cut where they are many or long."""
    names = [name if len(name) <= 40 else f"{name[:39]}…" for name in columns[:SHOWN]]
    return ", ".join(names) + (f" and {len(columns) - SHOWN:,} more" if len(columns) > SHOWN else "")


def parquet(content: bytes, where: str) -> pq.ParquetFile:
    """A Parquet file. Raises MetashotError where it is not one."""
    try:
        return pq.ParquetFile(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        raise MetashotError(f"{where}: cannot be read ({' '.join(str(error).split())[:200]})") from None
