"""Inspection of the user's own data: counts, sizes, unreadable samples, duplicates."""

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
from metashot.data.files import folders, local, split_lists
from metashot.errors import SampleError, grouped
from metashot.onboard import near_duplicates
from metashot.onboard.inspectors import OF_SOURCE, Gathered, Inspector, SampleInspection, choose, encoded

SPLIT_NAMES = {*split_lists.SPLITS, "training", "valid", "validation", "testing", "dev", "eval"}


@dataclass(frozen=True)
class Inspection:
    """The inspection of a data set.

    Attributes:
        raw: Path, lists of splits and label pattern.
        root: The repository.
        inspector: The inspector of its kind of samples.
        gathered: How the samples were found.
        samples: Inspection of each readable sample, by path.
        unreadable: Mistakes in the other samples, one line for each reason.
    """

    raw: folders.Raw
    root: Path
    inspector: Inspector
    gathered: Gathered
    samples: Mapping[str, SampleInspection]
    unreadable: Sequence[str]

    @property
    def contents(self) -> folders.Contents:
        """The files of the data set."""
        return self.gathered.contents

    @cached_property
    def md5(self) -> str:
        """Digest of the samples. Raises MetashotError if they cannot be used."""
        module: Any = sources.SOURCES[self.inspector.source]
        digest: str = module.digest(module.Raw(**self.gathered.raw, md5=""), self.root)
        return digest

    def shown(self, name: str) -> str:
        """A sample in a message: its path or, if it is a text, the text itself."""
        facts = self.samples[name].facts
        return repr(facts if len(facts) <= 60 else f"{facts[:59]}…") if isinstance(facts, str) else repr(name)

    @cached_property
    def class_sizes(self) -> Counter[str]:
        """Number of samples of each class, by the path of the class."""
        return Counter(name.rpartition("/")[0] for name in self.samples)

    @cached_property
    def prepare(self) -> dict[str, Any]:
        """The keys of ``prepare`` that follow from the samples."""
        return self._detected[0]

    @cached_property
    def duplicates(self) -> list[list[str]]:
        """Groups of equal samples."""
        groups = defaultdict(list)
        for name, sample in self.samples.items():
            groups[sample.digests[self._detected[1]]].append(name)
        return [names for names in groups.values() if len(names) > 1]

    @cached_property
    def near_duplicates(self) -> list[list[str]]:
        """Pairs of nearly equal samples; of a group of duplicates only the first is in any."""
        repeated = {name for names in self.duplicates for name in names[1:]}
        thumbnails = {
            name: sample.thumbnail
            for name, sample in self.samples.items()
            if sample.thumbnail is not None and name not in repeated
        }
        if not thumbnails:
            return []
        stacked = np.stack(list(thumbnails.values()))
        names = list(thumbnails)
        pairs = near_duplicates.find(near_duplicates.hashes(stacked), stacked)
        return [[names[one], names[other]] for one, other in pairs]

    @cached_property
    def _detected(self) -> tuple[dict[str, Any], str]:
        return self.inspector.detected(list(self.samples.values()))


def inspect(raw: folders.Raw, root: Path, known: Mapping[str, Any] | None = None) -> Inspection:
    """Inspect every sample of a folder, zip file or table.

    Args:
        raw: Path, lists of splits and label pattern.
        root: The repository.
        known: Section of the data set in params.yaml, if there is one.

    Raises:
        MetashotError: Nothing is at the path, or a zip file or lists of splits cannot be used at all.
    """
    inspector: Inspector = encoded.of(
        OF_SOURCE[known["source"]] if known else choose(raw, root), raw, root, known
    )
    gathered = inspector.gather(raw, root, known["raw"] if known else {})

    def inspect_sample(name: str, read: Callable[[], bytes]) -> SampleInspection | SampleError:
        try:
            return gathered.inspect(read())
        except ValueError as error:
            return SampleError(f"{raw.path}: {name!r}", f"is {error}")
        except SampleError as error:
            return error

    inspected: dict[str, SampleInspection] = {}
    faults: list[tuple[str, str]] = []
    readers = gathered.contents.samples
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        results = pool.map(inspect_sample, readers, readers.values())
        bar = tqdm(results, "inspecting", len(readers), leave=False, disable=None, unit=f" {inspector.noun}")
        for name, result in zip(readers, bar, strict=True):
            if isinstance(result, SampleError):
                faults.append((result.where, result.reason))
            else:
                inspected[name] = result
    return Inspection(raw, root, inspector, gathered, inspected, grouped(faults, inspector.noun))


def summary(inspection: Inspection) -> dict[str, str]:
    """Rows for the user about a data set: name and value."""
    counts = sorted(inspection.class_sizes.values())
    rows = dict(inspection.gathered.summary)
    rows |= {"classes": f"{len(counts):,}", inspection.inspector.noun: f"{len(inspection.samples):,}"}
    if counts:
        rows["per class"] = (
            f"{counts[0]:,} to {counts[-1]:,}, median {median(counts):,.0f}; the largest has "
            f"{counts[-1] / counts[0]:.1f} times as many as the smallest"
        )
        rows |= inspection.inspector.summary(list(inspection.samples.values()))
    if inspection.contents.ignored:
        rows["ignored"] = local.describe_ignored(inspection.contents.ignored)
    if inspection.contents.unlisted:
        rows["left out"] = f"{inspection.contents.unlisted:,} files that no list of splits names"
    return rows


def warnings(inspection: Inspection) -> list[str]:
    """Peculiarities of a data set that do not prevent training, one line each."""
    lines = list(inspection.inspector.warnings(inspection.samples))
    tops = {class_.partition("/")[0] for class_ in inspection.class_sizes if class_.count("/") == 1}
    like_splits = sorted(top for top in tops if top.lower() in SPLIT_NAMES)
    if len(like_splits) > 1 and not inspection.raw.splits:
        lines.append(
            f"the folders {' and '.join(map(repr, like_splits))} look like splits, but count as "
            "superclasses, and their classes as different ones: join them, or name lists with --splits"
        )
    counts = inspection.class_sizes.values()
    if counts and max(counts) > 10 * min(counts):
        smallest = [class_ for class_, count in inspection.class_sizes.items() if count == min(counts)]
        lines.append(
            f"unequal classes: {smallest[0]!r} has {min(counts):,} samples, the largest {max(counts):,}"
        )
    return lines
