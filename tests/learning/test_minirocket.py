"""MiniRocket against loops over kernels, taps and steps, as the paper describes it.

Features and dilations were also compared with aeon 1.6.0's, given its biases and channels: equal to the bit.
"""

import numpy as np
import pytest
import torch

from metashot.errors import MetashotError
from metashot.learning.models.backbones import minirocket
from metashot.learning.models.backbones.minirocket import KERNELS, Minirocket, dilations

RANDOM = np.random.default_rng(0)


def outputs(series: np.ndarray, kernel: tuple[int, ...], dilation: int) -> np.ndarray:
    """One series convolved with one kernel, zeros beyond its ends."""
    length = len(series)
    return np.array(
        [
            sum(
                (2 if tap in kernel else -1) * series[place]
                for tap in range(9)
                if 0 <= (place := step + (tap - 4) * dilation) < length
            )
            for step in range(length)
        ]
    )


@pytest.mark.parametrize(("channels", "length"), [(1, 30), (3, 17), (2, 5)])
def test_features_are_those_of_loops(channels: int, length: int) -> None:
    series = RANDOM.normal(size=(5, channels, length)).astype(np.float32)
    network, samples = Minirocket((channels, length)), torch.from_numpy(series)
    network.fit([samples[:2], samples[2:]])
    features, column = network(samples).numpy(), 0
    ranks = np.arange(1, network.features + 1) * (np.sqrt(5) + 1) / 2 % 1
    for number, (dilation, size) in enumerate(network.dilations.items()):
        for position, kernel in enumerate(KERNELS):
            chosen = network.chosen[number, position].numpy() > 0
            assert chosen.any()
            each = [outputs(sample[chosen].sum(0), kernel, dilation) for sample in series]
            columns = slice(column, column + size)
            biases = network.biases[columns].numpy()
            quantiles = [np.quantile(one, ranks[columns]) for one in each]
            assert min(np.abs(one - biases).max() for one in quantiles) < 1e-5  # of one of the samples
            inner = (number + position) % 2 and length > 8 * dilation
            margin = 4 * dilation if inner else 0
            for row, one in enumerate(each):
                seen = one[margin : length - margin]
                # where an output is a bias, rounding decides
                for bias, feature in zip(biases, features[row, columns], strict=True):
                    least, most = np.mean(seen > bias + 1e-5), np.mean(seen > bias - 1e-5)
                    assert least - 1e-6 <= feature <= most + 1e-6
            column += size
    assert column == network.features == 84 * minirocket.BIASES


def test_dilations_are_those_of_the_paper() -> None:
    """By its formula: floor of 2 to 32 powers evenly spaced from 0 to log2 of (length - 1) / 8."""
    for length in (9, 17, 100, 1024):
        powers = 2 ** np.linspace(0, np.log2((length - 1) / 8), 32)
        assert list(dilations(length)) == sorted({int(power) for power in powers})
        assert sum(dilations(length).values()) == minirocket.BIASES
    assert dilations(2) == {1: minirocket.BIASES}


def test_channels_are_drawn_alike_each_time_and_at_most_nine() -> None:
    chosen = minirocket.drawn_channels(20, 30)
    assert torch.equal(chosen, minirocket.drawn_channels(20, 30))
    numbers = chosen.sum(2).flatten()
    assert (numbers.min(), numbers.max()) == (1, 9)
    # log2 of the number is uniform on [0, log2 10) before it is rounded down
    shares = torch.bincount(numbers.long(), minlength=10)[1:] / len(numbers)
    expected = torch.log10(torch.arange(2.0, 11)) - torch.log10(torch.arange(1.0, 10))
    torch.testing.assert_close(shares, expected, atol=0.03, rtol=0)


def test_other_samples_than_series_are_refused() -> None:
    with pytest.raises(MetashotError, match="MiniRocket takes series"):
        Minirocket((1, 28, 28))
