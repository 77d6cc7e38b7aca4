"""Augmentation of training pictures, in batches on the device.

Each picture is changed by random parameters of its own, where torchvision's transforms draw them once for a
whole batch.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from metashot.learning.models.episodes import Episodes
from metashot.section import Section

GREY = (0.2989, 0.587, 0.114)  # weights of red, green and blue (ITU-R BT.601), as torchvision has them


@dataclass(frozen=True, kw_only=True)
class Augment(Section):
    """Section ``data.<dataset>.augment`` of params.yaml: limits of random changes to pictures in training.

    Attributes:
        flip: Whether pictures are mirrored, left to right, half of the time.
        shift: Largest shift along each axis, as a fraction of the side; uncovered pixels are 0.
        rotate: Largest rotation, in degrees.
        scale: Largest change of size: the factor is between ``1 - scale`` and ``1 + scale``.
        jitter: Brightness, contrast and saturation are each multiplied by between ``1 - jitter`` and
            ``1 + jitter``.
    """

    flip: bool = False
    shift: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        for key, most in (("shift", 1), ("rotate", 180), ("scale", 1), ("jitter", 1)):
            if not 0 <= (value := getattr(self, key)) <= most:
                raise ValueError(f"{key}: {value} is not between 0 and {most}")

    @property
    def moves(self) -> bool:
        """Whether the geometry changes."""
        return self.flip or self.shift > 0 or self.rotate > 0 or self.scale > 0

    @property
    def varies(self) -> bool:
        """Whether anything changes."""
        return self.moves or self.jitter > 0

    def episodes(self, episodes: Episodes) -> Episodes:
        """Augment support and query pictures, each by itself."""
        if not self.varies:
            return episodes
        return replace(episodes, support=self.images(episodes.support), query=self.images(episodes.query))

    def images(self, images: Tensor) -> Tensor:
        """Augment pictures.

        Args:
            images: ``[..., C, H, W]`` in [0, 1].

        Returns:
            The same shape, in [0, 1]. Random numbers come from torch's CPU generator.
        """
        flat = images.flatten(0, -4)
        if self.moves:
            flat = moved(flat, self._draw_moves(len(flat)))
        if self.jitter:
            factors = 1 + self.jitter * (2 * torch.rand(3, len(flat)) - 1)
            flat = coloured(flat, *factors.to(flat.device))
        return flat.reshape(images.shape)

    def _draw_moves(self, count: int) -> Tensor:
        """Draw inverse affine maps ``[count, 2, 3]``, in units of half a picture."""
        turn, size, right, down, mirrored = 2 * torch.rand(5, count) - 1
        angle = turn * math.radians(self.rotate)
        stretch = 1 / (1 + self.scale * size)
        sign = torch.where(mirrored < 0, -1.0, 1.0) if self.flip else torch.ones(count)
        cos, sin = angle.cos() * stretch, angle.sin() * stretch
        rows = [
            torch.stack([sign * cos, -sin, 2 * self.shift * right], dim=1),
            torch.stack([sign * sin, cos, 2 * self.shift * down], dim=1),
        ]
        return torch.stack(rows, dim=1)


def moved(images: Tensor, maps: Tensor) -> Tensor:
    """Resample pictures ``[M, C, H, W]`` by affine maps ``[M, 2, 3]`` from output to input coordinates.

    Bilinear; coordinates run from -1 to 1, edge to edge. What lies outside is 0.
    """
    grid = F.affine_grid(maps.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def coloured(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Multiply brightness, contrast and saturation, in this order, by factors ``[M]`` each.

    Pictures are ``[M, C, H, W]`` in [0, 1]. As torchvision's ``adjust_brightness``, ``adjust_contrast`` and
    ``adjust_saturation`` with one factor each. Pictures of one channel have no saturation.
    """
    brightness, contrast, saturation = (f[:, None, None, None] for f in (brightness, contrast, saturation))
    images = (images * brightness).clamp_max(1)
    mean = _grey(images).mean((1, 2, 3), keepdim=True)
    images = mean.lerp(images, contrast).clamp(0, 1)
    if images.shape[1] == 1:
        return images
    return _grey(images).lerp(images, saturation).clamp(0, 1)


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images
    return (images * images.new_tensor(GREY)[:, None, None]).sum(1, keepdim=True)
