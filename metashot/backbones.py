"""Embedding networks: images to feature vectors."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metashot.errors import MetashotError

Downsample = Literal["pool", "stride"]


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that can take its statistics from the first rows of the batch only."""

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


class Block(nn.Module):
    """3x3 convolution, batch normalisation, ReLU, halved in size by max-pooling or by a stride of two."""

    def __init__(self, in_channels: int, width: int, downsample: Downsample) -> None:
        super().__init__()
        self.pool = downsample == "pool"
        self.conv = nn.Conv2d(in_channels, width, 3, stride=1 if self.pool else 2, padding=1)
        self.norm = BatchNorm(width)

    def forward(self, x: Tensor, stats_rows: int | None = None) -> Tensor:
        """``[M, C, H, W]`` to ``[M, width, H/2, W/2]``."""
        x = self.norm(self.conv(x), stats_rows)
        # ReLU is monotone, so it commutes with max-pooling and costs a quarter after it.
        return F.relu(F.max_pool2d(x, 2) if self.pool else x)


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
        self.blocks = nn.ModuleList(Block(channels if i == 0 else width, width, downsample) for i in range(4))
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
