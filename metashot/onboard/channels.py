"""Detection of channels in tables of series: measurements, but not row numbers, clocks or codes."""

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute

from metashot.data.files import Files, columnar, tables
from metashot.data.sources import series_table
from metashot.errors import MetashotError, Mistakes

CLOCK = re.compile(
    r"(time|timestamp|date|datetime|ts?|step|frame|index|elapsed|epoch|(milli)?sec(ond)?)s?"
    r"([ _.(\[]+\w+[)\]]?)?",  # a unit
    re.IGNORECASE,
)
CODE = "the same throughout each series"
NUMERIC = 0.5  # share of numbers in a column of texts above which all its values are meant to be numbers


class Columns(NamedTuple):
    """The columns of tables of series.

    Attributes:
        channels: Names of the channels, in the order of the first table.
        listed: Whether there is a column ``split``.
        left_out: Other columns, and the reason why they are not channels.
    """

    channels: tuple[str, ...]
    listed: bool
    left_out: Mapping[str, str]


def columns_of(files: Files, path: str) -> Columns:
    """Tell channels from other columns by the contents of all tables.

    A column is not a channel if it is an index or, as long as others remain, if it numbers the rows, is a
    clock or is constant in each series.

    Args:
        files: The tables.
        path: Their path in params.yaml, for messages.

    Raises MetashotError when a table cannot be read, has no id, no label or no column of numbers, when
    numbers are written as text, and when rows are not in the order of a clock.
    """
    first: pa.Schema | None = None
    left_out: dict[str, str] = {}
    reasons: defaultdict[str, set[str]] = defaultdict(set)
    mistakes = Mistakes()
    for name, read in files.items():
        origin = columnar.origin_of(path, name)
        table = columnar.typed(read(), origin, columnar.suffix_of(name))
        if first is None:
            first = table.schema
            _refuse_other(first, origin)
        if not {"id", "label"} <= {*table.column_names}:
            continue  # reported when its series are read
        column = table.column(table.column_names.index("id")).combine_chunks()
        ids = np.asarray(columnar.encoded_names(column, "id", origin).indices)
        index = _index(table.schema)
        for number, field in enumerate(table.schema):
            if field.name in series_table.RESERVED:
                continue
            column, where = table.column(number).combine_chunks(), f"{origin}: column {field.name!r}"
            if not (columnar.is_number(field.type) or pa.types.is_temporal(field.type)):
                left_out[field.name] = _describe_other(column, where, mistakes)
                continue
            values = _values(column)
            if field.name in index or tables.INDEX.fullmatch(field.name):
                reason = left_out[field.name] = "the table's index"
            else:
                reason = _reason(values, ids, field)
                reasons[field.name].add(reason)
            if pa.types.is_temporal(field.type):
                left_out[field.name] = "times"
            orders_rows = reason not in ("", CODE) and (
                field.name not in index or tables.INDEX.fullmatch(field.name)
            )
            if orders_rows and "time" not in table.column_names and _decreases(values, ids):
                mistakes.add(
                    f"{where} is {reason}:",
                    "the rows of a series are not in its order: name it time, or sort the rows",
                    "columns",
                )
    mistakes.refuse()
    names = first.names if first else []
    candidates = [name for name in dict.fromkeys(names) if name in reasons and name not in left_out]
    channels = [name for name in candidates if "" in reasons[name]] or candidates
    left_out |= {name: min(reasons[name]) for name in candidates if name not in channels}
    if not channels:
        others = ", ".join(f"{name or 'unnamed'}: {why}" for name, why in left_out.items())
        raise MetashotError(
            f"{path}: no column of measurements ({others}): a table of series has the columns id, label and "
            "others of numbers, a table of texts has text and label"
        )
    return Columns(tuple(channels), "split" in names, left_out)


def _refuse_other(schema: pa.Schema, origin: str) -> None:
    if not is_series(schema):
        raise MetashotError(
            f"{origin}: a table of series has the columns id and label, and others of numbers (there are "
            f"{tables.listed(schema.names)})"
        )


def is_series(schema: pa.Schema) -> bool:
    """Whether a table with these columns is a table of series."""
    others = any(field.name not in series_table.RESERVED for field in schema)
    return {"id", "label"} <= {*schema.names} and others


def _reason(values: NDArray[np.float64], ids: NDArray[np.int32], field: pa.Field) -> str:
    """The reason why a column is not a channel; empty for a channel."""
    order = np.lexsort((values, ids))
    within = np.diff(ids[order]) == 0
    steps = np.diff(values[order])[within]
    if not len(steps):
        return ""
    if not steps.any():
        return CODE
    if pa.types.is_integer(field.type) and len(np.unique(values)) == len(values) == np.ptp(values) + 1:
        return "a number for each row"
    increases = bool((steps > 0).all())
    if increases and (pa.types.is_temporal(field.type) or CLOCK.fullmatch(field.name)):
        return "a clock"
    even = increases and len(steps) > 1 and np.allclose(steps, steps[0], rtol=1e-6, atol=0)
    return "a clock with equal steps in all series" if even else ""


def _decreases(values: NDArray[np.float64], ids: NDArray[np.int32]) -> bool:
    """Whether values decrease anywhere in a series, in the order of the rows."""
    order = np.argsort(ids, kind="stable")
    steps = np.diff(values[order])[np.diff(ids[order]) == 0]
    return bool((steps < 0).any())


def _values(column: pa.Array) -> NDArray[np.float64]:
    if pa.types.is_temporal(column.type):
        column = column.cast(pa.int32() if column.type.bit_width == 32 else pa.int64())
    return np.asarray(column.cast(pa.float64(), safe=False).fill_null(np.nan))


def _describe_other(column: pa.Array, where: str, mistakes: Mistakes) -> str:
    """The type of a column that is not of numbers; one with mostly numbers is added to ``mistakes``."""
    if not columnar.is_text(column.type):
        return "empty" if pa.types.is_null(column.type) else str(column.type)
    text = compute.utf8_trim_whitespace(column.cast(pa.string()))
    text = compute.if_else(compute.is_in(text, pa.array(columnar.MISSING)), None, text)
    numeric = compute.match_substring_regex(text, f"^({columnar.NUMBER}|{columnar.DECIMAL_COMMA})$")
    if (compute.mean(numeric).as_py() or 0) > NUMERIC and (error := columnar.not_numbers(text, where)):
        mistakes.add_line(error)
    return "text"


def _index(schema: pa.Schema) -> set[str]:
    """Columns that contain the index of a pandas table."""
    metadata = schema.pandas_metadata or {}
    return {name for name in metadata.get("index_columns", ()) if isinstance(name, str)}
