"""The interface of an inspector, and what several inspectors share."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from metashot.data.files import folders


class SampleInspection(NamedTuple):
    """The inspection of one sample."""

    digests: Mapping[str, bytes]
    """Content digests for finding duplicates, one for each preparation."""
    thumbnail: NDArray[np.uint8] | None
    """Input of `near_duplicates.hashes`; None for kinds that have none."""
    facts: Any
    """Facts that only the inspector of its kind uses."""


class Gathered(NamedTuple):
    """The samples of a data set, before they are inspected."""

    contents: folders.Contents
    raw: Mapping[str, Any]
    """Section ``raw`` of params.yaml, without the digest."""
    listed: bool
    """Whether the raw files name the split of each sample."""
    inspect: Callable[[bytes], SampleInspection]
    """Inspects the content of one sample, in any thread. ValueError, completing "is …", if it is unusable."""
    summary: Mapping[str, str] = {}
    """Rows for the user about how the samples were found."""


class Inspector(Protocol):
    """One kind of samples: inspects them, and proposes parameters."""

    @property
    def source(self) -> str:
        """The module of `metashot.data.sources` for data of this kind."""

    @property
    def noun(self) -> str:
        """Plural name of the samples."""

    @property
    def suffixes(self) -> Collection[str]:
        """Suffixes of files of this kind."""

    def gather(self, raw: folders.Raw, root: Path, known: Mapping[str, Any]) -> Gathered:
        """Find the samples.

        Args:
            raw: Path, lists of splits and label pattern.
            root: The repository.
            known: Section ``raw`` of the data set in params.yaml; empty for new data.

        Raises:
            MetashotError: Nothing can be inspected.
        """

    def summary(self, samples: Sequence[SampleInspection]) -> Mapping[str, str]:
        """Rows for the user about all samples."""

    def warnings(self, samples: Mapping[str, SampleInspection]) -> Sequence[str]:
        """Peculiarities that do not prevent training."""

    def detected(self, samples: Sequence[SampleInspection]) -> tuple[dict[str, Any], str]:
        """Keys of ``prepare`` that follow from the samples, and the key of the digests to compare."""

    def defaults(self, prepare: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Sections ``prepare`` (its other keys), ``backbone`` and ``augment`` of params.yaml."""


@runtime_checkable
class Chooser(Protocol):
    """An inspector that tries some parameters on validation episodes."""

    def chosen(
        self,
        gathered: Gathered,
        prepare: Mapping[str, Any],
        splits: Mapping[str, str],
        n_way: int,
        n_query: int,
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Keys of ``prepare`` that validate best, and rows for the user about what was tried.

        Args:
            gathered: The samples.
            prepare: The other keys of ``prepare``.
            splits: Split of each sample, by path.
            n_way: Classes in an episode.
            n_query: Queries of each class.
        """


def count(names: Sequence[str], noun: str) -> str:
    """The number of samples, and the first."""
    return f"{len(names):,} {noun} ({names[0]!r}{', ...' if len(names) > 1 else ''})"


def gather_files(
    raw: folders.Raw,
    root: Path,
    known: Mapping[str, Any],
    suffixes: Collection[str],
    inspect: Callable[[bytes], SampleInspection],
) -> Gathered:
    """Gather files in class folders; see `Inspector.gather`. A known label pattern still applies."""
    pattern = raw.label or known.get("label")
    label = {"label": pattern} if pattern else {}
    raw = folders.Raw(path=raw.path, splits=raw.splits, md5="", **label)
    section = {"path": raw.path, "splits": raw.splits, **label}
    return Gathered(folders.contents(raw, root, suffixes), section, bool(raw.splits), inspect)


def too_few_classes(path: str, samples: Mapping[str, object]) -> list[str]:
    """A mistake if there are fewer than two classes."""
    classes = {name.rpartition("/")[0] for name in samples}
    return [f"{path}: classes: {len(classes)}; an episode needs at least two"] if len(classes) < 2 else []


def spread(values: Sequence[float], form: str) -> str:
    """Minimum, maximum and median of values, in a format."""
    return f"{min(values):{form}} to {max(values):{form}}, median {median(values):{form}}"
