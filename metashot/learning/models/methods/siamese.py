"""Siamese networks: Koch, Zemel and Salakhutdinov 2015, with the contrastive loss of Hadsell et al. 2006."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from metashot.learning.models.episodes import Episodes
from metashot.learning.models.methods import base


@dataclass(frozen=True)
class Params(base.Params):
    """Hyper-parameters.

    Attributes:
        margin: Distance beyond which two samples of different classes no longer repel each other.
    """

    margin: float

    def __post_init__(self) -> None:
        super().__post_init__()
        base.require_positive(self, "margin")


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances ``[B, M, P]`` between the rows of ``[B, M, D]`` and of ``[B, P, D]``."""
    squared = a.square().sum(-1).unsqueeze(-1) + b.square().sum(-1).unsqueeze(-2) - 2 * a @ b.mT
    # The root's slope is infinite at zero, where a sample meets itself.
    return squared.clamp_min(1e-12).sqrt()


def contrastive_loss(distance: Tensor, same: Tensor, margin: float) -> Tensor:
    """Hadsell, Chopra and LeCun 2006, equation 4, with ``same`` = 1 for a pair of one class.

    Pairs of one class cost ``D^2``, others ``max(0, margin - D)^2``. The two kinds are averaged separately,
    so that they weigh the same whatever their numbers; of the others only pairs within the margin count, so
    that the last ones to be separated weigh no less as they become fewer.

    Args:
        distance: ``[P]``.
        same: ``[P]`` bool, both kinds present.
        margin: Same unit as ``distance``.

    Returns:
        Scalar.
    """
    attract = distance[same].square().mean()
    missing = (margin - distance[~same]).clamp_min(0)
    repel = missing.square().sum() / missing.count_nonzero().clamp_min(1)
    return (attract + repel) / 2


class Siamese(base.TrainedEmbedding):
    """Twin networks trained on pairs; a query belongs to the class of the support sample nearest to it."""

    params_type: ClassVar = Params
    params: Params

    def classify(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """See `EmbeddingMethod.classify`: minus the distance to the nearest sample of each class."""
        distance = distances(query, support).unsqueeze(2)  # [B, M, 1, N*K]
        member = F.one_hot(support_labels, n_way).mT.unsqueeze(1)  # [B, 1, N, N*K]
        return -distance.where(member == 1, float("inf")).amin(-1)

    def loss(self, episodes: Episodes) -> Tensor:
        """Contrastive loss over all pairs of samples in each episode."""
        samples = torch.cat(self.embed_episodes(episodes), dim=1)
        labels = torch.cat([episodes.support_labels, episodes.query_labels], dim=1)
        i, j = torch.triu_indices(labels.shape[1], labels.shape[1], offset=1, device=labels.device)
        return contrastive_loss(
            distances(samples, samples)[:, i, j], labels[:, i] == labels[:, j], self.params.margin
        )
