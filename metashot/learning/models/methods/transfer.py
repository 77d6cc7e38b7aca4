"""The transfer-learning baseline of Chen et al. 2019, "A closer look at few-shot classification".

arXiv:1904.04232.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metashot.learning.models.episodes import Episodes
from metashot.learning.models.methods import base

# Norm of a cosine head's class weights when fitting starts. The shorter they are, the further a step turns
# them: with the norm of the features, short features amplified rounding errors to percents.
LENGTH = 3.0


@dataclass(frozen=True)
class Params(base.Params):
    """Hyper-parameters.

    Attributes:
        head: Classifier over the features: ``linear`` is the paper's Baseline, ``cosine`` its Baseline++.
        scale: Multiplies the cosine similarities of a ``cosine`` head.
        head_steps: Gradient steps that fit the head to a support set.
        head_lr: Their step size.
    """

    head: Literal["linear", "cosine"]
    scale: float
    head_steps: int
    head_lr: float

    def __post_init__(self) -> None:
        super().__post_init__()
        base.require_positive(self, "scale", "head_steps", "head_lr")


class Transfer(base.TrainedEmbedding):
    """Classifies all training classes at once in training, then fits a new head to each support set."""

    params_type: ClassVar = Params
    params: Params

    def __init__(self, params: Params, problem: base.Problem) -> None:
        super().__init__(params, problem)
        if problem.train_classes is not None:
            self.classifier = nn.Parameter(torch.randn(problem.train_classes, self.backbone.features) * 0.1)

    def head(self, features: Tensor, weight: Tensor) -> Tensor:
        """Logits ``[..., M, N]`` of features ``[..., M, D]`` under the class weights ``[..., N, D]``."""
        if self.params.head == "cosine":
            return self.params.scale * F.normalize(features, dim=-1) @ F.normalize(weight, dim=-1).mT
        return features @ weight.mT

    def classify(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """See `EmbeddingMethod.classify`: B heads fitted side by side, each from its class means.

        Each class counts alike, however many samples it has.
        """
        support = support.detach()
        each = base.class_weights(support_labels, n_way, support.dtype).gather(1, support_labels)  # [B, N*K]
        with torch.enable_grad():
            weight = base.class_means(support, support_labels, n_way)
            if self.params.head == "cosine":
                weight = LENGTH * F.normalize(weight, dim=-1)
            weight.requires_grad_()
            for _ in range(self.params.head_steps):
                logits = self.head(support, weight)
                # The sum over episodes keeps each head's gradient its own.
                losses = F.cross_entropy(logits.mT, support_labels, reduction="none")
                loss = (each * losses).mean(1).sum()
                (gradient,) = torch.autograd.grad(loss, weight)
                weight = (weight - self.params.head_lr * gradient).detach().requires_grad_()
        return self.head(query, weight.detach())

    def loss(self, episodes: Episodes) -> Tensor:
        """Cross-entropy of all samples of the batch over all training classes."""
        return base.classification(episodes, lambda samples: self.head(self.embed(samples), self.classifier))

    def inference_state(self) -> dict[str, Tensor]:
        """The backbone alone: prediction does not need the training head."""
        return {key: value for key, value in self.state_dict().items() if key != "classifier"}
