"""MiniRocket: how often the convolutions of a series with fixed kernels exceed thresholds."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from metashot.errors import MetashotError
from metashot.learning.models.backbones.base import Backbone, Params

TAPS = 9  # of a kernel: three weigh 2, the others -1
KERNELS = tuple(combinations(range(TAPS), 3))  # which weigh 2: 84 kernels
BIASES = 48  # of a kernel, over all of its dilations; 119 in the paper
DILATIONS = 32  # of a kernel, at most
GOLDEN = (5**0.5 + 1) / 2
LARGEST = 1 << 24  # outputs of convolutions at once


@dataclass(frozen=True, kw_only=True)
class MinirocketParams(Params):
    """Parameters of `Minirocket`: none."""

    fixed: ClassVar[bool] = True

    name: Literal["minirocket"]

    def build(self, shape: tuple[int, ...]) -> Backbone:
        """See `Params.build`."""
        return Minirocket(shape)


class Minirocket(Backbone):
    """MiniRocket (Dempster, Schmidt and Webb 2021, arXiv:2012.08791), several channels as its authors do it.

    A feature is the share of the outputs of a dilated convolution that exceed a bias. Biases are quantiles of
    the outputs for one training sample, drawn for each kernel and dilation. With several channels, each
    kernel and dilation adds up some of them, drawn at random. Every other kernel sees zeros beyond the ends.

    Attributes:
        dilations: How many biases a kernel has, by dilation.
    """

    weights: Tensor
    chosen: Tensor
    biases: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        if len(shape) != 2:
            raise MetashotError(f"MiniRocket takes series, not samples of shape {list(shape)}")
        self.dilations = dilations(shape[1])
        self.features = len(KERNELS) * BIASES
        weights = -torch.ones(TAPS, len(KERNELS), 1)
        weights[torch.tensor(KERNELS).T, torch.arange(len(KERNELS))] = 2
        self.register_buffer("weights", weights, persistent=False)
        self.register_buffer("chosen", drawn_channels(shape[0], len(self.dilations)))
        self.register_buffer("biases", torch.zeros(self.features))

    def fit(self, samples: Iterable[Tensor]) -> None:
        """Take the biases from samples drawn at random, the same for the same number of samples."""
        count = sum(len(chunk) for chunk in samples)
        rows = np.random.default_rng(0).integers(count, size=(len(self.dilations), len(KERNELS)))
        drawn: dict[int, Tensor] = {}
        start = 0
        for chunk in samples:
            inside = np.unique(rows[(rows >= start) & (rows < start + len(chunk))])
            drawn.update((int(row), chunk[row - start]) for row in inside)
            start += len(chunk)
        ranks = (torch.arange(1, self.features + 1, dtype=torch.float64) * GOLDEN % 1).to(self.biases)
        biases, start = [], 0
        for number, (dilation, size) in enumerate(self.dilations.items()):
            for kernel, row in enumerate(rows[number]):
                outputs = self._convolved(drawn[int(row)][None], number, dilation)[0, kernel]
                biases.append(torch.quantile(outputs, ranks[start : start + size]))
                start += size
        self.biases.copy_(torch.cat(biases))

    def forward(self, x: Tensor, stats_rows: int | None = None) -> Tensor:
        """Series ``[M, C, length]`` to features ``[M, 84 * BIASES]``."""
        rows = max(1, LARGEST // (len(KERNELS) * x.shape[2]))
        return torch.cat([self._shares(part) for part in torch.split(x, rows)])

    def _shares(self, x: Tensor) -> Tensor:
        """Shares of the outputs above each bias, by dilation, kernel and bias."""
        length, shares, start = x.shape[2], [], 0
        for number, (dilation, size) in enumerate(self.dilations.items()):
            outputs = self._convolved(x, number, dilation)
            end = start + len(KERNELS) * size
            biases = self.biases[start:end].reshape(len(KERNELS), size, 1)
            share = x.new_empty(len(x), len(KERNELS), size)
            whole = slice(number % 2, None, 2)  # kernels that see the zeros
            inner = slice(1 - number % 2, None, 2)
            margin = TAPS // 2 * dilation if length > (TAPS - 1) * dilation else 0
            for bias in range(size):
                above = outputs > biases[:, bias]
                share[:, whole, bias] = above[:, whole].to(x).mean(2)
                share[:, inner, bias] = above[:, inner, margin : length - margin].to(x).mean(2)
            shares.append(share.flatten(1))
            start = end
        return torch.cat(shares, 1)

    def _convolved(self, x: Tensor, number: int, dilation: int) -> Tensor:
        """Outputs ``[M, 84, length]`` for series ``[M, C, length]``, with zeros beyond their ends.

        Sums in a fixed order: a convolution's may round otherwise in another batch, and a bias is a step.
        """
        added = x.new_zeros(len(x), len(KERNELS), x.shape[2])
        for channel, chosen in zip(x.unbind(1), self.chosen[number].unbind(1), strict=True):
            added += channel[:, None] * chosen[:, None]
        padded = F.pad(added, [TAPS // 2 * dilation] * 2)
        outputs = torch.zeros_like(added)
        for tap, weights in enumerate(self.weights):
            outputs += weights * padded[..., tap * dilation : tap * dilation + x.shape[2]]
        return outputs


def dilations(length: int) -> dict[int, int]:
    """How many biases a kernel has, by dilation: spread evenly over the logarithms of those that fit."""
    most = min(BIASES, DILATIONS)
    exponent = max(0.0, math.log2((length - 1) / (TAPS - 1)))
    counts = Counter(int(2**power) for power in np.linspace(0, exponent, most))
    sizes = {dilation: count * BIASES // most for dilation, count in sorted(counts.items())}
    for number in range(BIASES - sum(sizes.values())):
        sizes[list(sizes)[number % len(sizes)]] += 1
    return sizes


def drawn_channels(channels: int, dilations: int) -> Tensor:
    """Whether a dilation and kernel adds up a channel, 1 or 0: ``[dilations, 84, channels]``.

    The logarithm of how many is uniform, at most 9.
    """
    random = np.random.default_rng(0)
    chosen = np.zeros((dilations * len(KERNELS), channels), np.float32)
    for row in chosen:
        size = int(2 ** random.uniform(0, math.log2(min(channels, 9) + 1)))
        row[random.choice(channels, size, replace=False)] = 1
    return torch.from_numpy(chosen).reshape(dilations, len(KERNELS), channels)
