"""Statistics of accuracies in episodes: intervals, paired tests, Holm's correction, sample sizes.

All use the normal approximation to the mean over episodes, which are drawn independently.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

Z = 1.96  # half width of a 95 % interval in standard errors
FIVE_PERCENT, POWER = NormalDist().inv_cdf(0.975), NormalDist().inv_cdf(0.8)
ROUNDING = 1e-12  # a smaller mean difference is 0 but for floating point


@dataclass(frozen=True)
class Difference:
    """One model minus another, episode by episode; accuracies are fractions.

    Attributes:
        mean: Of the differences over the E episodes.
        low: Lower end of the 95 % interval of the mean.
        high: Upper end.
        p_value: Two-sided, of the null hypothesis that the mean is 0; uncorrected.
        wins: Episodes in which the first model is more accurate.
        ties: Episodes in which both are equally accurate.
        losses: Episodes in which the second is more accurate.
        needed: Episodes that would tell the two apart, see `episodes_needed`; None where the mean is 0.
    """

    mean: float
    low: float
    high: float
    p_value: float
    wins: int
    ties: int
    losses: int
    needed: int | None

    @property
    def ci95(self) -> float:
        """Half width of the interval."""
        return (self.high - self.low) / 2

    def __neg__(self) -> "Difference":
        mean, low, high = (0 - value for value in (self.mean, self.high, self.low))  # and not -0.0
        return Difference(mean, low, high, self.p_value, self.losses, self.ties, self.wins, self.needed)


def mean_and_interval(accuracy: np.ndarray) -> tuple[float, float]:
    """Mean and half width of its 95 % interval, ``1.96 s / sqrt(E)``, over the accuracies ``[E]``."""
    return float(accuracy.mean()), float(Z * accuracy.std(ddof=1) / np.sqrt(len(accuracy)))


def paired(first: np.ndarray, second: np.ndarray) -> Difference:
    """Compare the accuracies ``[E]`` of two models in the same E episodes, at least 2.

    Some episodes are hard for every model. This cancels in differences within episodes, so their mean is
    known better than the two accuracies (the paired test: Student 1908, The probable error of a mean,
    Biometrika 6(1), 1-25; here with the normal distribution). The p-value is below 0.05 just where the
    interval excludes 0. It is 1 if all answers are equal, and 0 if the difference is
    the same in all episodes.
    """
    mean, half = mean_and_interval(first - second)
    return Difference(
        mean,
        mean - half,
        mean + half,
        _two_sided(mean, half),
        wins=int((first > second).sum()),
        ties=int((first == second).sum()),
        losses=int((first < second).sum()),
        needed=episodes_needed(mean, half * math.sqrt(len(first)) / Z),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct the p-values of a family of tests, in their order.

    Rejecting what is below 0.05 then rejects a true hypothesis in at most 5 % of families, however the tests
    depend on each other (Holm 1979, A simple sequentially rejective multiple test procedure, Scandinavian
    Journal of Statistics 6(2), 65-70).
    """
    corrected, least = [0.0] * len(p_values), 0.0
    for step, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - step) * p_values[index]))
        corrected[index] = least
    return corrected


def episodes_needed(mean: float, deviation: float) -> int | None:
    """Return how many episodes tell two models apart: two-sided at 5 %, with a power of 80 %.

    ``((z_0.975 + z_0.8) s / mean)^2``, rounded up (Lachin 1981, Introduction to sample size determination
    and power analysis for clinical trials, Controlled Clinical Trials 2(2), 93-113). It takes the observed
    values for the true ones, and is as uncertain as they are. Below about 30 it only says: few.

    Args:
        mean: Mean difference of accuracies in an episode.
        deviation: Standard deviation s of that difference over episodes.

    Returns:
        At least 2, which an interval needs; None if the mean is 0, so that no number suffices.
    """
    if abs(mean) < ROUNDING:
        return None
    return max(2, math.ceil(((FIVE_PERCENT + POWER) * deviation / mean) ** 2))


def _two_sided(mean: float, half: float) -> float:
    """The p-value of a mean with this half width, which is the 5 % point whatever digits 1.96 leaves out."""
    if half == 0:
        return float(mean == 0)
    return math.erfc(FIVE_PERCENT * abs(mean) / half / math.sqrt(2))
