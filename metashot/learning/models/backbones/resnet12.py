"""ResNet-12, the residual network of few-shot papers on colour pictures."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metashot.learning.models.backbones.base import (
    WIDEST,
    Backbone,
    BatchNorm,
    Params,
    Precision,
    computing,
    laid_out,
    picture_shape,
    require,
    require_between,
    require_precision,
)


@dataclass(frozen=True, kw_only=True)
class Resnet12Params(Params):
    """Parameters of `ResNet12`.

    Attributes:
        width: Filters of the first block; the others have 2.5, 5 and 10 times as many.
        drop_rate: Fraction of the last two blocks' features that DropBlock drops in training.
        drop_size: Side of the dropped squares, in features.
        precision: Of convolutions and feature maps; weights, statistics and features are float32.
    """

    name: Literal["resnet12"]
    width: int
    drop_rate: float
    drop_size: int
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        require_between(self, "width", 2, WIDEST)
        require(self.width % 2 == 0, f"width: {self.width} is not even")
        require(0 <= self.drop_rate < 1, f"drop_rate: {self.drop_rate} is not between 0 and 1")
        require_between(self, "drop_size", 1, 1024)
        require_precision(self.precision)

    def build(self, shape: tuple[int, ...]) -> Backbone:
        """See `Params.build`."""
        return ResNet12(shape, self.width, self.drop_rate, self.drop_size, self.precision)


class ResNet12(Backbone):
    """Four residual blocks of three convolutions, averaged over the last feature map.

    As in Oreshkin et al. 2018 (arXiv:1805.10123, section 4) and, with these widths and DropBlock in the last
    two blocks, Lee et al. 2019 (arXiv:1904.03758, section 4.1). The rate of DropBlock stays the same.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        width: int,
        drop_rate: float,
        drop_size: int,
        precision: Precision,
    ) -> None:
        super().__init__()
        channels, *_ = picture_shape(shape, "ResNet-12", 16)
        widths = [width, 5 * width // 2, 5 * width, 10 * width]
        rates = [0.0, 0.0, drop_rate, drop_rate]
        self.blocks = nn.ModuleList(
            Residual(before, after, rate, drop_size)
            for before, after, rate in zip([channels, *widths[:-1]], widths, rates, strict=True)
        )
        self.features, self.precision = widths[-1], precision
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, stats_rows: int | None = None) -> Tensor:
        """Images ``[M, C, H, W]`` to features ``[M, features]``; see `Backbone`."""
        x, dtype = laid_out(x), x.dtype
        with computing(x, self.precision):
            for block in self.blocks:
                x = block(x, stats_rows)
        return x.to(dtype).mean(dim=(2, 3))


class Residual(nn.Module):
    """Three 3x3 convolutions beside a 1x1 convolution, each normalised, halved in size by max-pooling."""

    def __init__(self, in_channels: int, width: int, drop_rate: float, drop_size: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(in_channels if i == 0 else width, width, 3, padding=1, bias=False) for i in range(3)
        )
        self.norms = nn.ModuleList(BatchNorm(width) for _ in range(3))
        self.shortcut, self.shortcut_norm = nn.Conv2d(in_channels, width, 1, bias=False), BatchNorm(width)
        self.drop_rate, self.drop_size = drop_rate, drop_size

    def forward(self, x: Tensor, stats_rows: int | None = None) -> Tensor:
        """``[M, C, H, W]`` to ``[M, width, H/2, W/2]``."""
        skip = self.shortcut_norm(self.shortcut(x), stats_rows)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(conv(x), stats_rows)
            x = x + skip if conv is self.convs[-1] else x
            x = F.leaky_relu(x, 0.1)
        x = F.max_pool2d(x, 2)
        # Not in an inner loop: its steps, and its threads, have to see one network.
        if self.drop_rate and self.training and stats_rows is None:
            return drop_block(x, self.drop_rate, self.drop_size)
        return x


def drop_block(x: Tensor, rate: float, size: int) -> Tensor:
    """Drop squares of features ``[M, C, H, W]``, and scale the others by how many are left.

    Ghiasi, Lin and Le 2018 (arXiv:1810.12890, algorithm 1): centres are drawn at the rate of equation 1 where
    the whole square lies within the map. Squares larger than the map are as large as the map.
    """
    height, width = x.shape[2:]
    size = min(size, height, width)
    inside = (height - size + 1) * (width - size + 1)
    gamma = rate * height * width / (size**2 * inside)
    corners = (torch.rand(*x.shape[:2], height - size + 1, width - size + 1, device=x.device) < gamma).to(x)
    kept = 1 - F.max_pool2d(F.pad(corners, (size - 1,) * 4), size, stride=1)
    return x * kept * (kept.numel() / kept.sum().clamp_min(1))
