"""What every kind's look has, and what several of them use."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from metashot.data.files import folders


class Look(NamedTuple):
    """What is seen of one sample."""

    digests: Mapping[str, bytes]
    """Equal for what is the same to a person, by the way it may be prepared."""
    thumbnail: NDArray[np.uint8] | None
    """As `near_duplicates.hashes` takes it; None for what has none."""
    facts: Any
    """Of the kind's own."""


class Gathered(NamedTuple):
    """Samples that were found."""

    contents: folders.Contents
    raw: Mapping[str, Any]
    """Section ``raw`` of params.yaml, all but the digest."""
    listed: bool
    """Whether it is said of every sample which split it is in."""
    look: Callable[[bytes], Look]
    """Look at one. ValueError, saying what it is, where it cannot be used; called from any thread."""
    rows: Mapping[str, str] = {}
    """What a person is shown of how they were found."""


class Inspector(Protocol):
    """A kind of samples: how one is looked at, and what is made of all."""

    @property
    def source(self) -> str:
        """The module of `metashot.data.sources` for folders of it."""

    @property
    def noun(self) -> str:
        """What its samples are called."""

    @property
    def suffixes(self) -> Collection[str]:
        """Of the names of its files."""

    def gather(self, raw: folders.Raw, root: Path, known: Mapping[str, Any]) -> Gathered:
        """Find the samples.

        Args:
            raw: Path, and lists of splits.
            root: The repository.
            known: Section ``raw`` of the data set as params.yaml has it; empty without.

        Raises:
            MetashotError: There is nothing that could be looked at.
        """

    def rows(self, looks: Sequence[Look]) -> Mapping[str, str]:
        """What a person is shown of all samples: name and value."""

    def warnings(self, looks: Mapping[str, Look]) -> Sequence[str]:
        """What is strange, but stops nothing."""

    def prepared(self, looks: Sequence[Look]) -> tuple[dict[str, Any], str]:
        """The keys of ``prepare`` that are found out, and which of the digests the pipeline will compare."""

    def defaults(self, prepare: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The sections ``prepare`` (its other keys), ``backbone`` and ``augment`` of params.yaml."""


def count(names: Sequence[str], noun: str) -> str:
    """How many, and the first of them."""
    return f"{len(names):,} {noun} ({names[0]!r}{', ...' if len(names) > 1 else ''})"


def gathered_files(
    raw: folders.Raw,
    root: Path,
    known: Mapping[str, Any],
    suffixes: Collection[str],
    look: Callable[[bytes], Look],
) -> Gathered:
    """Files in class folders, or with their class in their name where params.yaml knows how."""
    pattern = raw.label or known.get("label")
    label = {"label": pattern} if pattern else {}
    raw = folders.Raw(path=raw.path, splits=raw.splits, md5="", **label)
    said = {"path": raw.path, "splits": raw.splits, **label}
    return Gathered(folders.contents(raw, root, suffixes), said, bool(raw.splits), look)


def few_classes(path: str, samples: Mapping[str, object]) -> list[str]:
    """What is wrong where there are fewer classes than two; nothing otherwise."""
    classes = {name.rpartition("/")[0] for name in samples}
    return [f"{path}: classes: {len(classes)}; an episode needs at least two"] if len(classes) < 2 else []


def spread(values: Sequence[float], form: str) -> str:
    """Least, greatest and median of values, in a format."""
    return f"{min(values):{form}} to {max(values):{form}}, median {median(values):{form}}"
