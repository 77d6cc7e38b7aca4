"""Embedding networks: images to feature vectors."""

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metashot.errors import MetashotError

Downsample = Literal["pool", "stride"]
PART = 20  # images that go through a folded block together


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that can take its statistics from the first rows of the batch only."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor, stats_rows: int | None = None) -> Tensor:
        """Normalise ``x`` ``[M, C, H, W]``.

        Args:
            x: Activations.
            stats_rows: With ``None``, batch statistics while training and the running ones otherwise. With a
                number, the statistics of ``x[:stats_rows]``, and the running ones stay as they are.
        """
        if stats_rows is None:
            return super().forward(x)
        if stats_rows == len(x):
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        var, mean = torch.var_mean(x[:stats_rows], dim=(0, 2, 3), correction=0)
        scale = self.weight * (var + self.eps).rsqrt()
        return torch.addcmul((self.bias - mean * scale)[:, None, None], x, scale[:, None, None])

    def take_up(self, mean: Tensor, var: Tensor, count: int) -> None:
        """Move the running statistics towards those of ``count`` values, as training does."""
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var * (count / (count - 1)), self.momentum)


class Block(nn.Module):
    """3x3 convolution, batch normalisation, ReLU, halved in size by max-pooling or by a stride of two.

    Where the statistics of the convolution's output are known beforehand, the normalisation is folded into
    the convolution: what would be read and written several times over, at full size, is written once. They
    are known while evaluating, as the running ones, and in the ``first`` block: the output ``W p + b`` for
    the patches p of the images, with mean m and covariance S over all places, has mean ``W m + b`` and
    variance ``diag(W S W^T)``. S is small where channels are few.
    """

    def __init__(self, in_channels: int, width: int, downsample: Downsample, first: bool = False) -> None:
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
            return self._folded(x, *self._of_images(x, stats_rows))
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


class Conv4(nn.Module):
    """Four convolution blocks, the network of Vinyals et al. 2016 (arXiv:1606.04080, section 4.1.1).

    With ``downsample="stride"`` it is the Omniglot network of Finn et al. 2017 (arXiv:1703.03400, section
    5.2): strides instead of pooling, a quarter of the arithmetic, averaged over the last feature map.

    Attributes:
        features: Length of the feature vector.
    """

    def __init__(self, image: tuple[int, int, int], width: int = 64, downsample: Downsample = "pool") -> None:
        super().__init__()
        channels, height, width_ = image
        if height != width_ or (downsample == "pool" and height < 16):
            raise MetashotError(
                f"Conv-4 takes square images, with pooling of 16x16 pixels or more; not {height}x{width_}"
            )
        self.blocks = nn.ModuleList(
            Block(channels if i == 0 else width, width, downsample, first=i == 0) for i in range(4)
        )
        self.mean = downsample == "stride"
        self.features = width if self.mean else width * (height // 16) ** 2
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, stats_rows: int | None = None) -> Tensor:
        """Images ``[M, C, H, W]`` to features ``[M, features]``; ``stats_rows`` as in `BatchNorm`."""
        if x.shape[1] == 1:
            # A single channel leaves the layout open; in the wrong one the first block takes twice the time.
            x = x.reshape(len(x), *x.shape[2:], 1).movedim(-1, 1)
        for block in self.blocks:
            x = block(x, stats_rows)
        return x.mean(dim=(2, 3)) if self.mean else x.flatten(1)
