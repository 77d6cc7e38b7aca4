"""Embedding networks: samples to feature vectors.

Each is a dataclass of its parameters, a section ``data.<dataset>.backbone`` of params.yaml, and a module with
``features``, the length of its feature vectors, and ``forward(samples, stats_rows)``.
"""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metashot.errors import MetashotError

Downsample = Literal["pool", "stride"]
Precision = Literal["float32", "bfloat16"]
SPREAD = 0.02  # of embeddings in the beginning: small, so that steps of training soon count
LENGTH = 4.0  # of the features of a text in the beginning
WIDEST = 16_384  # filters or features
PART = 20  # images that go through a folded block together


@dataclass(frozen=True, kw_only=True)
class Conv4Params:
    """Parameters of `Conv4`.

    Attributes:
        width: Filters of each block.
        downsample: How blocks halve their feature maps.
        precision: Of convolutions and feature maps; weights, statistics and features are float32.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    name: Literal["conv4"]
    width: int
    downsample: Downsample
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        _require_between(self, "width", 1, WIDEST)
        _require(
            self.downsample in ("pool", "stride"),
            f"downsample: {self.downsample!r} is neither `pool` nor `stride`",
        )
        _require_precision(self.precision)


@dataclass(frozen=True, kw_only=True)
class Resnet12Params:
    """Parameters of `ResNet12`.

    Attributes:
        width: Filters of the first block; the others have 2.5, 5 and 10 times as many.
        drop_rate: Share of the last two blocks' features that DropBlock takes away while training.
        drop_size: Side of the squares it takes away, in features.
        precision: As in `Conv4Params`.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    name: Literal["resnet12"]
    width: int
    drop_rate: float
    drop_size: int
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        _require_between(self, "width", 2, WIDEST)
        _require(self.width % 2 == 0, f"width: {self.width} is not even")
        _require(0 <= self.drop_rate < 1, f"drop_rate: {self.drop_rate} is not between 0 and 1")
        _require_between(self, "drop_size", 1, 1024)
        _require_precision(self.precision)


@dataclass(frozen=True, kw_only=True)
class Conv1dParams:
    """Parameters of `Conv1d`.

    Attributes:
        width: Filters of each block.
        kernel: Steps that a filter sees.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    name: Literal["conv1d"]
    width: int
    kernel: int

    def __post_init__(self) -> None:
        _require_between(self, "width", 1, WIDEST)
        _require_between(self, "kernel", 1, 1025)
        _require(self.kernel % 2 == 1, f"kernel: {self.kernel} is not odd")


@dataclass(frozen=True, kw_only=True)
class NgramsParams:
    """Parameters of `Ngrams`.

    Attributes:
        buckets: Rows of the table; n-grams that fall into the same row are the same to the network.
        width: Features.
        drop_rate: Share of a text's n-grams that is taken away while training.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    name: Literal["ngrams"]
    buckets: int
    width: int
    drop_rate: float

    def __post_init__(self) -> None:
        _require_between(self, "buckets", 2, 2**24)
        _require_between(self, "width", 2, WIDEST)
        _require(0 <= self.drop_rate < 1, f"drop_rate: {self.drop_rate} is not between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class DenseParams:
    """Parameters of `Dense`.

    Attributes:
        width: Features.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    name: Literal["dense"]
    width: int

    def __post_init__(self) -> None:
        _require_between(self, "width", 2, WIDEST)


Params = Conv4Params | Resnet12Params | Conv1dParams | NgramsParams | DenseParams


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


def _require_between(params: object, key: str, least: int, most: int) -> None:
    value = getattr(params, key)
    _require(least <= value <= most, f"{key}: {value} is not between {least} and {most:,}")


def _require_precision(precision: str) -> None:
    _require(
        precision in get_args(Precision), f"precision: {precision!r} is neither `float32` nor `bfloat16`"
    )


def build(params: Params, shape: tuple[int, ...]) -> "Backbone":
    """The network that ``params`` describe for samples of a shape.

    Raises MetashotError where it takes no such samples.
    """
    if isinstance(params, Conv4Params):
        return Conv4(shape, params.width, params.downsample, params.precision)
    if isinstance(params, Conv1dParams):
        return Conv1d(shape, params.width, params.kernel)
    if isinstance(params, NgramsParams):
        return Ngrams(shape, params.buckets, params.width, params.drop_rate)
    if isinstance(params, DenseParams):
        return Dense(shape, params.width)
    return ResNet12(shape, params.width, params.drop_rate, params.drop_size, params.precision)


def _weights(network: nn.Module) -> int:
    """The weights of a network."""
    return sum(weight.numel() for weight in network.parameters())


def count(params: Params, shape: tuple[int, ...]) -> int:
    """The weights of the network that `build` makes, without making them. Raises as it does."""
    if isinstance(params, NgramsParams):  # whose table torch takes seconds not to make
        small = _weights(build(replace(params, buckets=2), shape))
        return small + (params.buckets - 2) * params.width
    with torch.device("meta"):
        return _weights(build(params, shape))


def params_of(said: dict[str, object]) -> Params:
    """The parameters that ``asdict`` of some said. Raises ValueError and TypeError for others."""
    for cls in get_args(Params):
        if said.get("name") in cls.__annotations__["name"].__args__:
            return cast(Params, cls(**said))
    raise ValueError(f"unknown backbone {said.get('name')!r}")


class Backbone(nn.Module, ABC):
    """What every embedding network has.

    Attributes:
        features: Length of the feature vector.
    """

    features: int

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
            with _computing(x, "float32"):
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
        width: int = 64,
        downsample: Downsample = "pool",
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        channels, height, width_ = _picture(shape, "Conv-4", 16 if downsample == "pool" else 1)
        self.blocks = nn.ModuleList(
            Block(channels if i == 0 else width, width, downsample, first=i == 0) for i in range(4)
        )
        self.mean, self.precision = downsample == "stride", precision
        self.features = width if self.mean else width * (height // 16) * (width_ // 16)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, stats_rows: int | None = None) -> Tensor:
        """Images ``[M, C, H, W]`` to features ``[M, features]``; see `Backbone`."""
        x, dtype = _laid_out(x), x.dtype
        with _computing(x, self.precision):
            for block in self.blocks:
                x = block(x, stats_rows)
        x = x.to(dtype)
        return x.mean(dim=(2, 3)) if self.mean else x.flatten(1)


class ResNet12(Backbone):
    """Four residual blocks of three convolutions, averaged over the last feature map.

    As in Oreshkin et al. 2018 (arXiv:1805.10123, section 4) and, with these widths and DropBlock in the last
    two blocks, Lee et al. 2019 (arXiv:1904.03758, section 4.1). The rate of DropBlock stays the same.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        width: int = 64,
        drop_rate: float = 0.1,
        drop_size: int = 5,
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        channels, *_ = _picture(shape, "ResNet-12", 16)
        widths = [width, 5 * width // 2, 5 * width, 10 * width]
        rates = [0.0, 0.0, drop_rate, drop_rate]
        self.blocks = nn.ModuleList(
            Residual(before, after, rate, drop_size)
            for before, after, rate in zip([channels, *widths], widths, rates, strict=False)
        )
        self.features, self.precision = widths[-1], precision
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, stats_rows: int | None = None) -> Tensor:
        """Images ``[M, C, H, W]`` to features ``[M, features]``; see `Backbone`."""
        x, dtype = _laid_out(x), x.dtype
        with _computing(x, self.precision):
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
        beside = self.shortcut_norm(self.shortcut(x), stats_rows)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(conv(x), stats_rows)
            x = x + beside if conv is self.convs[-1] else x
            x = F.leaky_relu(x, 0.1)
        x = F.max_pool2d(x, 2)
        # Not in an inner loop: its steps, and its threads, have to see one network.
        if self.drop_rate and self.training and stats_rows is None:
            return drop_block(x, self.drop_rate, self.drop_size)
        return x


def drop_block(x: Tensor, rate: float, size: int) -> Tensor:
    """Features ``[M, C, H, W]`` without squares of them, the others scaled to keep their sum.

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


class Conv1d(Backbone):
    """Four blocks of convolution along time, batch normalisation, ReLU and max-pooling by two; then the mean.

    The blocks, and the mean over time, of Wang, Yan and Oates 2017 (arXiv:1611.06455, section II-B); as many
    as Conv-4 has, and pooled like those.
    """

    def __init__(self, shape: tuple[int, ...], width: int = 64, kernel: int = 5) -> None:
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


class Ngrams(Backbone):
    """The mean of the embeddings of a text's n-grams, normalised: see `metashot.data.texts`.

    The mean is that of Joulin et al. 2017 (arXiv:1607.01759, section 2), layer normalisation that of Ba,
    Kiros and Hinton 2016 (arXiv:1607.06450). It is written as a product of matrices, of how often each row of
    the table is in each text, and the table: that has second derivatives, and on a CPU it is faster than to
    gather the embeddings and add them up.
    """

    def __init__(
        self, shape: tuple[int, ...], buckets: int = 8192, width: int = 256, drop_rate: float = 0.0
    ) -> None:
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


class Dense(Backbone):
    """A linear map of vectors, normalised: what is trained on top of a frozen encoder.

    It begins as a rotation (or a projection of one), which keeps what is near near: the directions are the
    encoder's own. Layer normalisation as in `Ngrams`.
    """

    def __init__(self, shape: tuple[int, ...], width: int = 256) -> None:
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


def _picture(shape: tuple[int, ...], network: str, least: int) -> tuple[int, int, int]:
    if len(shape) != 3 or min(shape[1:]) < least:
        raise MetashotError(
            f"{network} takes pictures of {least}x{least} pixels or more, not samples of shape {list(shape)}"
        )
    channels, height, width = shape
    return channels, height, width


def _computing(x: Tensor, precision: Precision) -> AbstractContextManager[object]:
    """Within it convolutions and matrix products on the device of ``x`` are computed with a precision."""
    return torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bfloat16")


def channels_last(device: torch.device) -> bool:
    """Whether pictures are convolved with their channels last: faster on a CPU, but vmap refuses it."""
    return device.type == "cpu"


def _laid_out(x: Tensor) -> Tensor:
    """Pictures ``[M, C, H, W]`` in the layout that their device convolves them in."""
    if not channels_last(x.device):
        return x.contiguous()
    if x.shape[1] == 1:
        # A single channel leaves the layout open; in the wrong one the first block takes twice the time.
        return x.reshape(len(x), *x.shape[2:], 1).movedim(-1, 1)
    return x.contiguous(memory_format=torch.channels_last)
