"""HOG: histograms of the directions of a picture's edges."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from metashot.learning.models.backbones.base import Backbone, Params, picture_shape

DIRECTIONS = 9  # from 0 to 180 degrees
CELLS = 4  # that fit along the shorter side
BLOCK = 2  # cells along its side
CLIPPED = 0.2  # largest value of a normalised block
EPSILON = 1e-2


@dataclass(frozen=True, kw_only=True)
class HogParams(Params):
    """Parameters of `Hog`: none."""

    fixed: ClassVar[bool] = True

    name: Literal["hog"]

    def build(self, shape: tuple[int, ...]) -> Backbone:
        """See `Params.build`."""
        return Hog(shape)


class Hog(Backbone):
    """Histograms of oriented gradients (Dalal and Triggs 2005, doi:10.1109/CVPR.2005.177).

    The gradient of a pixel is that of the channel where it is largest, by differences of its neighbours. Its
    length is shared linearly among the two nearest directions and the four nearest cells; cells are centred
    from one end of the picture to the other. Blocks of 2 x 2 cells, each overlapping its neighbours, are
    divided by their length, clipped and divided again (L2-Hys).
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        _, height, width = picture_shape(shape, "HOG", CELLS)
        self.cell = min(height, width) / CELLS
        rows, columns = shares(height, self.cell), shares(width, self.cell)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        self.features = (len(rows) - 1) * (len(columns) - 1) * BLOCK**2 * DIRECTIONS

    def forward(self, x: Tensor, stats_rows: int | None = None) -> Tensor:
        """Pictures ``[M, C, H, W]`` to features ``[M, blocks * 4 * DIRECTIONS]``."""
        cells = self.rows @ votes(x) @ self.columns.mT / self.cell**2
        windows = cells.unfold(2, BLOCK, 1).unfold(3, BLOCK, 1)  # [M, DIRECTIONS, blocks, blocks, 2, 2]
        blocks = windows.permute(0, 2, 3, 4, 5, 1).flatten(3)
        return _normalised(_normalised(blocks).clamp_max(CLIPPED)).flatten(1)


def shares(side: int, cell: float) -> Tensor:
    """Share of each pixel along a side that goes to each cell along it: ``[cells, side]``.

    Cells are centred at multiples of ``cell``; a pixel goes to the two that its centre lies between.
    """
    pixels = torch.arange(side) + 0.5
    centres = torch.arange(round(side / cell) + 1) * cell
    return (1 - (pixels - centres[:, None]).abs() / cell).clamp_min(0)


def votes(x: Tensor) -> Tensor:
    """Lengths of the gradients of pictures ``[M, C, H, W]`` by direction: ``[M, DIRECTIONS, H, W]``."""
    down = F.pad(x[:, :, 2:] - x[:, :, :-2], (0, 0, 1, 1))
    right = F.pad(x[..., 2:] - x[..., :-2], (1, 1))
    length, channel = torch.hypot(down, right).max(1, keepdim=True)
    down, right = down.gather(1, channel), right.gather(1, channel)
    place = torch.atan2(down, right) * (DIRECTIONS / math.pi) % DIRECTIONS
    centres = torch.arange(DIRECTIONS, device=x.device).reshape(-1, 1, 1)
    away = (place - centres).abs()
    return length * (1 - torch.minimum(away, DIRECTIONS - away)).clamp_min(0)


def _normalised(blocks: Tensor) -> Tensor:
    return blocks / (blocks.square().sum(-1, keepdim=True) + EPSILON**2).sqrt()
