"""The Parquet store: one file per data set, read into one array per split.

One row per sample, sorted by (split, class, name):

| column       | type              | meaning                                                           |
|--------------|-------------------|-------------------------------------------------------------------|
| `sample`     | fixed-size binary | the array that a backbone takes; characters have ink = 255        |
| `digest`     | fixed-size binary | BLAKE2b, 16 bytes, of the content before it was scaled or cut     |
| `label`      | int32             | index of the class among its split's sorted classes               |
| `class`      | string            | `<superclass>/<class>`                                            |
| `superclass` | string            | alphabet, script, coarse class, domain                            |
| `split`      | string            | `train`, `val` or `test`                                          |

Metadata of the file: `metashot.form` (JSON: kind, shape and type of a sample, parameters of its decoder),
`metashot.rotations` (degrees; each rotation makes further classes) and `metashot.about` (JSON: source,
licence, citation, synthetic, and how the samples were divided).
"""

import json
import os
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from metashot.data import Form, Key, Split
from metashot.errors import MetashotError, reason_of
from metashot.files import md5

if TYPE_CHECKING:  # slow to import, and most callers do not need it
    import torch

# Fixed, so that the same samples give the same bytes: a digest of the file is a digest of the data
_FORMAT = {
    "compression": "zstd",
    "compression_level": 3,
    "use_dictionary": ["class", "superclass", "split"],
    # Minima and maxima of row groups are in memory to the end: those of `sample` would be whole samples
    "write_statistics": ["label", "class", "superclass", "split"],
}
_COLUMNS = {"label": pa.int32(), "class": pa.string(), "superclass": pa.string(), "split": pa.string()}


@dataclass(frozen=True)
class SampleSet:
    """One split of a data set.

    Attributes:
        samples: ``[M, *form.shape]``, in memory or in the Parquet file.
        labels: int64 ``[M]``, sorted, 0 to n_classes - 1.
        class_names: ``[n_classes]``.
        form: Form of the samples.
        md5: Digest of the Parquet file.
        split: Name of the split.
    """

    samples: "NDArray[Any] | Streamed"
    labels: NDArray[np.int64]
    class_names: list[str]
    form: Form
    md5: str
    split: Split

    def tensor(self, device: "torch.device | str" = "cpu") -> "torch.Tensor | Streamed":
        """The samples as a tensor ``[M, *form.shape]``, or an object that can be indexed like one."""
        if isinstance(self.samples, Streamed):
            return self.samples.to(device)
        import torch

        return torch.from_numpy(self.samples).to(device)


class Streamed:
    """Samples that stay in the file and are read by row group when they are indexed.

    Args:
        file: The Parquet file.
        groups: Numbers of the row groups with the samples.
        form: Form of the samples.
        rotations: Number of rotations of each sample, 1 or 4.
        memory: Bytes of the most recently used row groups to cache.
    """

    def __init__(
        self, file: pq.ParquetFile, groups: Sequence[int], form: Form, rotations: int, memory: int
    ) -> None:
        self._file, self._groups, self._form, self._memory = file, groups, form, memory
        sizes = [file.metadata.row_group(number).num_rows for number in groups]
        self._starts = np.cumsum([0, *sizes])
        self._rotations = rotations
        self._cache: OrderedDict[int, NDArray[Any]] = OrderedDict()
        self.device: torch.device | str = "cpu"

    def __len__(self) -> int:
        return int(self._starts[-1]) * self._rotations

    def to(self, device: "torch.device | str") -> "Streamed":
        """A copy that is indexed to tensors on another device."""
        moved = copy(self)
        moved.device = device
        return moved

    def index_select(self, dim: int, rows: "torch.Tensor") -> "torch.Tensor":
        """Samples ``[len(rows), *shape]``; see `torch.Tensor.index_select`."""
        assert dim == 0, "samples are indexed along the first dimension only"
        return self[rows]

    def __getitem__(self, rows: "torch.Tensor") -> "torch.Tensor":
        import torch

        rotations, stored = np.divmod(rows.cpu().numpy(), self._starts[-1])
        groups = np.searchsorted(self._starts, stored, side="right") - 1
        samples = np.empty((len(stored), *self._form.shape), self._form.dtype)
        for number in np.unique(groups):
            mask = groups == number
            samples[mask] = self._group(int(number))[stored[mask] - self._starts[number]]
        for rotation in np.unique(rotations[rotations > 0]):
            mask = rotations == rotation
            samples[mask] = np.rot90(samples[mask], rotation, axes=(2, 3))
        return torch.from_numpy(samples).to(self.device)

    def _group(self, number: int) -> NDArray[Any]:
        if number not in self._cache:
            self._cache[number] = _read_samples(self._file, [self._groups[number]], self._form)
            while len(self._cache) > 1 and sum(part.nbytes for part in self._cache.values()) > self._memory:
                self._cache.popitem(last=False)
        self._cache.move_to_end(number)
        return self._cache[number]


class Writer:
    """Writes the rows of a data set, in order; see `writing`."""

    def __init__(self, file: pq.ParquetWriter, form: Form) -> None:
        self._file, self._form = file, form
        self._class, self._label = ("", ""), -1  # of the last row: split and class, and its label

    def write(self, keys: Sequence[Key], samples: NDArray[Any], digests: Sequence[bytes]) -> None:
        """Write M rows of one split as a row group.

        Args:
            keys: Sorted by split, class and name, also from call to call.
            samples: ``[M, *shape]``.
            digests: 16 bytes each.
        """
        labels = []
        for key in keys:
            if (key.split, key.path) != self._class:
                self._label = self._label + 1 if key.split == self._class[0] else 0
                self._class = (key.split, key.path)
            labels.append(self._label)
        schema = self._file.schema
        samples = np.ascontiguousarray(samples, dtype=self._form.dtype)
        columns = [
            pa.FixedSizeBinaryArray.from_buffers(
                schema.field("sample").type, len(keys), [None, pa.py_buffer(samples)]
            ),
            pa.array(digests, schema.field("digest").type),
            pa.array(labels, pa.int32()),
            pa.array([key.path for key in keys]),
            pa.array([key.superclass for key in keys]),
            pa.array([key.split for key in keys]),
        ]
        self._file.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=len(keys))


@contextmanager
def writing(path: Path, form: Form, *, rotations: bool, about: Mapping[str, object]) -> Iterator[Writer]:
    """A writer of a Parquet store, which is complete at the end of the block.

    Args:
        path: The file; not atomic by itself, see `files.replacing`.
        form: Form of the samples.
        rotations: Whether pictures rotated by 90, 180 and 270 degrees are further classes.
        about: Facts about the data; read at the end of the block.
    """
    schema = pa.schema({"sample": pa.binary(form.nbytes), "digest": pa.binary(16), **_COLUMNS})
    with pq.ParquetWriter(path, schema, **_FORMAT) as file:
        yield Writer(file, form)
        file.add_key_value_metadata(
            {
                "metashot.form": json.dumps(asdict(form), sort_keys=True),
                "metashot.rotations": "0,90,180,270" if rotations else "0",
                "metashot.about": json.dumps(dict(about), sort_keys=True, ensure_ascii=False),
            }
        )


def memory() -> int:
    """Bytes of a split's samples that may be in memory: METASHOT_MEMORY in MiB, by default 4,096.

    Raises MetashotError when it is not a whole number.
    """
    mebibytes = os.environ.get("METASHOT_MEMORY", "4096")
    if not mebibytes.isdigit():
        raise MetashotError(f"METASHOT_MEMORY={mebibytes}: not a number of MiB")
    return int(mebibytes) << 20


def load(path: Path, split: Split, within: int | None = None) -> SampleSet:
    """Read one split, with rotations as further classes.

    Of M₀ stored samples of C₀ classes, rotation r (r · 90 degrees counter-clockwise) of sample i is sample
    r·M₀ + i; class c becomes class r·C₀ + c, named ``<class>/rot090`` and so on. r = 0 is not rotated.

    Args:
        path: The Parquet file.
        split: Name of the split.
        within: Bytes of samples that may be in memory, by default `memory`; a larger split stays in the file
            and is read when it is indexed, with the same result.

    Raises MetashotError when the file is missing, is not a store, or has no sample of the split.
    """
    file, metadata = _open(path)
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    column = file.schema_arrow.get_field_index("split")
    selected = [number for number, group in enumerate(groups) if group.column(column).statistics.min == split]
    # read_table filters too, but imports pandas, which takes seconds
    table = file.read_row_groups(selected, columns=["label", "class"])
    if not table.num_rows:
        splits = sorted({str(group.column(column).statistics.min) for group in groups})
        raise MetashotError(f"{path}: no samples of split {split!r}: it has {', '.join(splits) or 'none'}")
    form = Form.parse(json.loads(metadata[b"metashot.form"]))
    degrees = [int(angle) for angle in metadata[b"metashot.rotations"].decode().split(",")]
    # to_numpy would import pandas too
    labels = np.from_dlpack(table["label"].combine_chunks()).astype(np.int64)
    names: list[str] = table["class"].unique().to_pylist()

    limit = memory() if within is None else within
    samples: NDArray[Any] | Streamed
    if table.num_rows * len(degrees) * form.nbytes > limit:
        samples = Streamed(file, selected, form, len(degrees), limit)
    else:
        samples = _read_samples(file, selected, form)
        if len(degrees) > 1:
            samples = np.concatenate([np.rot90(samples, angle // 90, axes=(2, 3)) for angle in degrees])
    labels = np.concatenate([labels + rotation * len(names) for rotation in range(len(degrees))])
    names = [f"{name}/rot{angle:03d}" if angle else name for angle in degrees for name in names]
    pa.default_memory_pool().release_unused()
    return SampleSet(samples, labels, names, form, md5(path), split)


def _read_samples(file: pq.ParquetFile, groups: Sequence[int], form: Form) -> NDArray[Any]:
    """Samples ``[M, *shape]`` of some row groups, in writable memory, as torch requires."""
    try:
        column = file.read_row_groups(groups, columns=["sample"])["sample"]
    except (OSError, pa.ArrowException) as error:
        raise MetashotError(f"damaged samples ({reason_of(error)}): run the preprocess stage again") from None
    samples = np.empty((len(column), *form.shape), form.dtype)
    row = 0
    for chunk in column.chunks:
        rows = slice(row, row := row + len(chunk))
        flat = np.frombuffer(
            chunk.buffers()[1], np.uint8, len(chunk) * form.nbytes, chunk.offset * form.nbytes
        )
        samples[rows] = flat.view(form.dtype).reshape(-1, *form.shape)
    return samples


def digests(path: Path) -> dict[str, set[bytes]]:
    """Content digests of the samples, by split."""
    table = _open(path)[0].read(columns=["digest", "split"])
    by_split: dict[str, set[bytes]] = defaultdict(set)
    for digest, split in zip(table["digest"].to_pylist(), table["split"].to_pylist(), strict=True):
        by_split[split].add(digest)
    return by_split


def about(path: Path) -> dict[str, Any]:
    """Return kind, source, licence and citation of the data, and whether they are synthetic."""
    metadata = _open(path)[1]
    return {**json.loads(metadata[b"metashot.about"]), "kind": json.loads(metadata[b"metashot.form"])["kind"]}


def _open(path: Path) -> tuple[pq.ParquetFile, Mapping[bytes, bytes]]:
    """Open a store; returns its metadata too."""
    try:
        file = pq.ParquetFile(path, memory_map=True)
    except FileNotFoundError:
        raise MetashotError(f"{path}: no such file; run the preprocess stage first") from None
    except (OSError, pa.ArrowException) as error:
        raise MetashotError(
            f"{path}: cannot be read as Parquet ({reason_of(error)}); preprocess again"
        ) from None
    metadata = file.metadata.metadata or {}
    if b"metashot.form" not in metadata:
        raise MetashotError(f"{path}: a Parquet file, but not a store of samples that this metashot wrote")
    return file, metadata
