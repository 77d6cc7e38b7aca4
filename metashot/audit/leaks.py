"""Overlap between the splits of a data file, which preprocessing rules out."""

from collections import defaultdict
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq


class Shared(NamedTuple):
    """What two splits of a data file have in common.

    Attributes:
        digests: Samples made from the same as a sample of another split; preprocessing leaves none.
        contents: Other samples of the very bytes of a sample of another split. Preparing may make unlike
            originals alike: texts that differ in a comma, or pictures that were scaled.
        classes: Names of classes in more than one split.
    """

    digests: int
    contents: int
    classes: list[str]


def shared(path: Path) -> Shared:
    """Look at every sample of a data file, one row group in memory at a time."""
    digests, contents = (defaultdict[bytes, set[str]](set) for _ in range(2))
    classes = defaultdict[str, set[str]](set)
    rows: list[tuple[bytes, bytes]] = []
    file = pq.ParquetFile(path)
    for number in range(file.num_row_groups):
        group = file.read_row_group(number, columns=["sample", "digest", "class", "split"])
        columns = (group[name].to_pylist() for name in ("sample", "digest", "class", "split"))
        for sample, digest, name, split in zip(*columns, strict=True):
            content = blake2b(sample, digest_size=16).digest()
            digests[digest].add(split)
            contents[content].add(split)
            classes[name].add(split)
            rows.append((digest, content))
    repeated = [len(digests[digest]) > 1 for digest, _ in rows]
    alike = [len(contents[content]) > 1 for _, content in rows]
    return Shared(
        sum(repeated),
        sum(same and not known for known, same in zip(repeated, alike, strict=True)),
        sorted(name for name, splits in classes.items() if len(splits) > 1),
    )
