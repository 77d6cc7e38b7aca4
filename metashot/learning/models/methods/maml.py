"""Model-agnostic meta-learning: Finn, Abbeel and Levine 2017, arXiv:1703.03400."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from metashot.learning.models.episodes import Episodes
from metashot.learning.models.methods import adaptation


@dataclass(frozen=True)
class Params(adaptation.Params):
    """Hyper-parameters.

    Attributes:
        second_order: Whether the meta-gradient goes through the inner gradients (MAML) or takes them as
            constants (first-order MAML, section 5.2).
    """

    second_order: bool


class Maml(adaptation.Adaptation):
    """Weights from which a few gradient steps on a support set do best on its queries."""

    params_type: ClassVar = Params
    params: Params

    def query_loss(
        self,
        weights: adaptation.Weights,
        n_way: int,
        support: Tensor,
        support_labels: Tensor,
        query: Tensor,
        labels: Tensor,
    ) -> Tensor:
        """Loss (scalar) on the queries of one task after adaptation to its support set (equation 1)."""
        steps = self.params.inner_steps
        samples, targets = support.expand(steps, *support.shape), support_labels.expand(steps, -1)
        adapted, _ = self.adapt(
            weights, n_way, samples, targets, self.params.inner_lr, differentiable=self.params.second_order
        )
        return F.cross_entropy(self.answer(adapted, support, query), labels)

    def backward(self, episodes: Episodes) -> Tensor:
        """See `Method.backward`: the mean over tasks of the gradient of `query_loss`."""
        weights = self.weights()

        def of_task(weights: adaptation.Weights, *tensors: Tensor) -> Tensor:
            return self.query_loss(weights, episodes.n_way, *tensors)

        def task(*tensors: Tensor) -> adaptation.Weights:
            gradient, loss = self.gradient(of_task, weights, *tensors)
            return {**gradient, "loss": loss}

        tasks = self.over_tasks(
            task, episodes.support, episodes.support_labels, episodes.query, episodes.query_labels
        )
        for name, parameter in self.backbone.named_parameters():
            parameter.grad = tasks[name].mean(0)
        return tasks["loss"].mean()
