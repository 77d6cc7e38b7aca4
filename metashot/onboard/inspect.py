"""What is in data of one's own: counts, sizes, what cannot be read, what is there twice."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from tqdm import tqdm

from metashot.data import sources
from metashot.data.files import folders, split_lists
from metashot.errors import SampleError, grouped
from metashot.onboard import near_duplicates
from metashot.onboard.looks import OF_SOURCE, Gathered, Inspector, Look, kind_of


@dataclass(frozen=True)
class Inspection:
    """A folder that was looked at.

    Attributes:
        raw: What was looked at.
        root: The repository.
        kind: Of its samples.
        gathered: How they were found.
        looks: What was seen of each sample that can be read, by its path.
        unreadable: What is wrong with the others, a line for each reason.
    """

    raw: folders.Raw
    root: Path
    kind: Inspector
    gathered: Gathered
    looks: Mapping[str, Look]
    unreadable: Sequence[str]

    @property
    def contents(self) -> folders.Contents:
        """What was found."""
        return self.gathered.contents

    @cached_property
    def md5(self) -> str:
        """Digest of the samples. Raises MetashotError where they cannot be used."""
        module: Any = sources.SOURCES[self.kind.source]
        digest: str = module.digest(module.Raw(**self.gathered.raw, md5=""), self.root)
        return digest

    def shown(self, name: str) -> str:
        """A sample for a person: its path, or the text that it is."""
        facts = self.looks[name].facts
        return repr(facts if len(facts) <= 60 else f"{facts[:59]}…") if isinstance(facts, str) else repr(name)

    @cached_property
    def sizes(self) -> Counter[str]:
        """Samples of each class, by the class's path."""
        return Counter(name.rpartition("/")[0] for name in self.looks)

    @cached_property
    def prepare(self) -> dict[str, Any]:
        """The keys of ``prepare`` that are found out."""
        return self._prepared[0]

    @cached_property
    def duplicates(self) -> list[list[str]]:
        """Groups of samples that are the same."""
        groups = defaultdict(list)
        for name, look in self.looks.items():
            groups[look.digests[self._prepared[1]]].append(name)
        return [names for names in groups.values() if len(names) > 1]

    @cached_property
    def near(self) -> list[list[str]]:
        """Pairs of samples that are nearly the same; of those that are the same only one is in any."""
        again = {name for names in self.duplicates for name in names[1:]}
        seen = {n: k.thumbnail for n, k in self.looks.items() if k.thumbnail is not None and n not in again}
        if not seen:
            return []
        thumbnails = np.stack(list(seen.values()))
        names = list(seen)
        pairs = near_duplicates.near(near_duplicates.hashes(thumbnails), thumbnails)
        return [[names[one], names[other]] for one, other in pairs]

    @cached_property
    def _prepared(self) -> tuple[dict[str, Any], str]:
        return self.kind.prepared(list(self.looks.values()))


def inspect(raw: folders.Raw, root: Path, known: Mapping[str, Any] | None = None) -> Inspection:
    """Look at every sample of a folder, a zip file or a table.

    Args:
        raw: Path, and lists of splits.
        root: The repository.
        known: The data set as params.yaml has it already.

    Raises:
        MetashotError: There is none, or a zip or lists of splits cannot be used at all.
    """
    kind = OF_SOURCE[known["source"]] if known else kind_of(raw, root)
    gathered = kind.gather(raw, root, known["raw"] if known else {})

    def look(name: str, read: Callable[[], bytes]) -> Look | SampleError:
        try:
            return gathered.look(read())
        except ValueError as error:
            return SampleError(f"{raw.path}: {name!r}", f"is {error}")
        except SampleError as error:
            return error

    looks: dict[str, Look] = {}
    faults: list[tuple[str, str]] = []
    samples = gathered.contents.samples
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        seen = pool.map(look, samples, samples.values())
        bar = tqdm(seen, "looking", len(samples), leave=False, disable=None, unit=f" {kind.noun}")
        for name, one in zip(samples, bar, strict=True):
            if isinstance(one, SampleError):
                faults.append((one.where, one.reason))
            else:
                looks[name] = one
    return Inspection(raw, root, kind, gathered, looks, grouped(faults, kind.noun))


def rows(found: Inspection) -> dict[str, str]:
    """What a person is shown of a folder: name and value."""
    counts = sorted(found.sizes.values())
    shown = dict(found.gathered.rows)
    shown |= {"classes": f"{len(counts):,}", found.kind.noun: f"{len(found.looks):,}"}
    if counts:
        shown["in a class"] = (
            f"{counts[0]:,} to {counts[-1]:,}, median {median(counts):,.0f}; the largest has "
            f"{counts[-1] / counts[0]:.1f} times as many as the smallest"
        )
        shown |= found.kind.rows(list(found.looks.values()))
    if found.contents.others:
        shown["passed by"] = folders.passed_by(found.contents.others)
    if found.contents.left_out:
        shown["left out"] = f"{found.contents.left_out:,} files that no list of splits names"
    return shown


def warnings(found: Inspection) -> list[str]:
    """What is strange in a folder, but stops nothing."""
    said = list(found.kind.warnings(found.looks))
    tops = {class_.partition("/")[0] for class_ in found.sizes if class_.count("/") == 1}
    if len(alike := sorted(top for top in tops if top.lower() in _SPLITS)) > 1 and not found.raw.splits:
        said.append(
            f"the folders {' and '.join(map(repr, alike))} look like splits, but count as superclasses, and "
            "their classes as different ones: join them, or name lists with --splits"
        )
    counts = found.sizes.values()
    if counts and max(counts) > 10 * min(counts):
        few = [class_ for class_, count in found.sizes.items() if count == min(counts)]
        said.append(f"unequal classes: {few[0]!r} has {min(counts):,} samples, the largest {max(counts):,}")
    return said


_SPLITS = {*split_lists.SPLITS, "training", "valid", "validation", "testing", "dev", "eval"}
