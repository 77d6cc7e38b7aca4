"""Matching networks: Vinyals et al. 2016, arXiv:1606.04080."""

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
        temperature: Divides the cosine similarities before the softmax. The paper has 1, with which no
            support sample can get more than e^2 times the weight of another.
    """

    temperature: float

    def __post_init__(self) -> None:
        super().__post_init__()
        base.require_positive(self, "temperature")


class Matching(base.TrainedEmbedding):
    """Attention over the support set: a query's label is the weighted mean of theirs (equation 1)."""

    params_type: ClassVar = Params
    params: Params

    def similarity(self, support: Tensor, query: Tensor) -> Tensor:
        """Logits of the attention ``[B, M, N*K]``: cosine similarity over temperature (section 2.1.1)."""
        return F.normalize(query, dim=-1) @ F.normalize(support, dim=-1).mT / self.params.temperature

    def classify(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """See `EmbeddingMethod.classify`: logarithms of the summed weights of each class.

        In equation 1 all classes have the same number of samples. Where they do not, samples of larger
        classes weigh less, so that no class is favoured for having more examples.
        """
        each = base.class_weights(support_labels, n_way, query.dtype).log().gather(1, support_labels)
        similarity = self.similarity(support, query) + each.unsqueeze(1)
        log_weights = similarity.log_softmax(-1).unsqueeze(2)  # [B, M, 1, N*K]
        member = F.one_hot(support_labels, n_way).mT.unsqueeze(1)  # [B, 1, N, N*K]
        return log_weights.where(member == 1, float("-inf")).logsumexp(-1)

    def loss(self, episodes: Episodes) -> Tensor:
        """Cross-entropy of the queries (equation 6)."""
        support, query = self.embed_episodes(episodes)
        logits = self.classify(support, episodes.support_labels, query, episodes.n_way)
        return F.nll_loss(logits.flatten(0, 1), episodes.query_labels.flatten())
