"""Conv-1d, convolutions along time for series."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from metashot.errors import MetashotError
from metashot.learning.models.backbones.base import (
    WIDEST,
    Backbone,
    BatchNorm,
    Params,
    require,
    require_between,
)


@dataclass(frozen=True, kw_only=True)
class Conv1dParams(Params):
    """Parameters of `Conv1d`.

    Attributes:
        width: Filters of each block.
        kernel: Steps that a filter sees.
    """

    name: Literal["conv1d"]
    width: int
    kernel: int

    def __post_init__(self) -> None:
        require_between(self, "width", 1, WIDEST)
        require_between(self, "kernel", 1, 1025)
        require(self.kernel % 2 == 1, f"kernel: {self.kernel} is not odd")

    def build(self, shape: tuple[int, ...]) -> Backbone:
        """See `Params.build`."""
        return Conv1d(shape, self.width, self.kernel)


class Conv1d(Backbone):
    """Four blocks of convolution along time, batch normalisation, ReLU and max-pooling by two; then the mean.

    The blocks, and the mean over time, of Wang, Yan and Oates 2017 (arXiv:1611.06455, section II-B); as many
    as Conv-4 has, and pooled like those.
    """

    def __init__(self, shape: tuple[int, ...], width: int, kernel: int) -> None:
        super().__init__()
        if len(shape) != 2 or shape[1] < 16:
            raise MetashotError(
                f"Conv-1d takes series of 16 steps or more, not samples of shape {list(shape)}"
            )
        self.convs = nn.ModuleList(
            nn.Conv1d(shape[0] if i == 0 else width, width, kernel, padding=kernel // 2) for i in range(4)
        )
        self.norms = nn.ModuleList(BatchNorm(width) for _ in range(4))
        self.features = width

    def forward(self, x: Tensor, stats_rows: int | None = None) -> Tensor:
        """Series ``[M, C, T]`` to features ``[M, features]``; see `Backbone`."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(conv(x).unsqueeze(2), stats_rows).squeeze(2)  # a picture of one row
            x = F.relu(F.max_pool1d(x, 2))  # ReLU is monotone, so it commutes with max-pooling
        return x.mean(dim=2)
