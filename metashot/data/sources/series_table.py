"""Series table: your own measurements over time, as CSV, TSV or Parquet, one row for each step.

Columns: ``id``, the series that a row belongs to; ``label``, its class; one column for each channel;
optionally ``time``, numbers or times by which the rows of a series are sorted; with ``prepare.split: listed``
also ``split``: ``train``, ``val`` or ``test``. Other columns are ignored.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from metashot.data import Item, Key, ordered
from metashot.data.files import (
    archive,
    class_names,
    columnar,
    division,
    local,
    pinned,
    split_lists,
    tables,
)
from metashot.data.kinds import series
from metashot.data.sources.folder import about
from metashot.errors import ColumnError, MetashotError, Mistakes, reason_of
from metashot.section import Section

SUFFIXES, FORMATS = columnar.SUFFIXES, columnar.FORMATS
RESERVED = ("id", "label", "split", "time")  # columns that cannot be channels
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
    return pinned.digest(columnar.find(raw.path, root).items())


def download(raw: Raw, directory: Path) -> None:
    """Pack the tables into zips, unchanged. Raises MetashotError as `pinned.pack` does."""
    pinned.pack(columnar.find(raw.path, Path()).items(), raw, directory / _PACKED)


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
                read(), f"{path}: member {name!r}", columnar.suffix_of(name), prepare, labels, mistakes
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
    ids = columnar.Names(table["id"], "id", origin, tables.Labels())
    if ids.labels.merged:
        alike = ids.labels.merged.partition(": ")[2]
        raise ColumnError(f"{origin}: ids that read alike: {alike}:", "rename them")
    classes = columnar.Names(table["label"], "label", origin, labels)
    columns = {"label": classes}
    if "split" in table:
        columns["split"] = splits = columnar.Names(table["split"], "split", origin, tables.Labels())
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
            table = columnar.delimited_table(content, origin, dict.fromkeys(names, pa.string()), mistakes)
        if "time" in table.column_names:
            names.append("time")
        tables.require(names, table.column_names, origin)
        columns = {name: table.column(name).combine_chunks() for name in names}
        if suffix != tables.PARQUET and len(table):
            columns = columnar.without_empty_rows(columns)
        if not len(columns["id"]):
            raise MetashotError(f"{origin}: a table without rows")
        for name in prepare.channels:
            columns[name] = columnar.numbers(columns[name], f"{origin}: column {name!r}")
        if "time" in columns:
            columns["time"] = columns["time"].cast(_ordered(columns["time"].type))
            columnar.refuse_empty(
                columns["time"].is_null(nan_is_null=True).to_numpy(zero_copy_only=False), "time", origin
            )
    except (pa.ArrowException, OSError) as error:
        raise MetashotError(f"{origin}: cannot be read as a table of series ({reason_of(error)})") from None
    return columns


def _ordered(dtype: pa.DataType) -> pa.DataType:
    """A type of numbers to which times of a type can be cast without a change of order."""
    if pa.types.is_temporal(dtype):
        return pa.int32() if dtype.bit_width == 32 else pa.int64()
    return dtype if pa.types.is_integer(dtype) else pa.float64()
