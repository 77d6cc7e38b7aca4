"""Mixed features of series: several fixed backbones at once, each with the same say."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from metashot.learning.models.backbones.base import Backbone, Params
from metashot.learning.models.backbones.minirocket import Minirocket
from metashot.learning.models.backbones.outline import Outline
from metashot.learning.models.backbones.series_statistics import SeriesStatistics

PARTS: dict[str, tuple[type[Backbone], ...]] = {
    "statistics_minirocket": (SeriesStatistics, Minirocket),
    "outline_statistics_minirocket": (Outline, SeriesStatistics, Minirocket),
}

TINY = 1e-6  # of a length that is a rounding error


@dataclass(frozen=True, kw_only=True)
class MixedParams(Params):
    """Parameters of `Mixed`: none; the name tells the parts."""

    fixed: ClassVar[bool] = True

    name: Literal["statistics_minirocket", "outline_statistics_minirocket"]

    def build(self, shape: tuple[int, ...]) -> Backbone:
        """See `Params.build`."""
        return Mixed([part(shape) for part in PARTS[self.name]])


class Mixed(Backbone):
    """Features of several backbones in a row, each centred and of mean square length 1 in training."""

    parts: Iterable[Backbone]
    mean: Tensor
    scale: Tensor

    def __init__(self, parts: Sequence[Backbone]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)  # type: ignore[assignment]
        self.widths = [part.features for part in parts]
        self.features = sum(self.widths)
        self.register_buffer("mean", torch.zeros(self.features))
        self.register_buffer("scale", torch.ones(self.features))

    def fit(self, samples: Iterable[Tensor]) -> None:
        """Fit the parts, and take mean and mean square length of the features of each."""
        for part in self.parts:
            part.fit(samples)
        count, total = 0, torch.zeros(self.features, dtype=torch.float64, device=self.mean.device)
        squares = torch.zeros_like(total)
        for chunk in samples:
            features = self._together(chunk).double()
            count, total = count + len(chunk), total + features.sum(0)
            squares += features.square().sum(0)
        mean = total / count
        variance = (squares / count - mean.square()).clamp_min(0)
        scales = []
        for width, own in zip(self.widths, torch.split(variance, self.widths), strict=True):
            length = own.sum().sqrt()
            scales.append(torch.where(length > TINY, 1 / length, 0).expand(width))
        self.mean.copy_(mean)
        self.scale.copy_(torch.cat(scales))

    def forward(self, x: Tensor, stats_rows: int | None = None) -> Tensor:
        """Series ``[M, C, length]`` to features ``[M, D]``."""
        return (self._together(x) - self.mean) * self.scale

    def _together(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], 1)
