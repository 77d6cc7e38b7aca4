"""Series table: measurements over time of your own, as CSV or Parquet, one row for each step.

Columns: ``id`` says which series a row belongs to, ``label`` its class; one column for each channel; with
``time``, numbers or times, that is the order of a series' rows, otherwise the table's order; with
``prepare.split: listed``, ``split`` says ``train``, ``val`` or ``test``. Others do not count.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import csv

from metashot.data import Key, archive, folders, listing, series
from metashot.data.source import Item, ordered
from metashot.errors import MetashotError, refuse

SUFFIXES = frozenset({".csv", ".parquet"})
ABOUT: Mapping[str, object] = {
    "source": "tables of series",
    "licence": "as its owner says",
    "citation": "",
    "synthetic": False,
}
_PACKED = "tables"


@dataclass(frozen=True, kw_only=True)
class Raw:
    """Section ``raw`` of a data set that is tables of series.

    Attributes:
        path: A CSV or Parquet file, or a folder or zip file of them; relative to the repository, or absolute.
        md5: Digest of the files, written by `metashot refresh`; empty before the first time.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    path: str
    md5: str


@dataclass(frozen=True, kw_only=True)
class Prepare(series.Prepare, folders.Prepare):
    """Section ``prepare`` of a data set that is tables of series."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if taken := {"id", "label", "split", "time"} & set(self.channels):
            raise ValueError(f"channels: {min(taken)!r} is a column with another meaning")


def digest(raw: Raw, root: Path) -> str:
    """Digest of the tables as they are now."""
    return folders.digest(_tables(raw, root).items())


def download(raw: Raw, directory: Path) -> None:
    """Pack the tables into zips, as they are. Raises MetashotError as `folders.pack` does."""
    folders.pack(_tables(raw, Path()).items(), raw, directory / _PACKED)


def items(prepare: Prepare, directory: Path) -> list[Item]:
    """Every series.

    Raises MetashotError for a table that cannot be read or lacks a column, for a series without id or label,
    in two tables, of two labels or with two rows at one time, and for labels that a person cannot tell apart.
    """
    found: dict[str, Item] = {}
    for path in archive.zips(directory / _PACKED):
        for name, read in archive.members(path, SUFFIXES):
            origin = f"{path}: member {name!r}"
            for item in of_table(read(), origin, name.lower().endswith(".parquet"), prepare):
                if (first := found.setdefault(item.key.name, item)) is not item:
                    raise MetashotError(
                        f"{item.origin} is also in {first.origin}: an id stands for one series"
                    )
    folders.refuse([*folders.indistinct(str(directory / _PACKED), {i.key.class_ for i in found.values()})])
    if isinstance(prepare.split, folders.Shares):
        return ordered(folders.divide(found.values(), prepare.split))
    return ordered(found.values())


def channels_of(content: bytes, origin: str, parquet: bool) -> tuple[tuple[str, ...], bool]:
    """The columns of numbers of a table, and whether it says which split a series is in.

    Raises MetashotError when it cannot be read, or has no id, no label or no other column of numbers.
    """
    try:
        source = pa.BufferReader(content)
        schema = pq.read_schema(source) if parquet else csv.read_csv(source).schema
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise MetashotError(f"{origin}: cannot be read as a table of series ({reason})") from None
    named = {"id", "label", "split", "time"}
    numbers = [
        field.name
        for field in schema
        if field.name not in named and (pa.types.is_integer(field.type) or pa.types.is_floating(field.type))
    ]
    if not numbers or not {"id", "label"} <= {*schema.names}:
        raise MetashotError(
            f"{origin}: a table of series has the columns id and label, and others of numbers (there are "
            f"{', '.join(schema.names)})"
        )
    return tuple(numbers), "split" in schema.names


def _tables(raw: Raw, root: Path) -> listing.Found:
    found = folders.local(raw, root, SUFFIXES)
    if not found:
        raise MetashotError(f"raw.path: {raw.path}: no CSV or Parquet file in it")
    return found


def of_table(
    content: bytes, origin: str, parquet: bool, prepare: Prepare, tell: Callable[[str], None] = refuse
) -> Iterator[Item]:
    """The series of a table, in the splits that it names, but for those with mistakes, which are told.

    Raises MetashotError as `items` does for a table that is wrong as a whole.
    """
    table = _read(content, origin, parquet, prepare)
    (row_ids, ids), (row_labels, labels) = _names(table, "id"), _names(table, "label")
    row_splits, splits = _names(table, "split") if "split" in table else (0 * row_ids, [""])
    if "split" in table and (strange := {*splits} - {*listing.SPLITS}):
        raise MetashotError(f"{origin}: column 'split': {min(strange)!r} is not train, val or test")
    channels = np.stack([np.from_dlpack(table[name].fill_null(np.nan)) for name in prepare.channels])

    times = np.from_dlpack(table["time"]) if "time" in table else np.zeros(len(row_ids))
    order = np.lexsort((times, row_ids))  # stable: what has no time stays in the table's order
    channels, times = channels[:, order], times[order]
    row_ids, row_labels, row_splits = row_ids[order], row_labels[order], row_splits[order]
    starts = np.flatnonzero(np.diff(row_ids, prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(row_ids)], strict=True):
        of, rows = f"{origin}: series {ids[row_ids[start]]!r}", slice(start, end)
        wrong = []
        for column, numbers, names in (("label", row_labels, labels), ("split", row_splits, splits)):
            if np.ptp(numbers[rows]):
                first, last = sorted({names[number] for number in numbers[rows]})[:2]
                wrong.append(f"{of} has more than one {column}: {first!r} and {last!r}")
        if "time" in table and not np.diff(times[rows]).all():
            wrong.append(f"{of} has two rows at one time")
        for mistake in wrong:
            tell(mistake)
        if wrong:
            continue
        key = Key(splits[row_splits[start]], listing.ALL, labels[row_labels[start]], ids[row_ids[start]])
        yield Item(key, partial(series.encode, channels[:, rows]), of)


def _read(content: bytes, origin: str, parquet: bool, prepare: Prepare) -> dict[str, pa.Array]:
    """Columns of a table by name; ``time``, where there is one, as numbers in the same order."""
    wanted = {"id": pa.string(), "label": pa.string()}
    wanted |= {"split": pa.string()} if prepare.split == "listed" else {}
    wanted |= {name: pa.float64() for name in prepare.channels}
    try:
        if parquet:
            table = pq.ParquetFile(pa.BufferReader(content)).read()
        else:  # a class may be called NA
            as_said = csv.ConvertOptions(column_types=wanted, null_values=[""], strings_can_be_null=True)
            table = csv.read_csv(pa.BufferReader(content), convert_options=as_said)
        names = table.column_names
        if absent := [name for name in wanted if name not in names]:
            raise MetashotError(f"{origin}: no column {absent[0]!r} (there are {', '.join(names)})")
        if twice := [name for name in (*wanted, "time") if names.count(name) > 1]:
            raise MetashotError(f"{origin}: column {twice[0]!r} is there more than once")
        if not table.num_rows:
            raise MetashotError(f"{origin}: a table without rows")
        types = {**wanted, "time": _ordered(table.column("time").type)} if "time" in names else wanted
        columns = {name: table.column(name).cast(kind).combine_chunks() for name, kind in types.items()}
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise MetashotError(f"{origin}: cannot be read as a table of series ({reason})") from None
    for name, column in columns.items():
        row = column.is_null(nan_is_null=True).index(True).as_py()
        if row >= 0 and name not in prepare.channels:  # those are looked at series by series
            raise MetashotError(f"{origin}: column {name!r} is empty in row {row}")
    return columns


def _ordered(kind: pa.DataType) -> pa.DataType:
    """Numbers that are in the order of times of a type."""
    if pa.types.is_temporal(kind):
        return pa.int32() if kind.bit_width == 32 else pa.int64()
    return kind if pa.types.is_integer(kind) else pa.float64()


def _names(table: Mapping[str, pa.Array], column: str) -> tuple[NDArray[np.int32], list[str]]:
    """The number of each row's name, and the names."""
    encoded = table[column].dictionary_encode()
    return np.asarray(np.from_dlpack(encoded.indices), np.int32), encoded.dictionary.to_pylist()
