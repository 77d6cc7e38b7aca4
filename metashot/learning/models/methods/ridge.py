"""Ridge regression on features without training, in closed form (Hoerl and Kennard 1970)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metashot.learning.models.methods import base, training_free
from metashot.learning.models.methods.regression import ridge_regression, weighted_targets


@dataclass(frozen=True)
class Params(training_free.Params):
    """Hyper-parameters.

    Attributes:
        strengths: Of the ridge, to choose from on the validation episodes.
    """

    strengths: tuple[float, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.strengths:
            raise ValueError("strengths: needs at least one number")
        for strength in self.strengths:
            if not 0 < strength <= base.LARGEST:
                raise ValueError(
                    f"strengths: must be positive and at most {base.LARGEST:,.6g}, not {strength}"
                )


class Ridge(training_free.TrainingFree):
    """Regression on the labels of the support set, with a bias that the ridge does not shrink.

    All classes count alike, however many samples they have.
    """

    params_type: ClassVar = Params
    params: Params
    strength: Tensor

    def __init__(self, params: Params, problem: base.Problem) -> None:
        super().__init__(params, problem)
        self.register_buffer("strength", torch.ones(()))

    def options(self) -> Sequence[Mapping[str, float]]:
        """See `TrainingFree.options`."""
        return [{"strength": strength} for strength in self.params.strengths]

    def scores(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """See `TrainingFree.scores`: what the regression answers."""
        targets, each = weighted_targets(support_labels, n_way, support.dtype)
        share = each / each.sum(1, keepdim=True)
        middle, bias = (share.mT @ values for values in (support, targets))  # [B, 1, D], [B, 1, N]
        root = each.sqrt()
        weights = ridge_regression(root * (support - middle), root * (targets - bias), self.strength)
        return (query - middle) @ weights + bias
