"""R2-D2: Bertinetto, Henriques, Torr and Vedaldi 2019, arXiv:1805.08136."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metashot.learning.models.episodes import Episodes
from metashot.learning.models.methods import base
from metashot.learning.models.methods.regression import ridge_regression, weighted_targets


@dataclass(frozen=True)
class Params(base.Params):
    """Hyper-parameters.

    Attributes:
        strength: Of the ridge, lambda in the paper, at the start of training, which learns it.
        scale: Multiplies the regression's answers to make logits, alpha in the paper; learned too.
    """

    strength: float
    scale: float

    def __post_init__(self) -> None:
        super().__post_init__()
        base.require_positive(self, "strength", "scale")


class R2d2(base.TrainedEmbedding):
    """Ridge regression on the support set in closed form; the embedding is trained through it.

    The paper adds a learned shift to all logits alike, which no softmax sees; it is left out.
    """

    params_type: ClassVar = Params
    params: Params

    def __init__(self, params: Params, problem: base.Problem) -> None:
        super().__init__(params, problem)
        # Logarithms, so that both stay positive
        self.strength = nn.Parameter(torch.tensor(params.strength).log())
        self.scale = nn.Parameter(torch.tensor(params.scale).log())

    def classify(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """See `EmbeddingMethod.classify`."""
        targets, each = weighted_targets(support_labels, n_way, support.dtype)
        root = each.sqrt()
        weights = ridge_regression(root * support, root * targets, self.strength.exp())
        logits: Tensor = self.scale.exp() * query @ weights
        return logits

    def loss(self, episodes: Episodes) -> Tensor:
        """Cross-entropy of the queries."""
        support, query = self.embed_episodes(episodes)
        logits = self.classify(support, episodes.support_labels, query, episodes.n_way)
        return F.cross_entropy(logits.flatten(0, 1), episodes.query_labels.flatten())
