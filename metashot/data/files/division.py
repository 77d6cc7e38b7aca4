"""Division of samples into training, validation and test."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from metashot.data import Item, Split
from metashot.errors import MetashotError
from metashot.section import Section


@dataclass(frozen=True, kw_only=True)
class Shares(Section):
    """Random division of a data set that has no lists of splits.

    Attributes:
        of: ``classes``: every class is in one split, and a model is tested on classes that it has not seen.
            ``samples``: every class is in all three splits, for data with too few classes; a model is tested
            on new samples of the classes that it was trained on, and every result says so.
        seed: Seed of the draw.
        val: Share for validation.
        test: Share for the test; the rest is for training.
    """

    of: Literal["classes", "samples"]
    seed: int
    val: float
    test: float

    def __post_init__(self) -> None:
        if not (self.val > 0 and self.test > 0 and self.val + self.test < 1):
            raise ValueError(f"val: {self.val} and test: {self.test} do not leave a share for every split")


Division = Shares | Literal["listed"]


@dataclass(frozen=True, kw_only=True)
class Prepare(Section):
    """Division of a data set of local files: the keys of ``prepare`` that all their sources share.

    Attributes:
        repeated: What to do about a sample that is in two splits: ``refuse`` the data, or ``remove`` the
            sample from training or validation.
        split: Shares to draw, or ``listed`` if the raw files name the split of each sample.
    """

    repeated: Literal["refuse", "remove"]
    split: Division

    @property
    def disjoint(self) -> bool:
        """See `sources.Prepare`."""
        return self.split == "listed" or self.split.of == "classes"


def divide(items: Iterable[Item], shares: Shares) -> list[Item]:
    """Assign a split to each item, drawn from class and sample names alone.

    A class keeps its split when others are added or removed, so no model is tested on classes that it was
    trained on before the data set grew. Shares of classes hold on average, shares of the samples of a class
    up to rounding.

    Raises MetashotError for a class with too few samples to divide.
    """
    if shares.of == "classes":
        return [_assign(item, split_of(shares, item.key.path)) for item in items]
    classes: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        classes[item.key.path].append(item)
    divided = []
    for path, members in classes.items():
        members.sort(key=lambda item: _position(shares, f"{path}/{item.key.name}"))
        n_test, n_val = (max(2, round(share * len(members))) for share in (shares.test, shares.val))
        if len(members) < n_test + n_val + 2:
            raise MetashotError(
                f"class {path} has {len(members)} samples: each split needs at least 2; add some, "
                "or lower val and test"
            )
        for rank, item in enumerate(members):
            split: Split = "test" if rank < n_test else "val" if rank < n_test + n_val else "train"
            divided.append(_assign(item, split))
    return divided


def split_of(shares: Shares, path: str) -> Split:
    """Split of the class ``<superclass>/<class>``, drawn from its name alone."""
    position = _position(shares, path)
    if position < shares.test:
        return "test"
    return "val" if position < shares.test + shares.val else "train"


def _position(shares: Shares, name: str) -> float:
    """A pseudo-random number in [0, 1) for a name, uniformly distributed."""
    digest = hashlib.sha256(f"{shares.seed}/{name}".encode()).digest()
    return float(Fraction(int.from_bytes(digest[:6]), 2**48))


def _assign(item: Item, split: Split) -> Item:
    return item._replace(key=item.key._replace(split=split))
