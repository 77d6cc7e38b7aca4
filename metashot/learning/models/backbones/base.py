"""What every backbone is made of: its parameters, its network, and layers that several of them use."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metashot.errors import MetashotError
from metashot.section import Section

Precision = Literal["float32", "bfloat16"]
LENGTH = 4.0  # initial norm of the features of texts and vectors
WIDEST = 16_384  # filters or features


@dataclass(frozen=True, kw_only=True)
class Params(Section, ABC):
    """Parameters of a backbone, a section ``data.<dataset>.backbone`` of params.yaml.

    Attributes:
        name: Of the backbone in the catalogue.
        fixed: Whether it learns nothing by gradients, and so is for training-free methods only.
    """

    fixed: ClassVar[bool] = False

    name: str

    @abstractmethod
    def build(self, shape: tuple[int, ...]) -> "Backbone":
        """Return the network for samples of a shape.

        Raises:
            MetashotError: It takes no such samples.
        """

    def count(self, shape: tuple[int, ...]) -> int:
        """Return the number of weights of the network, without building it. Raises as `build` does."""
        with torch.device("meta"):
            return weights(self.build(shape))


def weights(network: nn.Module) -> int:
    """Return the number of weights of a network."""
    return sum(weight.numel() for weight in network.parameters())


def require(condition: bool, otherwise: str) -> None:
    """Raise a ValueError unless a condition holds."""
    if not condition:
        raise ValueError(otherwise)


def require_between(params: object, key: str, least: int, most: int) -> None:
    """Raise a ValueError unless a parameter lies within limits."""
    value = getattr(params, key)
    require(least <= value <= most, f"{key}: {value} is not between {least} and {most:,}")


def require_precision(precision: str) -> None:
    """Raise a ValueError unless a precision is a known one."""
    require(precision in get_args(Precision), f"precision: {precision!r} is neither `float32` nor `bfloat16`")


class Backbone(nn.Module, ABC):
    """What every embedding network has.

    Attributes:
        features: Length of the feature vector.
    """

    features: int

    def fit(self, samples: Iterable[Tensor]) -> None:
        """Take constants from the training split, in buffers; by default there are none.

        Args:
            samples: Chunks ``[M, *shape]``; may be iterated more than once.
        """

    @abstractmethod
    def forward(self, x: Tensor, stats_rows: int | None = None) -> Tensor:
        """Samples ``[M, *shape]`` to features ``[M, features]``; ``stats_rows`` as in `BatchNorm`."""


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
        # torch's own, which under vmap, so on a GPU, takes no features of another precision than the weights
        if stats_rows == len(x) and (x.dtype == self.weight.dtype or x.device.type == "cpu"):
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        first = x[:stats_rows].to(self.weight.dtype)
        var, mean = torch.var_mean(first, dim=(0, 2, 3), correction=0)
        scale = self.weight * (var + self.eps).rsqrt()
        return torch.addcmul((self.bias - mean * scale)[:, None, None], x, scale[:, None, None])

    def take_up(self, mean: Tensor, var: Tensor, count: int) -> None:
        """Update the running statistics by those of ``count`` values, as in training."""
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var * (count / (count - 1)), self.momentum)


def picture_shape(shape: tuple[int, ...], network: str, least: int) -> tuple[int, int, int]:
    """Return channels, height and width of pictures. Raises MetashotError for others than a network takes."""
    if len(shape) != 3 or min(shape[1:]) < least:
        raise MetashotError(
            f"{network} takes pictures of {least}x{least} pixels or more, not samples of shape {list(shape)}"
        )
    channels, height, width = shape
    return channels, height, width


def computing(x: Tensor, precision: Precision) -> AbstractContextManager[object]:
    """Within it, convolutions and matrix products on the device of ``x`` are computed in ``precision``."""
    return torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bfloat16")


def channels_last(device: torch.device) -> bool:
    """Whether pictures are convolved in channels-last layout: faster on a CPU, but refused by vmap."""
    return device.type == "cpu"


def laid_out(x: Tensor) -> Tensor:
    """Return pictures ``[M, C, H, W]`` in the layout for convolutions on their device."""
    if not channels_last(x.device):
        return x.contiguous()
    if x.shape[1] == 1:
        # A single channel leaves the layout open; in the wrong one the first block takes twice the time.
        return x.reshape(len(x), *x.shape[2:], 1).movedim(-1, 1)
    return x.contiguous(memory_format=torch.channels_last)
