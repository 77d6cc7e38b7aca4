"""Vector table: vectors of your own, as CSV, TSV or Parquet, one row for each sample of any kind.

Columns: ``label``, its class; optionally ``id``, its name; with ``prepare.split: listed`` also ``split``:
``train``, ``val`` or ``test``. The vector is a column of lists, or all other columns of numbers, in the
table's order.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from metashot.data import Item, Key, ordered
from metashot.data.encoders import Statements
from metashot.data.files import (
    Files,
    archive,
    class_names,
    columnar,
    division,
    local,
    pinned,
    split_lists,
    tables,
)
from metashot.data.kinds import vectors
from metashot.data.sources.folder import about
from metashot.errors import ColumnError, MetashotError, Mistakes, reason_of
from metashot.section import Section

SUFFIXES, FORMATS = columnar.SUFFIXES, columnar.FORMATS
RESERVED = ("id", "label", "split")  # columns that are no numbers of a vector
NONE = "none"  # as the name of an encoder: nothing was trained to make these vectors
ABOUT = about("tables of vectors")
_PACKED = "tables"


@dataclass(frozen=True, kw_only=True)
class Raw(Section):
    """Section ``raw`` of a data set of vectors.

    Attributes:
        path: A CSV, TSV or Parquet file, or a folder or zip file of them; relative to the repository, or
            absolute.
        md5: Digest of the files, written by `metashot refresh`; empty before the first time.
    """

    path: str
    md5: str


@dataclass(frozen=True, kw_only=True)
class Prepare(vectors.Prepare, division.Prepare):
    """Section ``prepare`` of a data set of vectors.

    Attributes:
        vector: Column of lists of numbers; empty if each number has a column of its own.
    """

    vector: str = ""


def digest(raw: Raw, root: Path) -> str:
    """Digest of the tables as they are now."""
    return pinned.digest(find(raw.path, root).items())


def download(raw: Raw, directory: Path) -> None:
    """Pack the tables into zips, unchanged. Raises MetashotError as `pinned.pack` does."""
    pinned.pack(find(raw.path, Path()).items(), raw, directory / _PACKED)


def find(path: str, root: Path) -> Files:
    """The tables at a path. Raises MetashotError as `tables.find` does, and if there are none."""
    return columnar.find(path, root)


def encoder_facts(prepare: Prepare, directory: Path) -> Mapping[str, str]:
    """See `sources.Pretrained`; what the user says is all there is to know."""
    return stated(prepare)


def stated(prepare: Statements) -> dict[str, str]:
    """What the user says about the encoder of the vectors; empty if there was none."""
    if prepare.encoder_name == NONE:
        return {}
    name = prepare.encoder_name or "unnamed"
    return {"name": name, "trained_on": prepare.encoder_trained_on, "seen": prepare.encoder_seen}


def items(prepare: Prepare, directory: Path) -> list[Item]:
    """Every vector, all of them in memory as float32.

    Raises MetashotError for a table that cannot be read or lacks a column, for an empty or repeated id, an
    empty label, and for ambiguous labels.
    """
    found: dict[str, Item] = {}
    mistakes, labels = Mistakes(), tables.Labels()
    for path in archive.zips(directory / _PACKED):
        for name, read in archive.members(path, SUFFIXES):
            origin = f"{path}: member {name!r}"
            for item in of_table(read(), origin, name, prepare, labels, mistakes):
                if (first := found.setdefault(item.key.name, item)) is not item:
                    mistakes.add(f"{item.origin} is also in {first.origin}:", "an id stands for one vector")
    packed = str(directory / _PACKED)
    classes = {item.key.class_ for item in found.values()}
    local.refuse([*mistakes.lines, *class_names.ambiguous(packed, classes)])
    labels.report_merged(packed)
    if isinstance(prepare.split, division.Shares):
        return ordered(division.divide(found.values(), prepare.split))
    return ordered(found.values())


def of_table(
    content: bytes, origin: str, name: str, prepare: Prepare, labels: tables.Labels, mistakes: Mistakes
) -> Iterator[Item]:
    """The vectors of a table.

    Args:
        content: Content of the file.
        origin: Place of the file, for messages.
        name: Its name, which rows without an id are named after.
        prepare: Width, and the column of lists if there is one.
        labels: Normalises labels.
        mistakes: Gets mistakes in rows.

    Raises MetashotError for a table that cannot be used as a whole.
    """
    table = read(content, origin, name, mistakes)
    needed = ["label", *(["split"] if prepare.split == "listed" else [])]
    tables.require(needed, table.column_names, origin)
    named = {
        key: columnar.Names(_one(table, key), key, origin, labels if key == "label" else tables.Labels())
        for key in needed
    }
    if "split" in named and (unknown := {*named["split"].names} - {*split_lists.SPLITS}):
        raise ColumnError(f"{origin}: column 'split': {min(unknown)!r}", "is not train, val or test")
    rows = [f"{name}:{row:09d}" for row in range(len(table))]
    if "id" in table.column_names:
        ids = columnar.Names(_one(table, "id"), "id", origin, tables.Labels())
        rows = [ids.names[number] for number in ids.rows]
    numbers = matrix(table, prepare.vector, prepare.width, origin)
    for row, sample in enumerate(rows):
        label = named["label"].names[named["label"].rows[row]]
        split = named["split"].names[named["split"].rows[row]] if "split" in named else ""
        shown = sample.replace("/", "|")
        yield Item(
            Key(split, split_lists.ALL, label, shown), partial(_bytes, numbers, row), f"{origin}: row {row}"
        )


def read(content: bytes, origin: str, name: str, mistakes: Mistakes) -> pa.Table:
    """A whole table; labels, ids and splits of a CSV file stay texts: a class may be called NA."""
    suffix = columnar.suffix_of(name)
    if suffix == tables.PARQUET:
        try:
            table = tables.parquet(content, origin).read()
        except (pa.ArrowException, OSError) as error:
            raise MetashotError(f"{origin}: cannot be read ({reason_of(error)})") from None
    else:
        table = columnar.delimited_table(content, origin, dict.fromkeys(RESERVED, pa.string()), mistakes)
        blank = np.logical_and.reduce([np.asarray(column.is_null()) for column in table.columns])
        table = table.filter(pa.array(~blank))
    if not len(table):
        raise MetashotError(f"{origin}: a table without rows")
    return table


def numbered(schema: pa.Schema) -> list[int]:
    """Positions of the columns that make up a vector, if none of lists does."""
    return [
        position
        for position, field in enumerate(schema)
        if columnar.is_number(field.type)
        if field.name not in RESERVED and not tables.INDEX.fullmatch(field.name)
    ]


def is_lists(dtype: pa.DataType) -> bool:
    """Whether a column of this type holds lists of numbers."""
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_list(dtype) for is_list in lists) and columnar.is_number(dtype.value_type)


def matrix(table: pa.Table, vector: str, width: int, origin: str) -> NDArray[np.float32]:
    """Vectors ``[rows, width]``. Raises MetashotError if they have another width, or are not numbers."""
    try:
        if vector:
            tables.require([vector], table.column_names, origin)
            column = _one(table, vector)
            if not is_lists(column.type):
                raise ColumnError(f"{origin}: column {vector!r}", f"is {column.type}, not lists of numbers")
            lengths = np.asarray(column.value_lengths().fill_null(0))
            if (other := np.flatnonzero(lengths != width)).size:
                raise MetashotError(
                    f"{origin}: row {other[0]} of {vector!r} has {lengths[other[0]]:,} numbers, "
                    f"prepare.width is {width:,}"
                )
            flat = column.flatten().cast(pa.float32(), safe=False)
            return np.asarray(flat.fill_null(np.nan)).reshape(len(table), width)
        positions = numbered(table.schema)
        if len(positions) != width:
            raise MetashotError(
                f"{origin}: {len(positions):,} columns of numbers, but prepare.width is {width:,}: set it, "
                "or name the column of lists in prepare.vector"
            )
        numbers = np.empty((len(table), width), np.float32)
        for place, position in enumerate(positions):
            column = table.column(position).combine_chunks()
            numbers[:, place] = np.asarray(column.cast(pa.float32(), safe=False).fill_null(np.nan))
    except pa.ArrowException as error:
        raise MetashotError(f"{origin}: cannot be read as vectors ({reason_of(error)})") from None
    return numbers


def _one(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name).combine_chunks()
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _bytes(numbers: NDArray[np.float32], row: int) -> bytes:
    content: bytes = numbers[row].astype("<f4").tobytes()
    return content
