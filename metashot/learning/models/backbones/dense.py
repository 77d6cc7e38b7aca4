"""Dense: a linear map of vectors, as of a frozen encoder."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metashot.errors import MetashotError
from metashot.learning.models.backbones.base import LENGTH, Backbone, Params


@dataclass(frozen=True, kw_only=True)
class DenseParams(Params):
    """Parameters of `Dense`: none."""

    name: Literal["dense"]

    def build(self, shape: tuple[int, ...]) -> Backbone:
        """See `Params.build`."""
        return Dense(shape)


class Dense(Backbone):
    """A linear map of centred vectors of one length, trained on top of a frozen encoder.

    It starts as the identity: before the first step, features are the encoder's vectors, less their mean over
    the training split and divided by their length (Wang et al. 2019, arXiv:1911.04623).
    """

    centre: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        if len(shape) != 1:
            raise MetashotError(f"the dense network takes vectors, not samples of shape {list(shape)}")
        (self.features,) = shape
        self.register_buffer("centre", torch.zeros(shape))
        self.linear = nn.Linear(*shape, *shape, bias=False)
        nn.init.eye_(self.linear.weight)

    def fit(self, samples: Iterable[Tensor]) -> None:
        """See `Backbone.fit`: the mean of the vectors."""
        total, count = torch.zeros_like(self.centre, dtype=torch.float64), 0
        for chunk in samples:
            total += chunk.sum(0, dtype=torch.float64)
            count += len(chunk)
        self.centre.copy_(total / count)

    def forward(self, x: Tensor, stats_rows: int | None = None) -> Tensor:
        """Vectors ``[M, D]`` to features ``[M, D]`` of length `LENGTH`; no batch statistics."""
        mapped: Tensor = self.linear(F.normalize(x - self.centre, dim=-1))
        return LENGTH * F.normalize(mapped, dim=-1)
