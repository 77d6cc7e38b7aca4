"""Columns of tables in CSV, TSV or Parquet: types, numbers, names."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute, csv

from metashot.data.files import Files, delimited, tables
from metashot.errors import ColumnError, MetashotError, Mistakes, reason_of, some

SUFFIXES = tables.DELIMITED | {tables.PARQUET}
FORMATS = "CSV, TSV or Parquet"
NUMBER = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|(?i:[+-]?(nan|inf|infinity))"
DECIMAL_COMMA = r"[+-]?[0-9.]*,[0-9]+([eE][+-]?[0-9]+)?"
MISSING = ("", "NA", "N/A", "n/a", "NULL", "null", "None", "#N/A")  # missing numbers in pandas and R


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
    table = delimited_table(content, origin, {}, mistakes)
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


def delimited_table(
    content: bytes, origin: str, types: Mapping[str, pa.DataType], mistakes: Mistakes
) -> pa.Table:
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
        raise MetashotError(f"{origin}: cannot be read as a table ({reason_of(error)})") from None


def without_empty_rows(columns: Mapping[str, pa.Array]) -> dict[str, pa.Array]:
    """Remove rows without any value, which spreadsheets leave at the end."""
    blank = np.logical_and.reduce(
        [column.is_null().to_numpy(zero_copy_only=False) for column in columns.values()]
    )
    return {name: column.filter(pa.array(~blank)) for name, column in columns.items()}


def numbers(column: pa.Array, where: str) -> pa.Array:
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


def encoded_names(column: pa.Array, name: str, origin: str) -> pa.DictionaryArray:
    """A column of names, dictionary-encoded. Raises MetashotError for lists and structs."""
    if pa.types.is_dictionary(column.type):  # a pandas category
        column = column.cast(column.type.value_type)
    if pa.types.is_nested(column.type):
        raise MetashotError(f"{origin}: column {name!r} is {column.type}: give texts or numbers")
    return column.dictionary_encode(null_encoding="encode")


class Names:
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
        refuse_empty(np.array([not name for name in self.names])[self.rows], name, origin)


def refuse_empty(empty: NDArray[np.bool_], column: str, origin: str) -> None:
    """Raise a MetashotError if a column is empty in some rows."""
    rows = np.flatnonzero(empty)
    if len(rows):
        where = f"rows {some([*map(str, rows)])} ({len(rows):,})" if len(rows) > 1 else f"row {rows[0]}"
        raise MetashotError(f"{origin}: column {column!r} is empty in {where}")
