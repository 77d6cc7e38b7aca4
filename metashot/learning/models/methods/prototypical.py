"""Prototypical networks: Snell, Swersky and Zemel 2017, arXiv:1703.05175."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from metashot.learning.models.episodes import Episodes
from metashot.learning.models.methods import base


@dataclass(frozen=True)
class Params(base.Params):
    """Hyper-parameters.

    Attributes:
        temperature: Divides the squared distances before the softmax. The paper has 1; with more, training
            is faster and ends better (Oreshkin, Rodriguez and Lacoste 2018, arXiv:1805.10123, section 3.1).
    """

    temperature: float

    def __post_init__(self) -> None:
        super().__post_init__()
        base.require_positive(self, "temperature")


class Prototypical(base.TrainedEmbedding):
    """Softmax over negative squared Euclidean distances to the class means (equation 2)."""

    params_type: ClassVar = Params
    params: Params

    def classify(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """See `EmbeddingMethod.classify`."""
        prototypes = base.class_means(support, support_labels, n_way)
        # -|q - p|^2 without |q|^2, which is the same for every class.
        logits: Tensor = 2 * query @ prototypes.mT - prototypes.square().sum(-1).unsqueeze(1)
        return logits / self.params.temperature

    def loss(self, episodes: Episodes) -> Tensor:
        """Cross-entropy of the queries."""
        support, query = self.embed_episodes(episodes)
        logits = self.classify(support, episodes.support_labels, query, episodes.n_way)
        return F.cross_entropy(logits.flatten(0, 1), episodes.query_labels.flatten())
