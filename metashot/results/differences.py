"""Differences between the rows of a comparison: every pair, and what meta-training gained."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from metashot.learning.statistics import Difference, holm, paired

if TYPE_CHECKING:
    from metashot.results.compare import Row

TRAINED, TRAINING_FREE = "trained", "training-free"  # the groups of methods


@dataclass(frozen=True)
class Pair:
    """Two rows of a comparison, by their names, the better one first.

    Attributes:
        first: The row that stands higher.
        second: The other.
        difference: First minus second.
        p_corrected: The difference's p-value, corrected for all pairs of the comparison (`statistics.holm`).
    """

    first: str
    second: str
    difference: Difference
    p_corrected: float

    @property
    def apart(self) -> bool:
        """Whether the two differ significantly, at 5 % for all pairs together."""
        return self.p_corrected < 0.05


@dataclass(frozen=True)
class Gain:
    """What meta-training gained: the best trained row against the best without training.

    Attributes:
        setting: The setting of the test episodes: that of the comparison, or a further one.
        trained: Name of the best trained row.
        training_free: Name of the best row without training.
        difference: Trained minus training-free.
    """

    setting: str
    trained: str
    training_free: str
    difference: Difference

    @property
    def sentence(self) -> str:
        """As people read it: ``meta-training gained +1.23 ± 0.45 points over the best without it (…)``."""
        low, high = self.difference.low, self.difference.high
        names, points = f"({self.trained} against {self.training_free})", in_points(self.difference)
        if low > 0:
            return f"meta-training gained {points} points over the best without it {names}"
        if high < 0:
            return f"meta-training lost {points[1:]} points against the best without it {names}"
        return f"meta-training gained nothing that can be told from 0: {points} points {names}"


def pairs(
    rows: Sequence["Row"], answered: Mapping[str, np.ndarray], retested: Mapping[str, Difference]
) -> list[Pair]:
    """Return each row against each below it.

    Args:
        rows: Best first.
        answered: Accuracy in each test episode, by method.
        retested: Each method minus the incumbent, where the gate tested that again.
    """

    def minus(first: "Row", second: "Row") -> Difference:
        if first.incumbent:
            return -retested[second.method]
        if second.incumbent:
            return retested[first.method]
        return paired(answered[first.method], answered[second.method])

    differences = [(first.name, second.name, minus(first, second)) for first, second in combinations(rows, 2)]
    corrected = holm([difference.p_value for *_, difference in differences])
    return [Pair(*names, p) for names, p in zip(differences, corrected, strict=True)]


def gain(setting: str, rows: Sequence["Row"], pairs: Iterable[Pair]) -> list[Gain]:
    """Return what meta-training gained in the rows' own setting; nothing where a group has no row."""
    if (best := _best(rows, lambda row: row.accuracy)) is None:
        return []
    trained, free = (row.name for row in best)
    known = {(pair.first, pair.second): pair.difference for pair in pairs}
    difference = known[trained, free] if (trained, free) in known else -known[free, trained]
    return [Gain(setting, trained, free, difference)]


def gain_in(setting: str, rows: Sequence["Row"], answered: Mapping[str, np.ndarray]) -> list[Gain]:
    """Return the same in a further setting.

    Args:
        setting: Its name.
        rows: Those of the comparison.
        answered: Accuracy in each of its test episodes, by method; incumbents were not tested on them.
    """
    present = [row for row in rows if row.method in answered and not row.incumbent]
    if (best := _best(present, lambda row: float(answered[row.method].mean()))) is None:
        return []
    trained, free = (row.method for row in best)
    return [Gain(setting, trained, free, paired(answered[trained], answered[free]))]


def shown(pair: Pair) -> tuple[str, str, str, str]:
    """Format a pair: difference in points, p, wins / ties / losses, episodes needed."""
    difference, p = pair.difference, pair.p_corrected
    return (
        in_points(difference),
        "< 0.001" if p < 0.001 else f"{p:.3f}",
        " / ".join(f"{count:,}" for count in (difference.wins, difference.ties, difference.losses)),
        "∞" if difference.needed is None else f"{difference.needed:,}",
    )


def in_points(difference: Difference) -> str:
    """Return a difference and its 95 % interval in percentage points: ``+0.09 ± 0.18``."""
    return f"{100 * difference.mean:+.2f} ± {100 * difference.ci95:.2f}"


def _best(rows: Sequence["Row"], accuracy: Callable[["Row"], float]) -> tuple["Row", "Row"] | None:
    """The most accurate row of each group, the earlier one of equals; None where a group has no row."""
    trained, free = (
        max((row for row in rows if row.group == group), key=accuracy, default=None)
        for group in (TRAINED, TRAINING_FREE)
    )
    return (trained, free) if trained and free else None
