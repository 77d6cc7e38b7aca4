"""Episodes: drawn once, frozen in manifests, gathered as tensors.

A row of a manifest determines an episode: its classes and the row numbers of its support and query samples in
one split of one data set. All methods read the same manifest, so they see the same episodes, which makes them
comparable.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metashot.data.store import SampleSet, Streamed
from metashot.errors import MetashotError
from metashot.files import replacing

if TYPE_CHECKING:  # slow to import, and drawing episodes needs none of it
    from torch import Tensor


@dataclass(frozen=True)
class Episodes:
    """A batch of B episodes; labels count 0..N-1 within each episode.

    Attributes:
        support: ``[B, N*K, *shape]`` float in [0, 1].
        support_labels: ``[B, N*K]`` int64.
        query: ``[B, N*Q, *shape]``.
        query_labels: ``[B, N*Q]`` int64.
        classes: ``[B, N]`` int64, the data set's class for each label.
    """

    support: "Tensor"
    support_labels: "Tensor"
    query: "Tensor"
    query_labels: "Tensor"
    classes: "Tensor"

    @property
    def n_way(self) -> int:
        """Classes in each episode."""
        return self.classes.shape[1]


@dataclass(frozen=True)
class Manifest:
    """E frozen episodes over one split of one data set; every row is ordered by class.

    Attributes:
        classes: ``[E, N]`` int32 class numbers.
        support: ``[E, N, K]`` int32 sample numbers.
        query: ``[E, N, Q]`` int32 sample numbers.
        data_md5: md5 of the Parquet file whose samples are numbered.
        split: Which split of it.
    """

    classes: np.ndarray
    support: np.ndarray
    query: np.ndarray
    data_md5: str
    split: str

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def n_way(self) -> int:
        """Classes in each episode."""
        return int(self.classes.shape[1])

    @property
    def k_shot(self) -> int:
        """Support samples of each class."""
        return int(self.support.shape[2])

    @property
    def n_query(self) -> int:
        """Query samples of each class."""
        return int(self.query.shape[2])

    @property
    def queries(self) -> int:
        """Query samples of an episode."""
        return self.n_way * self.n_query

    def head(self, episodes: int) -> "Manifest":
        """The first episodes."""
        rows = slice(episodes)
        return replace(self, classes=self.classes[rows], support=self.support[rows], query=self.query[rows])

    def narrow(self, n_way: int) -> "Manifest":
        """Cut every episode into ``N // n_way`` smaller ones with disjoint classes.

        Raises:
            MetashotError: ``n_way`` is more than the episodes have.
        """
        if n_way > self.n_way:
            raise MetashotError(
                f"{n_way}-way episodes cannot be cut from a manifest of {self.n_way}-way ones: "
                f"raise train_way in the setting to at least {n_way}"
            )
        parts = self.n_way // n_way

        def cut(rows: np.ndarray) -> np.ndarray:
            return rows[:, : parts * n_way].reshape(len(rows) * parts, n_way, *rows.shape[2:])

        return Manifest(cut(self.classes), cut(self.support), cut(self.query), self.data_md5, self.split)

    def gather(self, samples: "Tensor | Streamed", rows: np.ndarray | slice) -> Episodes:
        """Gather the episodes ``rows`` as tensors on the device of ``samples``.

        Args:
            samples: ``[M, *shape]`` of the split, or anything else with one row for each of them, such as
                their features ``[M, D]``; `scaled` to floats.
            rows: Which episodes, B of them.
        """
        import torch

        device = samples.device
        classes, support, query = (
            torch.from_numpy(a[rows]) for a in (self.classes, self.support, self.query)
        )

        def take(index: "Tensor") -> "tuple[Tensor, Tensor]":
            batch, n_way, per_class = index.shape
            labels = torch.arange(n_way, device=device).repeat_interleave(per_class).expand(batch, -1)
            picked = scaled(samples.index_select(0, index.flatten().to(device)))
            return picked.reshape(batch, n_way * per_class, *picked.shape[1:]), labels

        return Episodes(*take(support), *take(query), classes.long().to(device))

    def stream(self, batch: int, seed: int) -> Iterator[np.ndarray]:
        """Yield batches of row numbers endlessly, each pass over the episodes in a new order, by ``seed``."""
        rng = np.random.default_rng(seed)
        order = np.empty(0, dtype=np.int64)
        while True:
            while len(order) < batch:
                order = np.concatenate([order, rng.permutation(len(self))])
            yield order[:batch]
            order = order[batch:]

    def save(self, path: Path) -> None:
        """Write a Parquet file: one row for each episode, flat int32 lists."""

        def column(rows: np.ndarray) -> pa.Array:
            flat = rows.reshape(len(rows), -1).astype(np.int32)
            return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])

        metadata = {"data_md5": self.data_md5, "split": self.split}
        table = pa.Table.from_pydict(
            {name: column(getattr(self, name)) for name in ("classes", "support", "query")},
            metadata={f"metashot.{key}": value for key, value in metadata.items()},
        )
        with replacing(path) as partial:
            pq.write_table(table, partial, compression="zstd")


@dataclass(frozen=True)
class Chunks:
    """All samples of a split, in their order, some at a time, `scaled`.

    Attributes:
        samples: ``[M, *shape]``.
        size: Samples in a chunk, but for the last.
    """

    samples: "Tensor | Streamed"
    size: int = 250

    def __iter__(self) -> "Iterator[Tensor]":
        import torch

        rows = torch.arange(len(self.samples), device=self.samples.device)
        return (scaled(self.samples[part]) for part in torch.split(rows, self.size))


def scaled(samples: "Tensor") -> "Tensor":
    """Convert samples for a network: uint8 to float in [0, 1]; other types stay."""
    return samples.float().div_(255) if samples.element_size() == 1 else samples


def load_manifest(path: Path, samples: SampleSet) -> Manifest:
    """Read a manifest written by `Manifest.save` for use with ``samples``.

    Raises:
        MetashotError: There is no such file, it is damaged, or it was made for other data.
    """
    if not path.exists():
        raise MetashotError(f"{path}: no such episode manifest: make it with `dvc repro`")
    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise MetashotError(f"{path}: damaged ({reason}): bring it back with `dvc checkout`") from None
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    data_md5, split = metadata.get("metashot.data_md5", ""), metadata.get("metashot.split", "")
    if (data_md5, split) != (samples.md5, samples.split):
        raise MetashotError(
            f"{path}: made for other data (md5 {data_md5}, {split}; not {samples.md5}, {samples.split}): "
            "make it again with `dvc repro`"
        )

    def rows(name: str) -> np.ndarray:
        flat = np.from_dlpack(table[name].combine_chunks().flatten()).copy()  # torch wants writable memory
        return flat.reshape(len(table), -1)

    classes = rows("classes")
    shape = (*classes.shape, -1)
    return Manifest(classes, rows("support").reshape(shape), rows("query").reshape(shape), data_md5, split)


def sample(
    samples: SampleSet, *, n_way: int, k_shot: int, n_query: int, episodes: int, seed: int
) -> Manifest:
    """Draw episodes: N classes, and of each K support and Q query samples, all without replacement.

    Raises:
        MetashotError: A number is too small, the split has fewer than N classes, or a class fewer than K + Q
            samples.
    """
    for name, value, least in (
        ("n_way", n_way, 2),
        ("k_shot", k_shot, 1),
        ("n_query", n_query, 1),
        ("episodes", episodes, 1),
    ):
        if value < least:
            raise MetashotError(f"{name}: must be {least} or more, not {value}")
    counts = np.bincount(samples.labels, minlength=len(samples.class_names))
    need = k_shot + n_query
    if len(counts) < n_way:
        raise MetashotError(
            f"split {samples.split!r} has {len(counts)} classes: too few for {n_way}-way episodes"
        )
    if counts.min() < need:
        poorest = int(counts.argmin())
        raise MetashotError(
            f"class {samples.class_names[poorest]!r} of split {samples.split!r} has {counts[poorest]} "
            f"samples: too few for {k_shot} support + {n_query} query samples; lower k_shot or n_query, or "
            "leave the class out"
        )
    starts = np.concatenate([[0], counts.cumsum()[:-1]])
    absent = np.arange(counts.max()) >= counts[:, None]  # [C, most samples of a class]
    rng = np.random.default_rng(seed)
    classes = np.empty((episodes, n_way), dtype=np.int32)
    picked = np.empty((episodes, n_way, need), dtype=np.int32)
    for row in range(episodes):
        chosen = rng.choice(len(counts), n_way, replace=False)
        order = np.where(absent[chosen], np.inf, rng.random((n_way, absent.shape[1]))).argsort(axis=1)
        classes[row] = chosen
        picked[row] = starts[chosen, None] + order[:, :need]
    return Manifest(classes, picked[..., :k_shot], picked[..., k_shot:], samples.md5, samples.split)
