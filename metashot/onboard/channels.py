"""Which columns of tables of series are channels: what was measured, and no row number, clock or code."""

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute

from metashot.data.files import split_lists, tables
from metashot.data.sources import series_table
from metashot.errors import MetashotError, Mistakes

CLOCK = re.compile(
    r"(time|timestamp|date|datetime|ts?|step|frame|index|elapsed|epoch|(milli)?sec(ond)?)s?"
    r"([ _.(\[]+\w+[)\]]?)?",  # a unit
    re.IGNORECASE,
)
CODE = "the same throughout each series"
MOST = 0.5  # of the values of a column: if so many are numbers, all are meant to be


class Columns(NamedTuple):
    """What the columns of tables are.

    Attributes:
        channels: Their names, in the order of the first table.
        listed: Whether a column says which split a series is in.
        left_out: Other columns, and why they are not channels.
    """

    channels: tuple[str, ...]
    listed: bool
    left_out: Mapping[str, str]


def columns_of(found: split_lists.Found, path: str) -> Columns:
    """Judge the columns of tables by what is in all of them.

    A column is not a channel if it is an index or, as long as others are left, if it numbers the rows, tells
    the time or is the same throughout each series.

    Raises MetashotError when a table cannot be read, has no id, no label or no column of numbers, when
    numbers are written as text, and when rows are not in the order of a column that tells the time.
    """
    first: pa.Schema | None = None
    left_out: dict[str, str] = {}
    reasons: defaultdict[str, set[str]] = defaultdict(set)
    mistakes = Mistakes()
    for name, read in found.items():
        origin = series_table.origin_of(path, name)
        table = series_table.typed(read(), origin, series_table.kind_of(name))
        if first is None:
            first = table.schema
            _refuse_other(first, origin)
        if not {"id", "label"} <= {*table.column_names}:
            continue  # which is told when its series are looked for
        column = table.column(table.column_names.index("id")).combine_chunks()
        ids = np.asarray(series_table.encoded_names(column, "id", origin).indices)
        index = _index(table.schema)
        for number, field in enumerate(table.schema):
            if field.name in series_table.NAMED:
                continue
            column, where = table.column(number).combine_chunks(), f"{origin}: column {field.name!r}"
            if not (series_table.is_number(field.type) or pa.types.is_temporal(field.type)):
                left_out[field.name] = _other(column, where, mistakes)
                continue
            values = _values(column)
            if field.name in index or tables.INDEX.fullmatch(field.name):
                reason = left_out[field.name] = "the table's index"
            else:
                reason = _reason(values, ids, field)
                reasons[field.name].add(reason)
            if pa.types.is_temporal(field.type):
                left_out[field.name] = "times"
            orders = reason not in ("", CODE) and (
                field.name not in index or tables.INDEX.fullmatch(field.name)
            )
            if orders and "time" not in table.column_names and _falls(values, ids):
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
            f"{path}: no column of numbers was measured ({others}): a table of series has the columns id, "
            "label and others of numbers, one of texts has text and label"
        )
    return Columns(tuple(channels), "split" in names, left_out)


def _refuse_other(schema: pa.Schema, origin: str) -> None:
    if not is_series(schema):
        raise MetashotError(
            f"{origin}: a table of series has the columns id and label, and others of numbers (there are "
            f"{tables.named(schema.names)})"
        )


def is_series(schema: pa.Schema) -> bool:
    """Whether columns are those of a table of series."""
    others = any(field.name not in series_table.NAMED for field in schema)
    return {"id", "label"} <= {*schema.names} and others


def _reason(values: NDArray[np.float64], ids: NDArray[np.int32], field: pa.Field) -> str:
    """Why a column is not a channel; empty for a channel."""
    order = np.lexsort((values, ids))
    within = np.diff(ids[order]) == 0
    steps = np.diff(values[order])[within]
    if not len(steps):
        return ""
    if not steps.any():
        return CODE
    if pa.types.is_integer(field.type) and len(np.unique(values)) == len(values) == np.ptp(values) + 1:
        return "a number for each row"
    rises = bool((steps > 0).all())
    if rises and (pa.types.is_temporal(field.type) or CLOCK.fullmatch(field.name)):
        return "a clock"
    even = rises and len(steps) > 1 and np.allclose(steps, steps[0], rtol=1e-6, atol=0)
    return "a clock, rising evenly in all series" if even else ""


def _falls(values: NDArray[np.float64], ids: NDArray[np.int32]) -> bool:
    """Whether values fall anywhere in a series, by the order of the rows."""
    order = np.argsort(ids, kind="stable")
    steps = np.diff(values[order])[np.diff(ids[order]) == 0]
    return bool((steps < 0).any())


def _values(column: pa.Array) -> NDArray[np.float64]:
    if pa.types.is_temporal(column.type):
        column = column.cast(pa.int32() if column.type.bit_width == 32 else pa.int64())
    return np.asarray(column.cast(pa.float64(), safe=False).fill_null(np.nan))


def _other(column: pa.Array, where: str, mistakes: Mistakes) -> str:
    """What a column without numbers is. Numbers with a few other values among them are a mistake."""
    if not series_table.is_text(column.type):
        return "empty" if pa.types.is_null(column.type) else str(column.type)
    text = compute.utf8_trim_whitespace(column.cast(pa.string()))
    text = compute.if_else(compute.is_in(text, pa.array(series_table.MISSING)), None, text)
    like = compute.match_substring_regex(text, f"^({series_table.NUMBER}|{series_table.DECIMAL_COMMA})$")
    if (compute.mean(like).as_py() or 0) > MOST and (error := series_table.not_numbers(text, where)):
        mistakes.add_line(error)
    return "text"


def _index(schema: pa.Schema) -> set[str]:
    """Columns that pandas wrote for its index."""
    about = schema.pandas_metadata or {}
    return {name for name in about.get("index_columns", ()) if isinstance(name, str)}
