"""MFCC: the shape of a sound's spectrum over time, from where it begins to where it ends."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from metashot.errors import MetashotError
from metashot.learning.models.backbones.base import Backbone, Params
from metashot.learning.models.backbones.standardised import Standardised

COEFFICIENTS = 20
STEPS = 24  # that the active part is brought to
ACTIVE = 0.35  # share of the way from the quietest to the loudest frame


@dataclass(frozen=True, kw_only=True)
class MfccParams(Params):
    """Parameters of `Mfcc`: none."""

    fixed: ClassVar[bool] = True

    name: Literal["mfcc"]

    def build(self, shape: tuple[int, ...]) -> Backbone:
        """See `Params.build`."""
        return Mfcc(shape)


class Mfcc(Standardised):
    """Mel-frequency cepstral coefficients and their deltas, of the active part, stretched to `STEPS` frames.

    Davis and Mermelstein 1980 (doi:10.1109/TASSP.1980.1163420), from the log-mel spectrogram that
    `metashot.data.kinds.sounds` makes.
    """

    cosines: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        mels = mel_bands(shape)
        coefficients = min(COEFFICIENTS, mels)
        super().__init__(2 * coefficients * STEPS)
        self.register_buffer("cosines", dct(mels)[:coefficients], persistent=False)

    def describe(self, x: Tensor) -> Tensor:
        """Spectrograms ``[M, 1, mels, frames]`` to ``[M, 2 * coefficients * STEPS]``."""
        frames = with_deltas(self.cosines @ x.squeeze(1))
        start, end = active(x)
        return stretched(frames, start, end, STEPS).flatten(1)


def mel_bands(shape: tuple[int, ...]) -> int:
    """Return the number of mel bands of spectrograms. Raises MetashotError for samples of another shape."""
    if len(shape) != 3 or shape[0] != 1:
        raise MetashotError(f"MFCC takes spectrograms of one channel, not samples of shape {list(shape)}")
    return shape[1]


def dct(size: int) -> Tensor:
    """The orthonormal discrete cosine transform of type II: ``[size, size]``."""
    places = torch.arange(size, dtype=torch.float64)
    cosines = torch.cos(math.pi / size * places[:, None] * (places + 0.5)) * math.sqrt(2 / size)
    cosines[0] /= math.sqrt(2)
    return cosines.float()


def with_deltas(frames: Tensor) -> Tensor:
    """Coefficients ``[M, K, frames]``, then their slopes over five frames: ``[M, 2 * K, frames]``."""
    slope = torch.arange(-2, 3, device=frames.device).to(frames) / 10
    padded = F.pad(frames, (2, 2), mode="replicate")
    return torch.cat([frames, padded.unfold(-1, 5, 1) @ slope], 1)


def active(x: Tensor) -> tuple[Tensor, Tensor]:
    """First and last loud frame ``[M]`` of spectrograms ``[M, 1, mels, frames]``, by the mean level."""
    level = x.mean((1, 2))
    least, most = level.amin(1, keepdim=True), level.amax(1, keepdim=True)
    loud = (level >= least + ACTIVE * (most - least)).to(torch.uint8)  # all, where all are equal
    return loud.argmax(1), level.shape[1] - 1 - loud.flip(1).argmax(1)


def stretched(frames: Tensor, start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Interpolate ``[M, K, frames]`` linearly from frame ``start`` to ``end`` ``[M]``: ``[M, K, steps]``."""
    share = torch.linspace(0, 1, steps, dtype=frames.dtype, device=frames.device)
    places = start[:, None] + (end - start)[:, None] * share
    before = places.long().clamp_max(frames.shape[-1] - 1)
    after = (before + 1).clamp_max(frames.shape[-1] - 1)

    def at(index: Tensor) -> Tensor:
        return frames.gather(2, index[:, None].expand(-1, frames.shape[1], -1))

    return at(before).lerp(at(after), (places - before)[:, None].to(frames))
