"""Series table: your own measurements over time, as CSV, TSV or Parquet, one row for each step.

Columns: ``id``, the series that a row belongs to; ``label``, its class; one column for each channel;
optionally ``time``, numbers or times by which the rows of a series are sorted; with ``prepare.split: listed``
also ``split``: ``train``, ``val`` or ``test``. Other columns are ignored.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute, csv

from metashot.data import Item, Key, ordered
from metashot.data.files import (
    Files,
    archive,
    class_names,
    delimited,
    division,
    local,
    pinned,
    split_lists,
    tables,
)
from metashot.data.kinds import series
from metashot.data.sources.folder import about
from metashot.errors import ColumnError, MetashotError, Mistakes, reason_of, some
from metashot.section import Section

SUFFIXES = tables.DELIMITED | {tables.PARQUET}
FORMATS = "CSV, TSV or Parquet"
RESERVED = ("id", "label", "split", "time")  # columns that cannot be channels
NUMBER = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|(?i:[+-]?(nan|inf|infinity))"
DECIMAL_COMMA = r"[+-]?[0-9.]*,[0-9]+([eE][+-]?[0-9]+)?"
MISSING = ("", "NA", "N/A", "n/a", "NULL", "null", "None", "#N/A")  # missing numbers in pandas and R
ABOUT = about("tables of series")
_PACKED = "tables"


@dataclass(frozen=True, kw_only=True)
class Raw(Section):
    """Section ``raw`` of a data set of series.

    Attributes:
        path: A CSV, TSV or Parquet file, or a folder or zip file of them; relative to the repository, or
            absolute.
        md5: Digest of the files, written by `metashot refresh`; empty before the first time.
    """

    path: str
    md5: str


@dataclass(frozen=True, kw_only=True)
class Prepare(series.Prepare, division.Prepare):
    """Section ``prepare`` of a data set of series."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if reserved := set(RESERVED) & set(self.channels):
            raise ValueError(f"channels: {min(reserved)!r} is a column with another meaning")


def digest(raw: Raw, root: Path) -> str:
    """Digest of the tables as they are now."""
    return pinned.digest(find(raw.path, root).items())


def download(raw: Raw, directory: Path) -> None:
    """Pack the tables into zips, unchanged. Raises MetashotError as `pinned.pack` does."""
    pinned.pack(find(raw.path, Path()).items(), raw, directory / _PACKED)


def items(prepare: Prepare, directory: Path) -> list[Item]:
    """Every series.

    Raises MetashotError for a table that cannot be read or lacks a column, for a series without id or label,
    in two tables, with two labels or with two rows at one time, and for ambiguous labels.
    """
    series_by_id: dict[str, Item] = {}
    mistakes, labels = Mistakes(), tables.Labels()
    for path in archive.zips(directory / _PACKED):
        for name, read in archive.members(path, SUFFIXES):
            for item in of_table(
                read(), f"{path}: member {name!r}", suffix_of(name), prepare, labels, mistakes
            ):
                check_unique(series_by_id.setdefault(item.key.name, item), item, mistakes)
    packed, unordered = str(directory / _PACKED), series_by_id.values()
    classes = {item.key.class_ for item in unordered}
    local.refuse([*mistakes.lines, *class_names.ambiguous(packed, classes)])
    labels.report_merged(packed)
    if isinstance(prepare.split, division.Shares):
        return ordered(division.divide(unordered, prepare.split))
    return ordered(unordered)


def check_unique(first: Item, item: Item, mistakes: Mistakes) -> None:
    """Add a series to ``mistakes`` if it is not the first with its id."""
    if first is not item:
        mistakes.add(f"{item.origin} is also in {first.origin}:", "an id stands for one series", "series")


def origin_of(path: str, name: str) -> str:
    """Place of a table for messages: the path in params.yaml, and its name in that folder or zip."""
    return path if Path(path).name == name else f"{path}/{name}"


def suffix_of(name: str) -> str:
    """The suffix of a file name, in lower case."""
    return Path(name).suffix.lower()


def find(path: str, root: Path) -> Files:
    """The tables at a path. Raises MetashotError as `tables.find` does, and if there are none."""
    files = tables.find(path, root, SUFFIXES)
    if not files:
        raise MetashotError(f"raw.path: {path}: no {FORMATS} file in it")
    return files


def schema(content: bytes, origin: str, suffix: str) -> pa.Schema:
    """Names and types of a table's columns; see `typed`."""
    if suffix == tables.PARQUET:
        return tables.parquet(content, origin).schema_arrow
    return typed(content, origin, suffix).schema


def typed(content: bytes, origin: str, suffix: str) -> pa.Table:
    """A whole table, with the types that pyarrow infers. Raises MetashotError if it cannot be read."""
    if suffix == tables.PARQUET:
        return tables.parquet(content, origin).read()
    mistakes = Mistakes()
    table = _delimited(content, origin, {}, mistakes)
    if not len(table):
        mistakes.refuse()
    return table


def is_number(dtype: pa.DataType) -> bool:
    """Whether a column of this type holds numbers."""
    return bool(pa.types.is_integer(dtype) or pa.types.is_floating(dtype) or pa.types.is_decimal(dtype))


def is_text(dtype: pa.DataType) -> bool:
    """Whether a column of this type holds texts."""
    if pa.types.is_dictionary(dtype):
        return is_text(dtype.value_type)
    string_types = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(is_string(dtype) for is_string in string_types)


def of_table(
    content: bytes, origin: str, suffix: str, prepare: Prepare, labels: tables.Labels, mistakes: Mistakes
) -> Iterator[Item]:
    """The series of a table, in the splits that it names, without those that have mistakes.

    Args:
        content: Content of the file.
        origin: Place of the file, for messages.
        suffix: Suffix of its name.
        prepare: Names the channels.
        labels: Normalises labels.
        mistakes: Gets mistakes in rows and series.

    Raises MetashotError for a table that cannot be used as a whole.
    """
    table = _read(content, origin, suffix, prepare, mistakes)
    ids = _Names(table["id"], "id", origin, tables.Labels())
    if ids.labels.merged:
        alike = ids.labels.merged.partition(": ")[2]
        raise ColumnError(f"{origin}: ids that read alike: {alike}:", "rename them")
    classes = _Names(table["label"], "label", origin, labels)
    columns = {"label": classes}
    if "split" in table:
        columns["split"] = splits = _Names(table["split"], "split", origin, tables.Labels())
        if unknown := {*splits.names} - {*split_lists.SPLITS}:
            raise ColumnError(f"{origin}: column 'split': {min(unknown)!r}", "is not train, val or test")
    channels = np.stack([np.from_dlpack(table[name].fill_null(np.nan)) for name in prepare.channels])

    times = np.from_dlpack(table["time"]) if "time" in table else np.zeros(len(ids.rows))
    order = np.lexsort((times, ids.rows))  # stable: without times, rows stay in the table's order
    channels, times, id_rows = channels[:, order], times[order], ids.rows[order]
    numbers = {column: names.rows[order] for column, names in columns.items()}
    starts = np.flatnonzero(np.diff(id_rows, prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(id_rows)], strict=True):
        name, rows = ids.names[id_rows[start]], slice(start, end)
        place, before = f"{origin}: series {name!r}", len(mistakes)
        for column, names in columns.items():
            if np.ptp(numbers[column][rows]):
                first, last = sorted({names.names[number] for number in numbers[column][rows]})[:2]
                mistakes.add(f"{place} ({first!r} and {last!r})", f"has more than one {column}", "series")
        if "time" in table and not np.diff(times[rows]).all():
            mistakes.add(place, "has two rows at one time", "series")
        if len(mistakes) == before:
            split = splits.names[numbers["split"][start]] if "split" in table else ""
            key = Key(split, split_lists.ALL, classes.names[numbers["label"][start]], name)
            yield Item(key, partial(series.encode, channels[:, rows]), place)


def _read(
    content: bytes, origin: str, suffix: str, prepare: Prepare, mistakes: Mistakes
) -> dict[str, pa.Array]:
    """Columns of a table by name; ``time``, if there is one, as numbers in the same order."""
    names = ["id", "label", *(["split"] if prepare.split == "listed" else []), *prepare.channels]
    try:
        if suffix == tables.PARQUET:
            table = tables.parquet(content, origin).read()
        else:  # all as texts: a class may be called NA
            table = _delimited(content, origin, dict.fromkeys(names, pa.string()), mistakes)
        if "time" in table.column_names:
            names.append("time")
        tables.require(names, table.column_names, origin)
        columns = {name: table.column(name).combine_chunks() for name in names}
        if suffix != tables.PARQUET and len(table):
            columns = _without_empty_rows(columns)
        if not len(columns["id"]):
            raise MetashotError(f"{origin}: a table without rows")
        for name in prepare.channels:
            columns[name] = _numbers(columns[name], f"{origin}: column {name!r}")
        if "time" in columns:
            columns["time"] = columns["time"].cast(_ordered(columns["time"].type))
            _refuse_empty(
                columns["time"].is_null(nan_is_null=True).to_numpy(zero_copy_only=False), "time", origin
            )
    except (pa.ArrowException, OSError) as error:
        raise MetashotError(f"{origin}: cannot be read as a table of series ({reason_of(error)})") from None
    return columns


def _delimited(content: bytes, origin: str, types: Mapping[str, pa.DataType], mistakes: Mistakes) -> pa.Table:
    """A delimited text as a table; columns that are not in ``types`` get inferred types."""
    text = delimited.decoded(content, origin)
    head = delimited.header(text, origin)
    rows = text[head.start :]
    columns = head.columns + [""] * (delimited.width(rows, head) - len(head.columns))
    if not rows.strip():
        return pa.table([pa.array([], pa.string())] * len(columns), names=columns)

    def skip(row: csv.InvalidRow) -> str:
        place = f"{origin}: line {head.lines + row.number}"
        if row.actual_columns > row.expected_columns:
            delimited.too_long(mistakes, place, head.separator)
        else:
            mistakes.add(f"{place}:", "fewer values than columns")
        return "skip"

    convert = csv.ConvertOptions(column_types=types)
    if types:
        convert.null_values, convert.strings_can_be_null = [""], True
    try:
        return csv.read_csv(
            pa.BufferReader(rows.encode()),
            read_options=csv.ReadOptions(column_names=columns, use_threads=False),  # to have row numbers
            parse_options=csv.ParseOptions(
                delimiter=head.separator, newlines_in_values=True, invalid_row_handler=skip
            ),
            convert_options=convert,
        )
    except (pa.ArrowException, OSError) as error:
        raise MetashotError(f"{origin}: cannot be read as a table of series ({reason_of(error)})") from None


def _without_empty_rows(columns: Mapping[str, pa.Array]) -> dict[str, pa.Array]:
    """Remove rows without any value, which spreadsheets leave at the end."""
    blank = np.logical_and.reduce(
        [column.is_null().to_numpy(zero_copy_only=False) for column in columns.values()]
    )
    return {name: column.filter(pa.array(~blank)) for name, column in columns.items()}


def _numbers(column: pa.Array, where: str) -> pa.Array:
    """A column as float64. Raises ColumnError for values that are not numbers."""
    if not is_text(column.type):
        return column.cast(pa.float64())
    text = compute.utf8_trim_whitespace(column.cast(pa.string()))
    text = compute.if_else(compute.is_in(text, pa.array(MISSING)), None, text)
    if error := not_numbers(text, where):
        raise error
    return compute.utf8_ltrim(text, "+").cast(pa.float64())


def not_numbers(text: pa.Array, where: str) -> ColumnError | None:
    """The error about values of a column of texts that are not numbers; None if all are."""
    bad = compute.invert(compute.match_substring_regex(text, f"^({NUMBER})$")).fill_null(False)
    rows = np.flatnonzero(bad.to_numpy(zero_copy_only=False))
    if not len(rows):
        return None
    shown = some([f"{text[row].as_py()[:40]!r} in row {row}" for row in rows[:4]])
    comma = bool(compute.all(compute.match_substring_regex(text.take(rows), f"^({DECIMAL_COMMA})$")).as_py())
    mend = "write decimals with a point" if comma else "write numbers, or leave them empty"
    return ColumnError(f"{where}: {len(rows):,} values ({shown})", f"are not numbers: {mend}")


def _ordered(dtype: pa.DataType) -> pa.DataType:
    """A type of numbers to which times of a type can be cast without a change of order."""
    if pa.types.is_temporal(dtype):
        return pa.int32() if dtype.bit_width == 32 else pa.int64()
    return dtype if pa.types.is_integer(dtype) else pa.float64()


def encoded_names(column: pa.Array, name: str, origin: str) -> pa.DictionaryArray:
    """A column of names, dictionary-encoded. Raises MetashotError for lists and structs."""
    if pa.types.is_dictionary(column.type):  # a pandas category
        column = column.cast(column.type.value_type)
    if pa.types.is_nested(column.type):
        raise MetashotError(f"{origin}: column {name!r} is {column.type}: give texts or numbers")
    return column.dictionary_encode(null_encoding="encode")


class _Names:
    """A column of names.

    Attributes:
        labels: What normalised the names.
        names: Distinct names, sorted.
        rows: int32 ``[rows]``, index of each row's name.

    Raises MetashotError for values that are empty, or neither text nor a number.
    """

    def __init__(self, column: pa.Array, name: str, origin: str, labels: tables.Labels) -> None:
        encoded = encoded_names(column, name, origin)
        self.labels = labels
        try:
            names = [labels.name(value) for value in encoded.dictionary.to_pylist()]
        except ValueError as error:
            raise MetashotError(f"{origin}: column {name!r} is {column.type}: {error}") from None
        self.names = sorted({*names})
        index = {name: number for number, name in enumerate(self.names)}
        numbers = np.array([index[name] for name in names], np.int32)
        self.rows: NDArray[np.int32] = numbers[np.from_dlpack(encoded.indices)]
        _refuse_empty(np.array([not name for name in self.names])[self.rows], name, origin)


def _refuse_empty(empty: NDArray[np.bool_], column: str, origin: str) -> None:
    """Raise a MetashotError if a column is empty in some rows."""
    rows = np.flatnonzero(empty)
    if len(rows):
        where = f"rows {some([*map(str, rows)])} ({len(rows):,})" if len(rows) > 1 else f"row {rows[0]}"
        raise MetashotError(f"{origin}: column {column!r} is empty in {where}")
