"""Colours: how much of a picture has which colour."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from metashot.learning.models.backbones.base import Backbone, Params, picture_shape

LEVELS = 6  # of each channel


@dataclass(frozen=True, kw_only=True)
class ColoursParams(Params):
    """Parameters of `Colours`: none."""

    fixed: ClassVar[bool] = True

    name: Literal["colours"]

    def build(self, shape: tuple[int, ...]) -> Backbone:
        """See `Params.build`."""
        return Colours(shape)


class Colours(Backbone):
    """Joint histograms of the channels (Swain and Ballard 1991, doi:10.1007/BF00130487), as square roots.

    Each pixel goes to the two nearest levels of each channel. Inner products of square roots compare
    histograms by Bhattacharyya's coefficient.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        channels, _, _ = picture_shape(shape, "a histogram of colours", 1)
        self.features = LEVELS**channels

    def forward(self, x: Tensor, stats_rows: int | None = None) -> Tensor:
        """Pictures ``[M, C, H, W]`` in [0, 1] to features ``[M, LEVELS ** C]``, of length 1."""
        levels = torch.arange(LEVELS, device=x.device)
        near = (1 - (x.flatten(2)[..., None] * (LEVELS - 1) - levels).abs()).clamp_min(
            0
        )  # [M, C, H * W, LEVELS]
        *others, last = near.unbind(1)
        joint = x.new_ones(len(x), near.shape[2], 1)
        for channel in others:
            joint = (joint[..., None] * channel[:, :, None]).flatten(2)
        return (joint.mT @ last).flatten(1).div(near.shape[2]).clamp_min(0).sqrt()
