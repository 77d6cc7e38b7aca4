"""Raw files to the Parquet store, the same way for every source and every kind of data."""

import hashlib
import json
import os
import shutil
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain, count, groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from metashot.data import Form, Item, store
from metashot.data.kinds import KINDS
from metashot.data.sources import Prepare, Source
from metashot.errors import MetashotError, SampleError, grouped
from metashot.files import md5, replacing
from metashot.output import say

NAMED = 10  # of the reasons why samples cannot be read
AT_ONCE = 16  # samples that a thread decodes in one go
ROW_GROUP = 1 << 20  # bytes of samples, decoded together; a row group never holds two splits


def preprocess(source: Source, prepare: Prepare, raw: Path, target: Path) -> None:
    """Decode the samples of ``source`` in ``raw``, and write ``target``.

    One row group after the other, decoded by a thread for each core, so that no more than one is in memory.
    What has been decoded lies beside the target until it is whole, and an interrupted run goes on from there.

    Raises:
        MetashotError: The raw files are damaged or laid out wrongly, samples cannot be decoded, a class is in
            two splits or has fewer than two samples in one, a split has none, or two splits share a sample
            (the training data would hold a piece of the test data) and ``prepare.repeated`` is ``refuse``.
    """
    items = source.items(prepare, raw)
    counts = Counter((item.key.split, item.key.path) for item in items)
    if lines := unfit(counts, prepare.disjoint):
        raise MetashotError(f"{raw}: {lines[0]}")
    form = prepare.form
    about: dict[str, object] = {**source.ABOUT, "classes": "disjoint" if prepare.disjoint else "shared"}
    first = _First()
    kept: Counter[tuple[str, str]] = Counter()
    with (
        _parts(target, _identity(prepare, raw)) as parts,
        replacing(target) as partial,
        store.writing(partial, form, rotations=prepare.rotations, about=about) as writer,
        tqdm(total=counts.total(), desc="decoding", unit=" samples", leave=False, disable=None) as bar,
    ):
        for part, samples, digests in _decoded(items, form, parts):
            rows = []
            for row, (place, split) in enumerate(first.of(digests, part[0].key.split)):
                item = part[row]
                if split == item.key.split:
                    rows.append(row)
                elif prepare.repeated == "refuse":
                    same = next(islice(items, place, None))
                    raise MetashotError(
                        f"{item.origin} ({item.key.path}, {item.key.split}) is the same sample as "
                        f"{same.origin} ({same.key.path}, {same.key.split}): one of them has to go"
                    )
                # else the sample goes: the splits are sorted, so the test keeps its samples
            keys = [part[row].key for row in rows]
            kept.update((key.split, key.path) for key in keys)
            if keys:
                writer.write(keys, samples[rows], [digests[row] for row in rows])
            bar.update(len(part))
        if lines := unfit({place: kept[place] for place in counts}, prepare.disjoint, removed=True):
            raise MetashotError(f"{raw}: {lines[0]}")
        if prepare.repeated == "remove":
            about["removed"] = removed = counts.total() - kept.total()
            say(f"{raw}: removed {removed:,} samples that are in two splits", err=True)


def unfit(counts: Mapping[tuple[str, str], int], disjoint: bool, removed: bool = False) -> Sequence[str]:
    """What of classes and splits no episode can be drawn from, a line for each reason.

    Args:
        counts: Samples by split and class, as `Key.path` names it.
        disjoint: Whether the splits have classes of their own.
        removed: Whether samples that are in two splits have been left out.
    """
    splits = defaultdict(set)
    for split, path in counts:
        splits[path].add(split)
    both = [
        (f"class {path} is in {' and '.join(sorted(found))}:", "it has to be in one split")
        for path, found in sorted(splits.items())
        if len(found) > 1 and disjoint
    ]
    gone = " once those that are in two splits are removed" if removed else ""
    few = [
        (f"class {path}", f"has {count} sample in {split}{gone}: episodes need two")
        for (split, path), samples in sorted(counts.items())
        if (count := ("no", "one", "")[min(samples, 2)])
    ]
    lines = grouped([*both, *few], "classes")
    if missing := {"train", "val", "test"} - set().union(*splits.values()):
        lines.append(f"no samples for split {', '.join(sorted(missing))}; it needs more classes")
    return lines


class _First:
    """Which sample is the first with a digest. They are on disk, so that memory does not grow with them."""

    def __init__(self) -> None:
        self._table = sqlite3.connect("")  # a file of its own, gone in the end
        self._table.execute(
            "CREATE TABLE first (digest BLOB PRIMARY KEY, place INTEGER, split TEXT) WITHOUT ROWID"
        )
        self._places = count()

    def of(self, digests: Sequence[bytes], split: str) -> list[tuple[int, str]]:
        """Take up samples in the order of `Source.items`; place and split of the first like each.

        Raises MetashotError when the disk is full.
        """
        new = ((digest, next(self._places), split) for digest in digests)
        try:
            self._table.executemany("INSERT OR IGNORE INTO first VALUES (?, ?, ?)", new)
        except sqlite3.OperationalError as error:
            raise MetashotError(
                f"a table of digests cannot be written ({error}): free space in the temporary folder "
                "(TMPDIR) and run again"
            ) from None
        find = "SELECT place, split FROM first WHERE digest = ?"
        return [self._table.execute(find, (digest,)).fetchone() for digest in digests]


def _identity(prepare: Prepare, raw: Path) -> str:
    """What decides the decoded samples: parameters, raw files and the code that reads them."""
    files = [path for path in sorted(raw.rglob("*")) if path.is_file()]
    said = {
        "prepare": asdict(prepare),  # type: ignore[call-overload]
        "raw": {str(path.relative_to(raw)): md5(path) for path in files},
        "code": {path.name: md5(path) for path in sorted(Path(__file__).parent.glob("*.py"))},
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


@contextmanager
def _parts(target: Path, identity: str) -> Iterator[Path]:
    """A folder beside the target for what has been decoded; it stays only where the block is interrupted."""
    parts = target.with_name(f".{target.name}.parts")
    mark = parts / "identity"
    if not mark.is_file() or mark.read_text() != identity:
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir(parents=True)
        mark.write_text(identity)
    try:
        yield parts
    except MetashotError:  # what is mended is other data
        shutil.rmtree(parts)
        raise
    shutil.rmtree(parts)


def _decoded(
    items: Iterable[Item], form: Form, parts: Path
) -> Iterator[tuple[Sequence[Item], np.ndarray, list[bytes]]]:
    """Row group by row group: its items, their arrays ``[M, *shape]`` and digests, kept in ``parts``.

    Raises MetashotError that says which samples cannot be decoded, once for each reason, or why none can.
    """
    decode = KINDS[form.kind].decode
    failures: list[tuple[str, str]] = []

    def decode_some(some: Sequence[Item]) -> list[tuple[Any, bytes]]:
        found = []
        for item in some:
            try:
                content = item.read()
            except SampleError as error:
                failures.append((error.where, error.reason))
                continue
            try:
                found.append(decode(content, form))  # a MetashotError is about every sample, and ends it
            except ValueError as error:
                failures.append((item.origin, f"is {error}"))
        return found

    rows = max(1, ROW_GROUP // form.nbytes)
    number = 0
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for _, group in groupby(items, key=lambda item: item.key.split):
            while part := list(islice(group, rows)):
                file, number = parts / f"{number:06d}.npz", number + 1
                if file.is_file():
                    with np.load(file, allow_pickle=False) as done:
                        yield part, done["samples"], [bytes(row) for row in done["digests"]]
                    continue
                some = [part[at : at + AT_ONCE] for at in range(0, len(part), AT_ONCE)]
                found = list(chain.from_iterable(pool.map(decode_some, some)))
                if failures:  # further ones are looked for, so that they can be mended together
                    continue
                samples = np.stack([array for array, _ in found])
                digests = [digest for _, digest in found]
                with replacing(file) as partial, partial.open("wb") as out:
                    np.savez(
                        out,
                        samples=samples,
                        digests=np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16),
                    )
                yield part, samples, digests
    if failures:
        lines = grouped(sorted(failures))
        more = f"; and {len(lines) - NAMED} more reasons" if len(lines) > NAMED else ""
        raise MetashotError(f"{'; '.join(lines[:NAMED])}{more}: mend or remove")
