"""Identity: the numbers of a sample as they are, such as the vector of a frozen encoder."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from metashot.learning.models.backbones.base import Backbone, Params


@dataclass(frozen=True, kw_only=True)
class IdentityParams(Params):
    """Parameters of `Identity`: none."""

    fixed: ClassVar[bool] = True

    name: Literal["identity"]

    def build(self, shape: tuple[int, ...]) -> Backbone:
        """See `Params.build`."""
        return Identity(shape)


class Identity(Backbone):
    """A sample's numbers in a row."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.features = math.prod(shape)

    def forward(self, x: Tensor, stats_rows: int | None = None) -> Tensor:
        """Samples ``[M, *shape]`` to features ``[M, D]``."""
        return x.flatten(1)
