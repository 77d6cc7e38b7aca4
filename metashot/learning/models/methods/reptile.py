"""Reptile: Nichol, Achiam and Schulman 2018, arXiv:1803.02999."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metashot.learning.models.episodes import Episodes
from metashot.learning.models.methods import adaptation
from metashot.learning.models.methods.base import require_positive


@dataclass(frozen=True)
class Params(adaptation.Params):
    """Hyper-parameters.

    Attributes:
        inner_shot: Samples of each class in an inner step of training, drawn from support and query samples
            together: as many as in a support set of that many shots.
    """

    inner_shot: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "inner_shot")


class Reptile(adaptation.Adaptation):
    """Moves the weights towards those that gradient descent reaches on each task (algorithm 2).

    Adam takes the difference as a gradient, as section 2 of the paper suggests.
    """

    params_type: ClassVar = Params
    params: Params

    def draw(self, labels: Tensor, n_way: int) -> Tensor:
        """Positions ``[S, N * inner_shot]`` of a task's inner batches among its samples.

        Every class has ``inner_shot`` samples in each batch, drawn pass after pass without replacement.

        Args:
            labels: ``[M]``, each class equally often.
            n_way: N.
        """
        of_class = labels.argsort(stable=True).view(n_way, -1)  # [N, samples of a class]
        need = self.params.inner_steps * self.params.inner_shot
        passes = -(-need // of_class.shape[1])
        drawn = [torch.cat([row[torch.randperm(len(row))] for _ in range(passes)])[:need] for row in of_class]
        batches = torch.stack(drawn).view(n_way, self.params.inner_steps, self.params.inner_shot)
        return batches.transpose(0, 1).flatten(1)

    def backward(self, episodes: Episodes) -> Tensor:
        """See `Method.backward`.

        The gradient is ``weights - mean over tasks of adapted weights``. The loss is the mean along the
        inner steps.
        """
        weights = self.weights()
        samples = torch.cat([episodes.support, episodes.query], dim=1)
        labels = torch.cat([episodes.support_labels, episodes.query_labels], dim=1)
        order = torch.stack([self.draw(row, episodes.n_way) for row in labels.cpu()]).to(samples.device)

        def task(samples: Tensor, labels: Tensor, order: Tensor) -> adaptation.Weights:
            adapted, losses = self.adapt(
                weights, episodes.n_way, samples[order], labels[order], self.params.inner_lr
            )
            return {**{name: adapted[name] for name in weights}, "loss": losses.mean()}

        tasks = self.over_tasks(task, samples, labels, order)
        for name, parameter in self.backbone.named_parameters():
            parameter.grad = weights[name] - tasks[name].mean(0)
        return tasks["loss"].mean()
