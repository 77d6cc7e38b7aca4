"""The Parquet store: one file per data set, read into one uint8 array per split.

One row per image, sorted by (split, class, image name):

| column       | type                    | meaning                                             |
|--------------|-------------------------|-----------------------------------------------------|
| `image`      | fixed-size binary H·W·C | pixels, uint8; characters have ink = 255            |
| `label`      | int32                   | index of the class among its split's sorted classes |
| `class`      | string                  | `<superclass>/<class>`                              |
| `superclass` | string                  | alphabet, script, coarse class                      |
| `split`      | string                  | `train`, `val` or `test`                            |

The schema metadata says the rest: `metashot.image` ("H,W,C"), `metashot.rotations` (degrees that count as
classes of their own) and `metashot.about` (JSON: source, licence, citation, synthetic).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from metashot.data import Split
from metashot.errors import MetashotError
from metashot.files import replacing

if TYPE_CHECKING:  # slow to import, and most of what reads and writes images needs none of it
    import torch

# Fixed, so that the same images give the same bytes: a digest of the file is a digest of the data.
_FORMAT = {
    "compression": "zstd",
    "compression_level": 3,
    "use_dictionary": ["class", "superclass", "split"],
}
_ROW_GROUP = 8192  # images; a row group never holds two splits


class Key(NamedTuple):
    """What identifies an image."""

    split: str
    superclass: str
    class_: str
    name: str

    @property
    def path(self) -> str:
        """The class as the file names it: classes of two superclasses may share a name."""
        return f"{self.superclass}/{self.class_}"


@dataclass(frozen=True)
class ImageSet:
    """One split of a data set in memory.

    `images` uint8 [M, C, H, W] and `labels` int64 [M], sorted, 0 … n_classes−1; `class_names` [n_classes];
    `md5` is the digest of the Parquet file they came from, `split` which split of it they are.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: list[str]
    md5: str
    split: Split

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def tensor(self, device: "torch.device | str" = "cpu") -> "torch.Tensor":
        """The images as a tensor, uint8 [M, C, H, W]."""
        import torch

        return torch.from_numpy(self.images).to(device)


def write(
    path: Path,
    images: NDArray[np.uint8],
    keys: Sequence[Key],
    *,
    rotations: bool,
    about: Mapping[str, object],
) -> None:
    """Write `images` [M, H, W, C] with their `keys` [M]; the file appears whole or not at all.

    `rotations`: whether the pictures turned by 90, 180 and 270 degrees are classes of their own.
    """
    height, width, channels = images.shape[1:]
    pixels = pa.binary(height * width * channels)
    schema = pa.schema(
        {
            "image": pixels,
            "label": pa.int32(),
            "class": pa.string(),
            "superclass": pa.string(),
            "split": pa.string(),
        },
        metadata={
            "metashot.image": f"{height},{width},{channels}",
            "metashot.rotations": "0,90,180,270" if rotations else "0",
            "metashot.about": json.dumps(dict(about), sort_keys=True, ensure_ascii=False),
        },
    )
    with replacing(path) as partial, pq.ParquetWriter(partial, schema, **_FORMAT) as writer:
        order = sorted((key.split, key.path, key.name, row) for row, key in enumerate(keys))
        for split, group in groupby(order, key=itemgetter(0)):
            rows = [row for *_, row in group]
            classes = [keys[row].path for row in rows]
            _, labels = np.unique(np.array(classes), return_inverse=True)
            buffer = pa.py_buffer(np.ascontiguousarray(images[rows]))
            columns = [
                pa.FixedSizeBinaryArray.from_buffers(pixels, len(rows), [None, buffer]),
                pa.array(labels, pa.int32()),
                pa.array(classes),
                pa.array([keys[row].superclass for row in rows]),
                pa.array([split] * len(rows)),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=_ROW_GROUP)


def load(path: Path, split: Split) -> ImageSet:
    """Read one split into memory, its rotations expanded into classes of their own.

    Rotation r (r · 90 degrees counter-clockwise) of row i is row r·M₀ + i, and its class is r·C₀ + c, named
    `<class>/rot090` and so on; r = 0 are the images as stored.

    Raises MetashotError when the file is missing or is not such a file, or has no image of the split.
    """
    data, metadata = _open(path)
    file = pq.ParquetFile(pa.BufferReader(data))  # read_table filters too, but imports pandas: seconds
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    at = file.schema_arrow.get_field_index("split")
    held = [number for number, group in enumerate(groups) if group.column(at).statistics.min == split]
    table = file.read_row_groups(held, columns=["image", "label", "class"])
    if not table.num_rows:
        raise MetashotError(f"{path}: no images of split {split!r}; run the preprocess stage again")
    height, width, channels = map(int, metadata[b"metashot.image"].decode().split(","))
    column = table["image"].combine_chunks()
    start = column.offset * height * width * channels
    flat = np.frombuffer(column.buffers()[1], np.uint8, len(column) * height * width * channels, start)
    # A copy: torch wants memory that may be written.
    images = flat.reshape(-1, height, width, channels).transpose(0, 3, 1, 2).copy()
    labels = np.from_dlpack(table["label"].combine_chunks()).astype(
        np.int64
    )  # to_numpy imports pandas as well
    names: list[str] = table["class"].unique().to_pylist()

    degrees = [int(angle) for angle in metadata[b"metashot.rotations"].decode().split(",")]
    if len(degrees) > 1:
        images = np.concatenate([np.rot90(images, angle // 90, axes=(2, 3)) for angle in degrees])
        labels = np.concatenate([labels + turn * len(names) for turn in range(len(degrees))])
        names = [f"{name}/rot{angle:03d}" if angle else name for angle in degrees for name in names]
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    del data, file, table, column, flat
    pa.default_memory_pool().release_unused()
    return ImageSet(images, labels, names, digest, split)


def about(path: Path) -> dict[str, Any]:
    """Return what the file says of its origin: source, licence, citation, and whether it is synthetic."""
    content: dict[str, Any] = json.loads(_open(path)[1][b"metashot.about"])
    return content


def _open(path: Path) -> tuple[bytes, Mapping[bytes, bytes]]:
    """Bytes and schema metadata of a data file."""
    try:
        data = path.read_bytes()
        metadata = pq.read_schema(pa.BufferReader(data)).metadata or {}
    except FileNotFoundError:
        raise MetashotError(f"{path}: no such file; run the preprocess stage first") from None
    except (OSError, pa.ArrowException) as error:
        raise MetashotError(f"{path}: cannot be read as Parquet ({_line(error)}); preprocess again") from None
    if b"metashot.image" not in metadata:
        raise MetashotError(f"{path}: a Parquet file, but not one of images that metashot wrote")
    return data, metadata


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
