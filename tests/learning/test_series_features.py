"""Statistics and outline of series against numpy and scipy, and their mixtures."""

import numpy as np
import torch

from metashot.learning.models.backbones import params_of
from metashot.learning.models.backbones.outline import STEPS, Outline
from metashot.learning.models.backbones.series_statistics import LAGS, QUANTILES, SeriesStatistics

RANDOM = np.random.default_rng(0)
CHANNELS, LENGTH = 3, 40


def test_statistics_are_those_of_numpy() -> None:
    series = RANDOM.normal(2, 3, (4, CHANNELS, LENGTH))
    actual = SeriesStatistics((CHANNELS, LENGTH)).double().describe(torch.from_numpy(series)).numpy()
    for row, sample in zip(actual, series, strict=True):
        expected: list[float] = []
        for channel in sample:
            mean, deviation = channel.mean(), channel.std()
            shape, steps = (channel - mean) / deviation, np.diff(channel)
            expected += [mean, deviation, channel.min(), channel.max(), *np.quantile(channel, QUANTILES)]
            expected += [*np.log([np.square(steps).mean(), np.abs(steps).mean(), deviation])]
            expected.append(np.mean(np.sign(shape[1:]) != np.sign(shape[:-1])))
            expected += [np.dot(shape[lag:], shape[:-lag]) / LENGTH for lag in LAGS]
            time = np.arange(LENGTH)
            power = [abs((shape * np.exp(-2j * np.pi * f * time / LENGTH)).sum()) ** 2 for f in range(1, 21)]
            bands = [power[0:1], power[1:3], power[3:7], power[7:15], power[15:20]]
            expected += [sum(band) / sum(power) for band in bands]
            for part in np.split(channel, 4):
                expected += [part.mean(), part.std()]
        correlations = np.corrcoef(sample)
        expected += [correlations[0, 1], correlations[0, 2], correlations[1, 2], 1.0]
        np.testing.assert_allclose(row, expected, atol=1e-5, rtol=1e-5)


def test_zeros_around_a_series_do_not_count_but_for_its_length() -> None:
    inside = RANDOM.normal(size=(1, CHANNELS, 20))
    times = np.linspace(0, 19, LENGTH)
    whole = np.stack([np.interp(times, np.arange(20), line) for line in inside[0]])[None]
    padded = torch.from_numpy(np.pad(inside, ((0, 0), (0, 0), (7, 13))))
    statistics = SeriesStatistics((CHANNELS, LENGTH)).double()
    first, second = statistics.describe(torch.cat([padded, torch.from_numpy(whole)]))
    assert (first[-1], second[-1]) == (0.5, 1)
    torch.testing.assert_close(first[:-1], second[:-1], atol=1e-9, rtol=1e-9)
    alone = Outline((CHANNELS, 20)).double().describe(torch.from_numpy(inside))
    outline = Outline((CHANNELS, LENGTH)).double().describe(padded)
    torch.testing.assert_close(outline, alone, atol=1e-9, rtol=1e-9)


def test_an_outline_is_the_series_at_a_few_times() -> None:
    series = RANDOM.normal(size=(2, CHANNELS, LENGTH))
    actual = Outline((CHANNELS, LENGTH)).double().describe(torch.from_numpy(series)).numpy()
    times = np.linspace(0, LENGTH - 1, STEPS)
    expected = [[np.interp(times, np.arange(LENGTH), line) for line in sample] for sample in series]
    np.testing.assert_allclose(actual.reshape(2, CHANNELS, STEPS), expected, atol=1e-9)


def test_parts_of_a_mixture_are_centred_and_of_one_length() -> None:
    samples = torch.from_numpy(RANDOM.normal(size=(15, CHANNELS, LENGTH)).astype(np.float32))
    for names in (("series_statistics", "minirocket"), ("outline", "series_statistics", "minirocket")):
        name = "_".join(part.removeprefix("series_") for part in names)
        mixture = params_of({"name": name}).build((CHANNELS, LENGTH))
        mixture.fit([samples[:4], samples[4:]])
        start, features = 0, mixture(samples)
        for part in names:
            alone = params_of({"name": part}).build((CHANNELS, LENGTH))
            alone.fit([samples])
            values = alone(samples)
            values = values - values.mean(0)
            values = values / values.square().sum(1).mean().sqrt()
            torch.testing.assert_close(
                features[:, start : start + alone.features], values, atol=1e-4, rtol=1e-3
            )
            start += alone.features
        assert start == mixture.features
