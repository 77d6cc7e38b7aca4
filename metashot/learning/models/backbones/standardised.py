"""Features standardised by the training split: the base of fixed backbones that describe a sample."""

from abc import abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor

from metashot.learning.models.backbones.base import Backbone

LIMIT = 10.0  # deviations from the mean


class Standardised(Backbone):
    """Each feature to mean 0 and deviation 1 in the training split, up to `LIMIT`; a constant one to 0.

    Args:
        features: How many numbers `describe` gives.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    @abstractmethod
    def describe(self, x: Tensor) -> Tensor:
        """Samples ``[M, *shape]`` to numbers ``[M, features]``, each sample by itself."""

    def fit(self, samples: Iterable[Tensor]) -> None:
        """Take mean and deviation, over the samples, of each feature."""
        count, total = 0, torch.zeros(self.features, dtype=torch.float64, device=self.mean.device)
        for chunk in samples:
            count, total = count + len(chunk), total + self.describe(chunk).double().sum(0)
        mean, squares = total / count, torch.zeros_like(total)
        for chunk in samples:
            squares += (self.describe(chunk).double() - mean).square().sum(0)
        deviation = (squares / count).sqrt()
        constant = deviation <= 1e-5 * (1 + mean.abs())  # a rounding error
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(constant, 0, 1 / deviation))

    def forward(self, x: Tensor, stats_rows: int | None = None) -> Tensor:
        """Samples ``[M, *shape]`` to features ``[M, D]``."""
        return ((self.describe(x) - self.mean) * self.scale).clamp(-LIMIT, LIMIT)
