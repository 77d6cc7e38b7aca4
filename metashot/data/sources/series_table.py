"""Series table: measurements over time of your own, as CSV, TSV or Parquet, one row for each step.

Columns: ``id`` says which series a row belongs to, ``label`` its class; one column for each channel; with
``time``, numbers or times, that is the order of a series' rows, otherwise the table's order; with
``prepare.split: listed``, ``split`` says ``train``, ``val`` or ``test``. Others do not count.
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
from metashot.data.files import archive, delimited, folders, split_lists, tables
from metashot.data.kinds import series
from metashot.errors import ColumnError, MetashotError, Mistakes, some
from metashot.section import Section

SUFFIXES = tables.DELIMITED | {tables.PARQUET}
FORMATS = "CSV, TSV or Parquet"
NAMED = ("id", "label", "split", "time")  # columns with a meaning of their own
NUMBER = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|(?i:[+-]?(nan|inf|infinity))"
DECIMAL_COMMA = r"[+-]?[0-9.]*,[0-9]+([eE][+-]?[0-9]+)?"
MISSING = ("", "NA", "N/A", "n/a", "NULL", "null", "None", "#N/A")  # for a number, as pandas and R write it
ABOUT: Mapping[str, object] = {
    "source": "tables of series",
    "licence": "as its owner says",
    "citation": "",
    "synthetic": False,
}
_PACKED = "tables"


@dataclass(frozen=True, kw_only=True)
class Raw(Section):
    """Section ``raw`` of a data set that is tables of series.

    Attributes:
        path: A CSV, TSV or Parquet file, or a folder or zip file of them; relative to the repository, or
            absolute.
        md5: Digest of the files, written by `metashot refresh`; empty before the first time.
    """

    path: str
    md5: str


@dataclass(frozen=True, kw_only=True)
class Prepare(series.Prepare, folders.Prepare):
    """Section ``prepare`` of a data set that is tables of series."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if taken := set(NAMED) & set(self.channels):
            raise ValueError(f"channels: {min(taken)!r} is a column with another meaning")


def digest(raw: Raw, root: Path) -> str:
    """Digest of the tables as they are now."""
    return folders.digest(local(raw, root).items())


def download(raw: Raw, directory: Path) -> None:
    """Pack the tables into zips, as they are. Raises MetashotError as `folders.pack` does."""
    folders.pack(local(raw, Path()).items(), raw, directory / _PACKED)


def items(prepare: Prepare, directory: Path) -> list[Item]:
    """Every series.

    Raises MetashotError for a table that cannot be read or lacks a column, for a series without id or label,
    in two tables, of two labels or with two rows at one time, and for labels that a person cannot tell apart.
    """
    found: dict[str, Item] = {}
    mistakes, labels = Mistakes(), tables.Labels()
    for path in archive.zips(directory / _PACKED):
        for name, read in archive.members(path, SUFFIXES):
            for item in of_table(
                read(), f"{path}: member {name!r}", kind_of(name), prepare, labels, mistakes
            ):
                again(found.setdefault(item.key.name, item), item, mistakes)
    packed = str(directory / _PACKED)
    folders.refuse([*mistakes.lines, *folders.indistinct(packed, {i.key.class_ for i in found.values()})])
    labels.tell(packed)
    if isinstance(prepare.split, folders.Shares):
        return ordered(folders.divide(found.values(), prepare.split))
    return ordered(found.values())


def again(first: Item, item: Item, mistakes: Mistakes) -> None:
    """Take up a series whose id another has."""
    if first is not item:
        mistakes.add(f"{item.origin} is also in {first.origin}:", "an id stands for one series", "series")


def origin_of(path: str, name: str) -> str:
    """Where a table is: the path of params.yaml, and its name in it."""
    return path if Path(path).name == name else f"{path}/{name}"


def kind_of(name: str) -> str:
    """The suffix of a file's name."""
    return Path(name).suffix.lower()


def local(raw: folders.Pinned, root: Path) -> split_lists.Found:
    """The tables that a path names. Raises MetashotError as `tables.local` does, and where there are none."""
    found = tables.local(raw, root, SUFFIXES)
    if not found:
        raise MetashotError(f"raw.path: {raw.path}: no {FORMATS} file in it")
    return found


def schema(content: bytes, origin: str, suffix: str) -> pa.Schema:
    """Names and types of a table's columns; see `typed`."""
    if suffix == tables.PARQUET:
        return tables.parquet(content, origin).schema_arrow
    return typed(content, origin, suffix).schema


def typed(content: bytes, origin: str, suffix: str) -> pa.Table:
    """A table as it is, its columns of the types that they look like.

    Raises MetashotError when it cannot be read.
    """
    if suffix == tables.PARQUET:
        return tables.parquet(content, origin).read()
    mistakes = Mistakes()
    table = _delimited(content, origin, {}, mistakes)
    if not len(table):
        mistakes.refuse()
    return table


def is_number(kind: pa.DataType) -> bool:
    """Whether a column of a type holds numbers."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of a type holds texts."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def of_table(
    content: bytes, origin: str, suffix: str, prepare: Prepare, labels: tables.Labels, mistakes: Mistakes
) -> Iterator[Item]:
    """The series of a table, in the splits that it names, but for those with mistakes.

    Args:
        content: Of the file.
        origin: Where it is, for messages.
        suffix: Of its name.
        prepare: Which columns are channels.
        labels: Notes labels that are written in more than one way.
        mistakes: Takes up what is wrong with a row or a series.

    Raises MetashotError for a table that is wrong as a whole.
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
        if strange := {*splits.names} - {*split_lists.SPLITS}:
            raise ColumnError(f"{origin}: column 'split': {min(strange)!r}", "is not train, val or test")
    channels = np.stack([np.from_dlpack(table[name].fill_null(np.nan)) for name in prepare.channels])

    times = np.from_dlpack(table["time"]) if "time" in table else np.zeros(len(ids.rows))
    order = np.lexsort((times, ids.rows))  # stable: what has no time stays in the table's order
    channels, times, id_rows = channels[:, order], times[order], ids.rows[order]
    numbers = {column: names.rows[order] for column, names in columns.items()}
    starts = np.flatnonzero(np.diff(id_rows, prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(id_rows)], strict=True):
        name, rows = ids.names[id_rows[start]], slice(start, end)
        of, before = f"{origin}: series {name!r}", len(mistakes)
        for column, names in columns.items():
            if np.ptp(numbers[column][rows]):
                first, last = sorted({names.names[number] for number in numbers[column][rows]})[:2]
                mistakes.add(f"{of} ({first!r} and {last!r})", f"has more than one {column}", "series")
        if "time" in table and not np.diff(times[rows]).all():
            mistakes.add(of, "has two rows at one time", "series")
        if len(mistakes) == before:
            split = splits.names[numbers["split"][start]] if "split" in table else ""
            key = Key(split, split_lists.ALL, classes.names[numbers["label"][start]], name)
            yield Item(key, partial(series.encode, channels[:, rows]), of)


def _read(
    content: bytes, origin: str, suffix: str, prepare: Prepare, mistakes: Mistakes
) -> dict[str, pa.Array]:
    """Columns of a table by name; ``time``, where there is one, as numbers in the same order."""
    names = ["id", "label", *(["split"] if prepare.split == "listed" else []), *prepare.channels]
    try:
        if suffix == tables.PARQUET:
            table = tables.parquet(content, origin).read()
        else:  # a class may be called NA
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
        reason = " ".join(str(error).split())[:200]
        raise MetashotError(f"{origin}: cannot be read as a table of series ({reason})") from None
    return columns


def _delimited(content: bytes, origin: str, types: Mapping[str, pa.DataType], mistakes: Mistakes) -> pa.Table:
    """A delimited text as a table; what is not in ``types`` gets the type that it looks like."""
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
            read_options=csv.ReadOptions(column_names=columns, use_threads=False),  # which numbers rows
            parse_options=csv.ParseOptions(
                delimiter=head.separator, newlines_in_values=True, invalid_row_handler=skip
            ),
            convert_options=convert,
        )
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise MetashotError(f"{origin}: cannot be read as a table of series ({reason})") from None


def _without_empty_rows(columns: Mapping[str, pa.Array]) -> dict[str, pa.Array]:
    """Without rows in which nothing is written, as spreadsheets leave them at the end."""
    blank = np.logical_and.reduce(
        [column.is_null().to_numpy(zero_copy_only=False) for column in columns.values()]
    )
    return {name: column.filter(pa.array(~blank)) for name, column in columns.items()}


def _numbers(column: pa.Array, where: str) -> pa.Array:
    """A column as numbers. Raises ColumnError that says which values are not numbers."""
    if not is_text(column.type):
        return column.cast(pa.float64())
    text = compute.utf8_trim_whitespace(column.cast(pa.string()))
    text = compute.if_else(compute.is_in(text, pa.array(MISSING)), None, text)
    if error := not_numbers(text, where):
        raise error
    return compute.utf8_ltrim(text, "+").cast(pa.float64())


def not_numbers(text: pa.Array, where: str) -> ColumnError | None:
    """What is wrong with a column of texts that should be numbers: which are not; None if all are."""
    bad = compute.invert(compute.match_substring_regex(text, f"^({NUMBER})$")).fill_null(False)
    rows = np.flatnonzero(bad.to_numpy(zero_copy_only=False))
    if not len(rows):
        return None
    shown = some([f"{text[row].as_py()[:40]!r} in row {row}" for row in rows[:4]])
    comma = bool(compute.all(compute.match_substring_regex(text.take(rows), f"^({DECIMAL_COMMA})$")).as_py())
    mend = "write decimals with a point" if comma else "write numbers, or leave them empty"
    return ColumnError(f"{where}: {len(rows):,} values ({shown})", f"are not numbers: {mend}")


def _ordered(kind: pa.DataType) -> pa.DataType:
    """Numbers that are in the order of times of a type."""
    if pa.types.is_temporal(kind):
        return pa.int32() if kind.bit_width == 32 else pa.int64()
    return kind if pa.types.is_integer(kind) else pa.float64()


def encoded_names(column: pa.Array, name: str, origin: str) -> pa.DictionaryArray:
    """A column of names as numbers of them. Raises MetashotError for what cannot be names."""
    if pa.types.is_dictionary(column.type):  # a pandas category
        column = column.cast(column.type.value_type)
    if pa.types.is_nested(column.type):
        raise MetashotError(f"{origin}: column {name!r} is {column.type}: give texts or numbers")
    return column.dictionary_encode(null_encoding="encode")


class _Names:
    """A column of names: the number of each row's, and the names.

    Raises MetashotError for what is empty, or neither text nor a number.
    """

    def __init__(self, column: pa.Array, name: str, origin: str, labels: tables.Labels) -> None:
        encoded = encoded_names(column, name, origin)
        self.labels = labels
        try:
            names = [labels.name(value) for value in encoded.dictionary.to_pylist()]
        except ValueError as error:
            raise MetashotError(f"{origin}: column {name!r} is {column.type}: {error}") from None
        self.names = sorted({*names})
        places = {written: place for place, written in enumerate(self.names)}
        numbers = np.array([places[written] for written in names], np.int32)
        self.rows: NDArray[np.int32] = numbers[np.from_dlpack(encoded.indices)]
        _refuse_empty(np.array([not name for name in self.names])[self.rows], name, origin)


def _refuse_empty(empty: NDArray[np.bool_], column: str, origin: str) -> None:
    """Raise a MetashotError where a column is empty in some rows."""
    rows = np.flatnonzero(empty)
    if len(rows):
        where = f"rows {some([*map(str, rows)])} ({len(rows):,})" if len(rows) > 1 else f"row {rows[0]}"
        raise MetashotError(f"{origin}: column {column!r} is empty in {where}")
