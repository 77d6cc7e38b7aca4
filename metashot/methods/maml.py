"""Model-agnostic meta-learning: Finn, Abbeel and Levine 2017, arXiv:1703.03400."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from metashot.episodes import Episodes
from metashot.methods import adaptation, base


@dataclass(frozen=True)
class Params(adaptation.Params):
    """Hyper-parameters.

    Attributes:
        second_order: Whether the meta-gradient goes through the inner gradients (MAML) or takes them as
            constants (first-order MAML, section 5.2).
        pretrain_steps: The first of the outer steps, in which the backbone only learns to tell all training
            classes apart, so that tasks find features to start from (Ye and Chao 2022, arXiv:2106.16245).
    """

    second_order: bool
    pretrain_steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pretrain_steps < 0:
            raise ValueError(f"pretrain_steps: must not be negative, not {self.pretrain_steps}")


class Maml(adaptation.Adaptation):
    """Weights from which a few gradient steps on a support set do best on its queries."""

    params_type: ClassVar = Params
    params: Params

    def __init__(self, params: Params, problem: base.Problem) -> None:
        super().__init__(params, problem)
        if params.pretrain_steps:
            for row in self.network.head.parameters():  # no class is before another
                nn.init.zeros_(row)
            if problem.train_classes is not None:
                self.classifier = nn.Linear(self.network.backbone.features, problem.train_classes)

    def query_loss(
        self,
        weights: adaptation.Weights,
        support: Tensor,
        support_labels: Tensor,
        query: Tensor,
        labels: Tensor,
    ) -> Tensor:
        """Loss (scalar) on the queries of one task after adaptation to its support set (equation 1)."""
        steps = self.params.inner_steps
        samples, targets = support.expand(steps, *support.shape), support_labels.expand(steps, -1)
        adapted, _ = self.adapt(weights, samples, targets, differentiable=self.params.second_order)
        return F.cross_entropy(self.answer(adapted, support, query), labels)

    def backward(self, episodes: Episodes) -> Tensor:
        """See `Method.backward`: the mean over tasks of the gradient of `query_loss`."""
        if 1 <= self.step <= self.params.pretrain_steps:
            return self._pretrain(episodes)
        weights = self.weights()

        def task(*tensors: Tensor) -> adaptation.Weights:
            gradient, loss = self.gradient(self.query_loss, weights, *tensors)
            return {**gradient, "loss": loss}

        tasks = self.over_tasks(
            task, episodes.support, episodes.support_labels, episodes.query, episodes.query_labels
        )
        for name, parameter in self.network.named_parameters():
            parameter.grad = tasks[name].mean(0)
        return tasks["loss"].mean()

    def _pretrain(self, episodes: Episodes) -> Tensor:
        loss = base.classification(
            episodes, lambda samples: self.classifier(self.network.backbone(samples, len(samples)))
        )
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def inference_state(self) -> dict[str, Tensor]:
        """The network alone: the classifier of the first steps has done its work."""
        return {key: value for key, value in self.state_dict().items() if not key.startswith("classifier.")}
