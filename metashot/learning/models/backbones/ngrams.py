"""N-grams: the mean of a text's embedded n-grams."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from metashot.errors import MetashotError
from metashot.learning.models.backbones.base import (
    LENGTH,
    WIDEST,
    Backbone,
    Params,
    require,
    require_between,
    weights,
)

SPREAD = 0.02  # standard deviation of the initial embeddings; small, so that early updates matter


@dataclass(frozen=True, kw_only=True)
class NgramsParams(Params):
    """Parameters of `Ngrams`.

    Attributes:
        buckets: Rows of the table; n-grams in the same row are the same to the network.
        width: Features.
        drop_rate: Fraction of a text's n-grams that is dropped in training.
    """

    name: Literal["ngrams"]
    buckets: int
    width: int
    drop_rate: float

    def __post_init__(self) -> None:
        require_between(self, "buckets", 2, 2**24)
        require_between(self, "width", 2, WIDEST)
        require(0 <= self.drop_rate < 1, f"drop_rate: {self.drop_rate} is not between 0 and 1")

    def build(self, shape: tuple[int, ...]) -> Backbone:
        """See `Params.build`."""
        return Ngrams(shape, self.buckets, self.width, self.drop_rate)

    def count(self, shape: tuple[int, ...]) -> int:
        """See `Params.count`, which would take seconds for a whole table."""
        return weights(replace(self, buckets=2).build(shape)) + (self.buckets - 2) * self.width


class Ngrams(Backbone):
    """The mean of the embeddings of a text's n-grams, normalised: see `metashot.data.kinds.texts`.

    The mean is that of Joulin et al. 2017 (arXiv:1607.01759, section 2), layer normalisation that of Ba,
    Kiros and Hinton 2016 (arXiv:1607.06450). It is computed as the product of two matrices, the share of each
    row in each text and the table: that has second derivatives, and on a CPU it is faster than gathering and
    adding embeddings.
    """

    def __init__(self, shape: tuple[int, ...], buckets: int, width: int, drop_rate: float) -> None:
        super().__init__()
        if len(shape) != 1:
            raise MetashotError(
                f"the n-grams network takes numbered n-grams, not samples of shape {list(shape)}"
            )
        self.table = nn.Parameter(torch.randn(buckets, width) * SPREAD)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        nn.init.constant_(self.norm.weight, LENGTH / width**0.5)
        self.drop_rate, self.features = drop_rate, width

    def forward(self, x: Tensor, stats_rows: int | None = None) -> Tensor:
        """Numbered n-grams ``[M, length]``, 0 for none, to features ``[M, width]``; no batch statistics."""
        counted = (x != 0).to(self.table)
        if self.drop_rate and self.training and stats_rows is None:  # not in an inner loop, as in ResNet-12
            counted = counted * (torch.rand_like(counted) >= self.drop_rate)
        share = counted / counted.sum(1, keepdim=True).clamp_min(1)
        buckets = len(self.table)
        shares = share.new_zeros(len(x), buckets).scatter_add(1, x.long() % buckets, share)
        normalised: Tensor = self.norm(shares @ self.table)
        return normalised
