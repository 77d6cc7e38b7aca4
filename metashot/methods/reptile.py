"""Reptile: Nichol, Achiam and Schulman 2018, arXiv:1803.02999."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metashot.episodes import Episodes
from metashot.methods import adaptation
from metashot.methods.base import require_positive


@dataclass(frozen=True)
class Params(adaptation.Params):
    """Hyper-parameters; ``lr`` is the outer step size, epsilon in the paper.

    Attributes:
        inner_batch: Images in an inner step of training, drawn from support and query images alike.
    """

    inner_batch: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "inner_batch")


class Reptile(adaptation.Adaptation):
    """Weights moved towards those that each task's own gradient descent arrives at (algorithm 2)."""

    params_type: ClassVar = Params
    params: Params
    outer_optimizer: ClassVar = torch.optim.SGD

    def backward(self, episodes: Episodes) -> Tensor:
        """See `Method.backward`.

        The gradient is ``weights - mean over tasks of adapted weights``, so a step of SGD with rate epsilon
        moves the weights by epsilon of the way. The loss is that of the first inner batches.
        """
        weights = self.weights()
        steps, size = self.params.inner_steps, self.params.inner_batch
        images = torch.cat([episodes.support, episodes.query], dim=1)
        labels = torch.cat([episodes.support_labels, episodes.query_labels], dim=1)
        # Pass after pass over a task's images, each in an order of its own.
        batch, available = labels.shape
        passes = -(-steps * size // available)
        orders = [
            torch.cat([torch.randperm(available) for _ in range(passes)])[: steps * size]
            for _ in range(batch)
        ]
        order = torch.stack(orders).to(images.device).view(batch, steps, size)

        def task(images: Tensor, labels: Tensor, order: Tensor) -> adaptation.Weights:
            adapted, losses = self.adapt(weights, images[order], labels[order])
            return {**adapted, "loss": losses[0]}

        tasks = self.over_tasks(task, images, labels, order)
        for name, parameter in self.network.named_parameters():
            parameter.grad = weights[name] - tasks[name].mean(0)
        return tasks["loss"].mean()
