"""Intervals, p-values, Holm's correction, episodes needed: against scipy, brute force and simulation."""

import math
from dataclasses import FrozenInstanceError
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from metashot.learning.statistics import Difference, episodes_needed, holm, mean_and_interval, paired

QUERIES = 75  # 5-way, 15 queries per class


def answers(
    rng: np.random.Generator, shape: int | tuple[int, int], lead: float, mean: float = 0.9
) -> tuple[np.ndarray, np.ndarray]:
    """Accuracies of two models in the same episodes, hard or easy for both, `lead` apart in expectation."""
    ease = rng.uniform(-1, 1, shape)
    first, second = mean + lead + 0.04 * ease, mean + 0.05 * ease
    return rng.binomial(QUERIES, first) / QUERIES, rng.binomial(QUERIES, second) / QUERIES


@pytest.mark.parametrize("lead", [0.0, 0.001, 0.003])
def test_p_and_interval_are_those_of_scipys_paired_test_in_many_episodes(lead):
    first, second = answers(np.random.default_rng(1), 20_000, lead)
    found, truth = paired(first, second), stats.ttest_rel(first, second)
    assert found.p_value == pytest.approx(truth.pvalue, rel=0.01)
    interval = truth.confidence_interval(0.95)
    assert [found.low, found.high] == pytest.approx([interval.low, interval.high], abs=1e-3 * found.ci95)
    error = stats.sem(first - second)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(found.mean) / error), rel=1e-3)
    assert [found.low, found.high] == pytest.approx(stats.norm.interval(0.95, found.mean, error), rel=1e-3)


@pytest.mark.parametrize("lead", [0.0, 0.004, 0.008, -0.002])
def test_p_is_that_of_flipping_the_signs_of_the_differences(lead):
    """Under the null hypothesis either model may have given either answer in each episode."""
    rng = np.random.default_rng(7)
    first, second = answers(rng, 300, lead)
    difference = first - second
    signs = rng.choice([-1.0, 1.0], (20_000, 300))
    beyond = np.abs((signs * difference).mean(axis=1)) - abs(difference.mean())
    equal = (
        np.abs(beyond) < 1e-12
    )  # counts are whole numbers; half of them, as a continuous distribution has it
    truth = (beyond[~equal] > 0).sum() / 20_000 + equal.mean() / 2
    assert 0.001 < truth < 0.999
    assert paired(first, second).p_value == pytest.approx(truth, abs=4 * math.sqrt(0.25 / 20_000))


def test_p_is_below_5_percent_just_where_the_interval_excludes_0():
    rng = np.random.default_rng(2)
    noise = rng.normal(size=(1000, 50))
    noise -= noise.mean(axis=1, keepdims=True)
    sure = []
    for row, factor in zip(
        noise, rng.choice([0.9, 1 - 1e-5, 1 - 1e-9, 1 + 1e-9, 1 + 1e-5, 1.1], 1000), strict=True
    ):
        _, half = mean_and_interval(row)  # so close to 0 does the interval begin or end
        found = paired(row + rng.choice([-1, 1]) * factor * half, np.zeros(50))
        assert (found.p_value < 0.05) == (found.low > 0 or found.high < 0) == (factor > 1)
        sure.append(factor > 1)
    assert 400 < sum(sure) < 600


def test_answers_that_never_differ_or_always_alike_have_no_spread():
    answer = np.random.default_rng(3).integers(50, QUERIES, 100) / QUERIES
    assert paired(answer, answer) == Difference(0.0, 0.0, 0.0, 1.0, 0, 100, 0, None)
    half = np.full(100, 0.5)
    assert paired(half + 0.25, half) == Difference(0.25, 0.25, 0.25, 0.0, 100, 0, 0, 2)
    rounded = paired(answer, answer - 0.1)  # the same but for floating point
    assert (rounded.p_value, rounded.needed) == (pytest.approx(0, abs=1e-12), 2)


def test_a_difference_cannot_be_changed():
    difference = paired(np.array([0.5, 0.6]), np.array([0.4, 0.7]))
    with pytest.raises(FrozenInstanceError):
        difference.mean = 0.0
    assert difference.ci95 == pytest.approx((difference.high - difference.low) / 2)


def test_wins_ties_and_losses_are_counted():
    first, second = answers(np.random.default_rng(4), 500, 0.01, mean=0.94)
    found, counts = paired(first, second), [0, 0, 0]
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        counts[0 if a > b else 1 if a == b else 2] += 1
    assert [found.wins, found.ties, found.losses] == counts
    assert min(counts) > 0


def test_the_other_way_round_is_the_negative():
    first, second = answers(np.random.default_rng(5), 500, 0.01)
    assert paired(second, first) == -paired(first, second)
    assert str(-paired(first, first).mean) == "-0.0"
    assert str((-paired(first, first)).mean) == "0.0"  # people and files are shown no -0


@pytest.mark.parametrize("size", range(7))
def test_holm_is_the_closed_testing_procedure_of_bonferroni_tests(size):
    """A hypothesis is rejected if every intersection of hypotheses that contains it is."""
    rng = np.random.default_rng(size)
    for _ in range(50):
        p = rng.choice([0.0, 1.0, *rng.random(4) ** 4], size).tolist()  # with ties
        truth = [
            max(
                min(1.0, len(subset) * min(p[other] for other in subset))
                for count in range(1, size + 1)
                for subset in combinations(range(size), count)
                if index in subset
            )
            for index in range(size)
        ]
        assert holm(p) == pytest.approx(truth)


def test_holm_keeps_the_rate_of_families_with_a_false_finding():
    """All pairs of six equal models: dependent tests, as in a comparison."""
    rng = np.random.default_rng(6)
    families = 600
    corrected = uncorrected = 0
    for _ in range(families):
        ease = rng.uniform(0.8, 0.96, 200)
        models = rng.binomial(QUERIES, ease, (6, 200)) / QUERIES
        p = [paired(first, second).p_value for first, second in combinations(models, 2)]
        corrected += min(holm(p)) < 0.05
        uncorrected += min(p) < 0.05
    assert stats.binomtest(corrected, families, 0.05, alternative="greater").pvalue > 0.001
    assert uncorrected / families > 0.25  # why it is needed


def test_the_episodes_needed_are_the_fewest_with_a_power_of_80_percent():
    rng = np.random.default_rng(8)
    numbers = np.arange(2, 20_000)
    for size, deviation in zip(rng.uniform(0.002, 0.05, 50), rng.uniform(0.02, 0.08, 50), strict=True):
        mean = size * rng.choice([-1, 1])
        shift = abs(mean) * np.sqrt(numbers) / deviation
        quantile = stats.norm.ppf(0.975)
        power = stats.norm.sf(quantile - shift) + stats.norm.cdf(-quantile - shift)
        assert episodes_needed(mean, deviation) == numbers[power >= 0.8][0]
    assert episodes_needed(0.0, 0.05) is None
    assert episodes_needed(1e-18, 0.05) is None  # what rounding leaves of 0
    assert episodes_needed(0.3, 0.0) == 2


def test_as_many_episodes_as_needed_tell_two_models_apart_four_times_in_five():
    rng = np.random.default_rng(9)
    needed = paired(*answers(rng, 400_000, 0.01)).needed
    assert 100 < needed < 400
    experiments = 2000
    for episodes, power in ((needed, 0.8), (needed // 2, 0.51)):
        first, second = answers(rng, (experiments, episodes), 0.01)
        found = sum(paired(*both).p_value < 0.05 for both in zip(first, second, strict=True))
        # 0.01 for the normal approximation and for `needed`, itself an estimate
        assert found / experiments == pytest.approx(power, abs=0.01 + 4 * math.sqrt(0.25 / experiments))


@pytest.mark.parametrize(("lead", "mean"), [(0.0, 0.9), (0.01, 0.6), (0.005, 0.94)])
def test_95_percent_of_the_intervals_hold_the_true_value(lead, mean):
    experiments = 3000
    first, second = answers(np.random.default_rng(10), (experiments, 400), lead, mean)
    differences = [paired(*both) for both in zip(first, second, strict=True)]
    alone = [mean_and_interval(accuracy) for accuracy in second]
    for held in (
        sum(found.low <= lead <= found.high for found in differences),
        sum(centre - half <= mean <= centre + half for centre, half in alone),
    ):
        assert stats.binomtest(held, experiments, 0.95).pvalue > 0.001
