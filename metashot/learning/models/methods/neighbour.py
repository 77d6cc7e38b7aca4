"""The nearest neighbour on features without training: Cover and Hart 1967."""

from torch import Tensor
from torch.nn import functional as F

from metashot.learning.models.methods.training_free import TrainingFree


class Neighbour(TrainingFree):
    """The class of the support sample with the largest cosine similarity."""

    def scores(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """See `TrainingFree.scores`: the similarity of each class's nearest sample."""
        similarity = (query @ support.mT).unsqueeze(2)  # [B, M, 1, N*K]
        member = F.one_hot(support_labels, n_way).mT.unsqueeze(1)  # [B, 1, N, N*K]
        return similarity.where(member == 1, float("-inf")).amax(-1)
