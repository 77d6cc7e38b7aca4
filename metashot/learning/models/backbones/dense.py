"""Dense: a linear map of vectors, as of a frozen encoder."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from metashot.errors import MetashotError
from metashot.learning.models.backbones.base import LENGTH, WIDEST, Backbone, Params, require_between


@dataclass(frozen=True, kw_only=True)
class DenseParams(Params):
    """Parameters of `Dense`.

    Attributes:
        width: Features.
    """

    name: Literal["dense"]
    width: int

    def __post_init__(self) -> None:
        require_between(self, "width", 2, WIDEST)

    def build(self, shape: tuple[int, ...]) -> Backbone:
        """See `Params.build`."""
        return Dense(shape, self.width)


class Dense(Backbone):
    """A normalised linear map of vectors, trained on top of a frozen encoder.

    Initialised as a rotation (or a projection of one), which preserves the encoder's distances. Layer
    normalisation as in `Ngrams`.
    """

    def __init__(self, shape: tuple[int, ...], width: int) -> None:
        super().__init__()
        if len(shape) != 1:
            raise MetashotError(f"the dense network takes vectors, not samples of shape {list(shape)}")
        self.linear = nn.Linear(shape[0], width, bias=False)
        nn.init.orthogonal_(self.linear.weight)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        nn.init.constant_(self.norm.weight, LENGTH / width**0.5)
        self.features = width

    def forward(self, x: Tensor, stats_rows: int | None = None) -> Tensor:
        """Vectors ``[M, D]`` to features ``[M, width]``; no batch statistics."""
        features: Tensor = self.norm(self.linear(x))
        return features
