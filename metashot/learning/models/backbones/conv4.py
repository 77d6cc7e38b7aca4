"""Conv-4, the four convolution blocks that most few-shot papers use."""

from dataclasses import dataclass
from typing import Literal, cast

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

Downsample = Literal["pool", "stride"]
PART = 20  # images that go through a folded block together


@dataclass(frozen=True, kw_only=True)
class Conv4Params(Params):
    """Parameters of `Conv4`.

    Attributes:
        width: Filters of each block.
        downsample: How blocks halve their feature maps.
        precision: Of convolutions and feature maps; weights, statistics and features are float32.
    """

    name: Literal["conv4"]
    width: int
    downsample: Downsample
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        require_between(self, "width", 1, WIDEST)
        require(
            self.downsample in ("pool", "stride"),
            f"downsample: {self.downsample!r} is neither `pool` nor `stride`",
        )
        require_precision(self.precision)

    def build(self, shape: tuple[int, ...]) -> Backbone:
        """See `Params.build`."""
        return Conv4(shape, self.width, self.downsample, self.precision)


class Block(nn.Module):
    """3x3 convolution, batch normalisation, ReLU, halved in size by max-pooling or by a stride of two.

    Where the statistics of the convolution's output are known beforehand, the normalisation is folded into
    the convolution: what would be read and written several times over, at full size, is written once. They
    are known while evaluating, as the running ones, and in the ``first`` block: the output ``W p + b`` for
    the patches p of the images, with mean m and covariance S over all places, has mean ``W m + b`` and
    variance ``diag(W S W^T)``. S is small where channels are few.
    """

    def __init__(self, in_channels: int, width: int, downsample: Downsample, first: bool) -> None:
        super().__init__()
        self.first = first
        self.pool = downsample == "pool"
        self.conv = nn.Conv2d(in_channels, width, 3, stride=1 if self.pool else 2, padding=1)
        self.norm = BatchNorm(width)

    def forward(self, x: Tensor, stats_rows: int | None = None) -> Tensor:
        """``[M, C, H, W]`` to ``[M, width, H/2, W/2]``."""
        if stats_rows is None and not self.training:
            return self._folded(x, self.norm.running_mean, self.norm.running_var)
        if self.first:
            with computing(x, "float32"):
                mean, var = self._of_images(x, stats_rows)
            return self._folded(x, mean, var)
        return self._halved(self.norm(self.conv(x), stats_rows))

    def _halved(self, x: Tensor) -> Tensor:
        # ReLU is monotone, so it commutes with max-pooling and costs a quarter after it.
        return F.relu(F.max_pool2d(x, 2) if self.pool else x)

    @property
    def _bias(self) -> Tensor:
        return cast(Tensor, self.conv.bias)

    def _folded(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """The block's output, given the mean and variance ``[width]`` of ``conv(x)``."""
        conv, norm = self.conv, self.norm
        scale = norm.weight * (var + norm.eps).rsqrt()
        weight, bias = conv.weight * scale[:, None, None, None], (self._bias - mean) * scale + norm.bias
        # On a CPU so few images at a time that what is between convolution and pooling stays in its cache
        parts = torch.split(x, PART) if x.device.type == "cpu" else [x]
        done = [self._halved(F.conv2d(part, weight, bias, conv.stride, conv.padding)) for part in parts]
        return torch.cat(done) if len(done) > 1 else done[0]

    def _of_images(self, x: Tensor, stats_rows: int | None) -> tuple[Tensor, Tensor]:
        """Mean and variance of ``conv(x[:stats_rows])``; with None of all, which the running ones take up."""
        step, (_, channels, height, width) = self.conv.stride[0], x.shape
        padded = F.pad(x[:stats_rows], (1, 1, 1, 1))
        shifted = [
            padded[:, :, i : i + height : step, j : j + width : step] for i in range(3) for j in range(3)
        ]
        patches = torch.stack(shifted).movedim(2, 0).reshape(9 * channels, -1)  # [9 C, places]
        centre = patches.mean(1)
        patches = patches - centre[:, None]
        weight = self.conv.weight.flatten(1)
        mean = weight @ centre + self._bias
        var = (weight @ (patches @ patches.T / patches.shape[1]) * weight).sum(1)
        if stats_rows is None:
            self.norm.take_up(mean.detach(), var.detach(), patches.shape[1])
        return mean, var


class Conv4(Backbone):
    """Four convolution blocks, the network of Vinyals et al. 2016 (arXiv:1606.04080, section 4.1.1).

    With ``downsample="stride"`` it is the Omniglot network of Finn et al. 2017 (arXiv:1703.03400, section
    5.2): strides instead of pooling, a quarter of the arithmetic, averaged over the last feature map.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        width: int,
        downsample: Downsample,
        precision: Precision,
    ) -> None:
        super().__init__()
        channels, height, width_ = picture_shape(shape, "Conv-4", 16 if downsample == "pool" else 1)
        self.blocks = nn.ModuleList(
            Block(channels if i == 0 else width, width, downsample, first=i == 0) for i in range(4)
        )
        self.mean, self.precision = downsample == "stride", precision
        self.features = width if self.mean else width * (height // 16) * (width_ // 16)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, stats_rows: int | None = None) -> Tensor:
        """Images ``[M, C, H, W]`` to features ``[M, features]``; see `Backbone`."""
        x, dtype = laid_out(x), x.dtype
        with computing(x, self.precision):
            for block in self.blocks:
                x = block(x, stats_rows)
        x = x.to(dtype)
        return x.mean(dim=(2, 3)) if self.mean else x.flatten(1)
