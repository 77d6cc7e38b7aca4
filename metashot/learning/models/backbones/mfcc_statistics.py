"""MFCC statistics: what a sound's spectrum is like on average, and how much it changes."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from metashot.learning.models.backbones.base import Backbone, Params
from metashot.learning.models.backbones.mfcc import COEFFICIENTS, active, dct, mel_bands, with_deltas
from metashot.learning.models.backbones.standardised import Standardised


@dataclass(frozen=True, kw_only=True)
class MfccStatisticsParams(Params):
    """Parameters of `MfccStatistics`: none."""

    fixed: ClassVar[bool] = True

    name: Literal["mfcc_statistics"]

    def build(self, shape: tuple[int, ...]) -> Backbone:
        """See `Params.build`."""
        return MfccStatistics(shape)


class MfccStatistics(Standardised):
    """Mean and deviation over the active part of mel-frequency cepstral coefficients and their deltas."""

    cosines: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        mels = mel_bands(shape)
        coefficients = min(COEFFICIENTS, mels)
        super().__init__(4 * coefficients)
        self.register_buffer("cosines", dct(mels)[:coefficients], persistent=False)

    def describe(self, x: Tensor) -> Tensor:
        """Spectrograms ``[M, 1, mels, frames]`` to statistics ``[M, 4 * coefficients]``."""
        frames = with_deltas(self.cosines @ x.squeeze(1))
        (start, end), places = active(x), torch.arange(x.shape[-1], device=x.device)
        chosen = ((places >= start[:, None]) & (places <= end[:, None])).to(x)[:, None]
        share = chosen / chosen.sum(2, keepdim=True)
        mean = (frames * share).sum(2)
        variance = ((frames - mean[..., None]).square() * share).sum(2)
        return torch.cat([mean, variance.sqrt()], 1)
