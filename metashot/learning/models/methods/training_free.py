"""What methods without training share: features that are centred and divided by their length.

Wang, Chao, Weinberger and van der Maaten 2019, "SimpleShot", arXiv:1911.04623.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from metashot.learning.models.methods import base
from metashot.section import Section


@dataclass(frozen=True)
class Params(Section):
    """Hyper-parameters.

    Attributes:
        features: The fixed backbones to choose from on the validation episodes; ``auto`` for those of the
            kind of data.
    """

    features: Literal["auto"] | tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.features or (len(set(self.features)) < len(self.features) and self.features != "auto"):
            raise ValueError("features: needs at least one name, and each only once; or auto")


class TrainingFree(base.EmbeddingMethod):
    """A classifier on features of a fixed backbone, less the mean of the training split, of length 1.

    No gradient trains it: its few constants are buffers, taken from the training split (`fit`) and chosen on
    validation episodes (`metashot.learning.choosing`).
    """

    params_type: ClassVar[type[Params]] = Params
    params: Params
    centre: Tensor
    scale: Tensor

    def __init__(self, params: Params, problem: base.Problem) -> None:
        super().__init__(params, problem)
        self.register_buffer("centre", torch.zeros(self.backbone.features))
        self.register_buffer("scale", torch.ones(()))

    def fit(self, samples: Iterable[Tensor]) -> None:
        """See `Method.fit`; takes the mean of the features too."""
        super().fit(samples)
        total, count = torch.zeros_like(self.centre, dtype=torch.float64), 0
        for chunk in samples:
            total += self.backbone(chunk).sum(0, dtype=torch.float64)
            count += len(chunk)
        self.centre.copy_(total / count)

    def embed(self, samples: Tensor) -> Tensor:
        """See `EmbeddingMethod.embed`: of length 1."""
        return F.normalize(super().embed(samples) - self.centre, dim=-1)

    def options(self) -> Sequence[Mapping[str, float]]:
        """Values of buffers to choose from, by name; by default there is nothing to choose."""
        return [{}]

    @property
    def chosen(self) -> Mapping[str, float]:
        """See `Method.chosen`."""
        names = [*self.options()[0], "scale"]
        return {name: float(f"{float(self.get_buffer(name)):.6g}") for name in names}

    def set(self, values: Mapping[str, float]) -> None:
        """Set buffers."""
        for name, value in values.items():
            self.get_buffer(name).fill_(value)

    @abstractmethod
    def scores(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Scores of embedded queries, the larger the likelier; see `EmbeddingMethod.classify`."""

    def classify(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """See `EmbeddingMethod.classify`: scores times the scale that makes them logits."""
        return self.scale * self.scores(support, support_labels, query, n_way)
