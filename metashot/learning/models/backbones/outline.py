"""Outline: the course of a series in a few steps, from where it begins to where it ends."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from metashot.errors import MetashotError
from metashot.learning.models.backbones.base import Backbone, Params
from metashot.learning.models.backbones.mfcc import stretched
from metashot.learning.models.backbones.standardised import Standardised

STEPS = 16


@dataclass(frozen=True, kw_only=True)
class OutlineParams(Params):
    """Parameters of `Outline`: none."""

    fixed: ClassVar[bool] = True

    name: Literal["outline"]

    def build(self, shape: tuple[int, ...]) -> Backbone:
        """See `Params.build`."""
        return Outline(shape)


class Outline(Standardised):
    """Each channel at `STEPS` times, spread evenly over the series without the zeros around it."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 2:
            raise MetashotError(f"an outline is of series, not of samples of shape {list(shape)}")
        super().__init__(shape[0] * STEPS)

    def describe(self, x: Tensor) -> Tensor:
        """Series ``[M, C, length]`` to ``[M, C * STEPS]``."""
        return stretched(x, *ends(x), STEPS).flatten(1)


def ends(x: Tensor) -> tuple[Tensor, Tensor]:
    """First and last step ``[M]`` of series ``[M, C, length]`` where a channel is not 0: ``fit: crop`` pads.

    The whole series, where fewer than two steps are left.
    """
    inside = (x != 0).any(1).to(torch.uint8)
    first, last = inside.argmax(1), x.shape[2] - 1 - inside.flip(1).argmax(1)
    short = inside.sum(1) < 2
    return first.masked_fill(short, 0), last.masked_fill(short, x.shape[2] - 1)
