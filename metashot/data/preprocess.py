"""Preprocessing: raw files to the Parquet store, the same for every source and kind of data."""

import hashlib
import json
import os
import shutil
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import chain, count, groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from metashot.data import Form, Item, kinds, store
from metashot.data.kinds import KINDS
from metashot.data.sources import Encoded, Prepare, Pretrained, Source
from metashot.errors import MetashotError, SampleError, grouped
from metashot.files import md5, replacing
from metashot.output import say

REASONS = 10  # named in a message about unreadable samples
CHUNK = 16  # samples that a thread decodes in one go
ENCODED = 512  # samples in a row group where they go through an encoder: a whole number of its batches
ROW_GROUP = 1 << 20  # bytes of samples in a row group; a row group never contains two splits


def preprocess(source: Source, prepare: Prepare, raw: Path, target: Path) -> None:
    """Decode all samples and write the Parquet store.

    Decodes one row group at a time, with one thread for each core, so that memory holds one row group.
    Decoded row groups stay on disk until the store is complete, and an interrupted run resumes from them.

    Args:
        source: Source of the data set.
        prepare: Its section ``prepare``.
        raw: Folder that its ``download`` filled.
        target: The Parquet file to write.

    Raises:
        MetashotError: The raw files are damaged or laid out wrongly, samples cannot be decoded, a class is in
            two splits or has fewer than two samples in one, a split has none, or two splits share a sample
            (test data would leak into training) and ``prepare.repeated`` is ``refuse``.
    """
    items = source.items(prepare, raw)
    counts = Counter((item.key.split, item.key.path) for item in items)
    if lines := unfit(counts, prepare.disjoint):
        raise MetashotError(f"{raw}: {lines[0]}")
    form = source.form(prepare, raw) if isinstance(source, Encoded) else prepare.form
    form = _measured(form, items)
    about: dict[str, object] = {
        **asdict(source.ABOUT),
        "classes": "disjoint" if prepare.disjoint else "shared",
    }
    if isinstance(source, Pretrained) and (facts := source.encoder_facts(prepare, raw)):
        about["encoder"] = facts
    first_samples = _FirstSamples()
    kept: Counter[tuple[str, str]] = Counter()
    with (
        _parts(target, _identity(prepare, raw)) as parts,
        replacing(target) as partial,
        store.writing(partial, form, rotations=prepare.rotations, about=about) as writer,
        tqdm(total=counts.total(), desc="decoding", unit=" samples", leave=False, disable=None) as bar,
    ):
        for part, samples, digests in _decoded(items, form, parts):
            rows = []
            for row, (position, split) in enumerate(first_samples.add(digests, part[0].key.split)):
                item = part[row]
                if split == item.key.split:
                    rows.append(row)
                elif prepare.repeated == "refuse":
                    first = next(islice(items, position, None))
                    raise MetashotError(
                        f"{item.origin} ({item.key.path}, {item.key.split}) is the same sample as "
                        f"{first.origin} ({first.key.path}, {first.key.split}): remove one of them"
                    )
                # else the sample is dropped: splits come in alphabetical order, so test keeps its samples
            keys = [part[row].key for row in rows]
            kept.update((key.split, key.path) for key in keys)
            if keys:
                writer.write(keys, samples[rows], [digests[row] for row in rows])
            bar.update(len(part))
        if lines := unfit({key: kept[key] for key in counts}, prepare.disjoint, removed=True):
            raise MetashotError(f"{raw}: {lines[0]}")
        if prepare.repeated == "remove":
            about["removed"] = removed = counts.total() - kept.total()
            say(f"{raw}: removed {removed:,} samples that are in two splits", err=True)


def _measured(form: Form, items: Iterable[Item]) -> Form:
    """The form with what its kind measures in the training split, without what is in another split too.

    Samples that cannot be read are left out: decoding reports them.
    """
    measure = getattr(KINDS[form.kind], "measured", None)
    if not measure:
        return form

    def contents(training: bool) -> Iterator[bytes]:
        for item in items:
            if (item.key.split == "train") == training:
                with suppress(SampleError):
                    yield item.read()

    def alone() -> Iterator[bytes]:
        others = {hashlib.blake2b(content, digest_size=16).digest() for content in contents(False)}
        for content in contents(True):
            if hashlib.blake2b(content, digest_size=16).digest() not in others:
                yield content

    measured: Form = measure(form, alone())
    return measured


def unfit(counts: Mapping[tuple[str, str], int], disjoint: bool, removed: bool = False) -> Sequence[str]:
    """Reasons why no episodes can be drawn from some classes or splits, one line each.

    Args:
        counts: Number of samples by split and class (`Key.path`).
        disjoint: Whether each class has to be in one split only.
        removed: Whether samples that are in two splits have been removed.
    """
    splits_by_class = defaultdict(set)
    for split, path in counts:
        splits_by_class[path].add(split)
    in_several = [
        (f"class {path} is in {' and '.join(sorted(splits))}:", "it has to be in one split")
        for path, splits in sorted(splits_by_class.items())
        if len(splits) > 1 and disjoint
    ]
    after = " once those that are in two splits are removed" if removed else ""
    too_small = [
        (f"class {path}", f"has {count} sample in {split}{after}: episodes need two")
        for (split, path), samples in sorted(counts.items())
        if (count := ("no", "one", "")[min(samples, 2)])
    ]
    lines = grouped([*in_several, *too_small], "classes")
    if missing := {"train", "val", "test"} - set().union(*splits_by_class.values()):
        lines.append(f"no samples for split {', '.join(sorted(missing))}; it needs more classes")
    return lines


class _FirstSamples:
    """First sample with each digest, in a temporary SQLite table so that memory stays bounded."""

    def __init__(self) -> None:
        self._table = sqlite3.connect("")  # a temporary file, deleted at the end
        self._table.execute(
            "CREATE TABLE first (digest BLOB PRIMARY KEY, position INTEGER, split TEXT) WITHOUT ROWID"
        )
        self._positions = count()

    def add(self, digests: Sequence[bytes], split: str) -> list[tuple[int, str]]:
        """Add samples in the order of `Source.items`.

        Returns position and split of the first sample with each digest.

        Raises MetashotError when the disk is full.
        """
        new = ((digest, next(self._positions), split) for digest in digests)
        try:
            self._table.executemany("INSERT OR IGNORE INTO first VALUES (?, ?, ?)", new)
        except sqlite3.OperationalError as error:
            raise MetashotError(
                f"a table of digests cannot be written ({error}): free space in the temporary folder "
                "(TMPDIR) and run again"
            ) from None
        find = "SELECT position, split FROM first WHERE digest = ?"
        return [self._table.execute(find, (digest,)).fetchone() for digest in digests]


def _identity(prepare: Prepare, raw: Path) -> str:
    """Digest of all that determines the decoded samples: parameters, raw files and code."""
    files = [path for path in sorted(raw.rglob("*")) if path.is_file()]
    inputs = {
        "prepare": asdict(prepare),  # type: ignore[call-overload]
        "raw": {str(path.relative_to(raw)): md5(path) for path in files},
        "code": {path.name: md5(path) for path in sorted(Path(__file__).parent.glob("*.py"))},
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


@contextmanager
def _parts(target: Path, identity: str) -> Iterator[Path]:
    """A folder beside the target for decoded row groups; it is kept only if the block is interrupted."""
    parts = target.with_name(f".{target.name}.parts")
    identity_file = parts / "identity"
    if not identity_file.is_file() or identity_file.read_text() != identity:
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir(parents=True)
        identity_file.write_text(identity)
    try:
        yield parts
    except MetashotError:  # to mend it changes the data
        shutil.rmtree(parts)
        raise
    shutil.rmtree(parts)


def _decoded(
    items: Iterable[Item], form: Form, parts: Path
) -> Iterator[tuple[Sequence[Item], np.ndarray, list[bytes]]]:
    """Items, samples ``[M, *shape]`` and digests of each row group, which are also stored in ``parts``.

    Raises MetashotError that names the samples that cannot be decoded, once for each reason, or the reason
    why none can.
    """
    kind = KINDS[form.kind]
    failures: list[tuple[str, str]] = []

    def decode_chunk(chunk: Sequence[Item]) -> list[tuple[Any, bytes]]:
        decoded = []
        for item in chunk:
            try:
                content = item.read()
            except SampleError as error:
                failures.append((error.where, error.reason))
                continue
            try:
                decoded.append(
                    kind.decode(content, form)
                )  # a MetashotError concerns all samples, and ends it
            except ValueError as error:
                failures.append((item.origin, f"is {error}"))
        return decoded

    rows = ENCODED if isinstance(kind, kinds.Encoded) else max(1, ROW_GROUP // form.nbytes)
    number = 0
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for _, group in groupby(items, key=lambda item: item.key.split):
            while part := list(islice(group, rows)):
                file, number = parts / f"{number:06d}.npz", number + 1
                if file.is_file():
                    with np.load(file, allow_pickle=False) as done:
                        yield part, done["samples"], [bytes(row) for row in done["digests"]]
                    continue
                chunks = [part[start : start + CHUNK] for start in range(0, len(part), CHUNK)]
                decoded = list(chain.from_iterable(pool.map(decode_chunk, chunks)))
                if failures:  # go on, to report all of them together
                    continue
                samples, infinite = kinds.arrays(kind, [sample for sample, _ in decoded], form)
                if infinite:
                    failures += [(part[row].origin, f"is {kinds.INFINITE}") for row in infinite]
                    continue
                digests = [digest for _, digest in decoded]
                with replacing(file) as partial, partial.open("wb") as out:
                    np.savez(
                        out,
                        samples=samples,
                        digests=np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16),
                    )
                yield part, samples, digests
    if failures:
        lines = grouped(sorted(failures))
        more = f"; and {len(lines) - REASONS} more reasons" if len(lines) > REASONS else ""
        raise MetashotError(f"{'; '.join(lines[:REASONS])}{more}: mend or remove")
