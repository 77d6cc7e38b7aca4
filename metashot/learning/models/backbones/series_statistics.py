"""Statistics of series: level, spread, trend, rhythm and how channels go together."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from metashot.errors import MetashotError
from metashot.learning.models.backbones.base import Backbone, Params
from metashot.learning.models.backbones.mfcc import stretched
from metashot.learning.models.backbones.outline import ends
from metashot.learning.models.backbones.standardised import Standardised

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
LAGS = (1, 2, 4, 8, 16)  # of autocorrelations; those below the length
PARTS = 4  # of which each has a mean and a deviation
PAIRED = 32  # channels, at most, whose correlations are taken
TINY = 1e-6


@dataclass(frozen=True, kw_only=True)
class SeriesStatisticsParams(Params):
    """Parameters of `SeriesStatistics`: none."""

    fixed: ClassVar[bool] = True

    name: Literal["series_statistics"]

    def build(self, shape: tuple[int, ...]) -> Backbone:
        """See `Params.build`."""
        return SeriesStatistics(shape)


class SeriesStatistics(Standardised):
    """Statistics of each channel, from where the series begins to where it ends, and of pairs of channels.

    Of each channel: mean, deviation, minimum, maximum, `QUANTILES`; logarithms of the mean square and the
    mean size of its differences, and of its deviation; the share of steps that cross the mean;
    autocorrelations; shares of power in bands an octave wide; mean and deviation of each of `PARTS`. Of all:
    correlations between channels, and the share of the length that the series has. What a constant channel
    leaves undefined is 0.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 2:
            raise MetashotError(f"statistics of series are not of samples of shape {list(shape)}")
        channels, length = shape
        lags = sum(lag < length for lag in LAGS)
        own = 8 + len(QUANTILES) + lags + octaves(length) + 2 * min(PARTS, length)
        pairs = channels * (channels - 1) // 2 if channels <= PAIRED else 0
        super().__init__(channels * own + pairs + 1)

    def describe(self, x: Tensor) -> Tensor:
        """Series ``[M, C, length]`` to statistics ``[M, D]``."""
        channels, length = x.shape[1:]
        first, last = ends(x)
        x = stretched(x, first, last, length)
        mean, deviation = x.mean(2, keepdim=True), x.std(2, correction=0, keepdim=True)
        shape, steps = (x - mean) / deviation.clamp_min(TINY), x.diff(dim=2)
        quantiles = x.quantile(torch.tensor(QUANTILES, dtype=x.dtype, device=x.device), dim=2).movedim(0, 2)
        columns = [mean, deviation, x.amin(2, keepdim=True), x.amax(2, keepdim=True), quantiles]
        moves = (steps.square().mean(2, keepdim=True), steps.abs().mean(2, keepdim=True), deviation)
        columns += [(move + TINY).log() for move in moves]
        columns.append((shape[..., 1:] * shape[..., :-1] < 0).to(x).mean(2, keepdim=True))
        for lag in LAGS:
            if lag < length:
                columns.append((shape[..., lag:] * shape[..., :-lag]).sum(2, keepdim=True) / length)
        power = torch.fft.rfft(shape, dim=2).abs().square()[..., 1:]
        total = power.sum(2, keepdim=True).clamp_min(TINY)
        for octave in range(octaves(length)):
            band = power[..., 2**octave - 1 : 2 ** (octave + 1) - 1]
            columns.append(band.sum(2, keepdim=True) / total)
        for part in x.tensor_split(min(PARTS, length), 2):
            columns += [part.mean(2, keepdim=True), part.std(2, correction=0, keepdim=True)]
        described = [torch.cat(columns, 2).flatten(1)]
        if channels <= PAIRED:
            one, other = torch.triu_indices(channels, channels, 1, device=x.device)
            described.append((shape @ shape.mT / length)[:, one, other])
        described.append(((last - first + 1) / length)[:, None].to(x))
        return torch.cat(described, 1)


def octaves(length: int) -> int:
    """Bands of the frequencies 1, 2 to 3, 4 to 7 and so on, up to half the length."""
    return (length // 2).bit_length()
