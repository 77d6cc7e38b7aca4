"""Nearest centroid of features without training: Wang et al. 2019, "SimpleShot", arXiv:1911.04623."""

from torch import Tensor

from metashot.learning.models.methods import base
from metashot.learning.models.methods.training_free import TrainingFree


class Centroid(TrainingFree):
    """The class whose mean is nearest (section 3, CL2N)."""

    def scores(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """See `TrainingFree.scores`: negative squared distances, without the part that all classes share."""
        means = base.class_means(support, support_labels, n_way)
        return 2 * query @ means.mT - means.square().sum(-1).unsqueeze(1)
