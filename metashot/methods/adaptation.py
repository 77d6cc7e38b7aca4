"""The inner loop of the methods that adapt a whole network to each support set by gradient steps.

It is written once, for one task, as a function of the weights. Over a batch of tasks it is mapped by ``vmap``
on a GPU, where launches cost most. On a CPU sharing one small task between cores is slow, and so are the
grouped convolutions that ``vmap`` makes of all tasks together: each core works on tasks of its own, and takes
gradients by plain autograd, as the transforms of ``torch.func``, which ``vmap`` needs, cost a fifth more.
"""

import copy
import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F

from metashot import backbones
from metashot.errors import MetashotError
from metashot.methods import base

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Params(base.Params):
    """Hyper-parameters.

    Attributes:
        inner_lr: Step size of the inner gradient descent.
        inner_steps: Steps on a training episode.
        test_steps: Steps on a support set at prediction.
        query_norm: Whose batch statistics normalise the queries: those of the ``support`` set, or of all
            the ``query`` samples of the episode together, which makes predictions transductive.
    """

    inner_lr: float
    inner_steps: int
    test_steps: int
    query_norm: Literal["support", "query"]

    def __post_init__(self) -> None:
        super().__post_init__()
        base.require_positive(self, "inner_lr", "inner_steps", "test_steps")


class Network(nn.Module):
    """A backbone under a linear classifier of N classes."""

    def __init__(self, problem: base.Problem) -> None:
        super().__init__()
        self.backbone = backbones.build(problem.backbone, problem.form.shape)
        self.head = nn.Linear(self.backbone.features, problem.n_way)

    def forward(self, samples: Tensor, stats_rows: int) -> Tensor:
        """Logits ``[M, N]`` of ``[M, *shape]``; ``stats_rows`` as in `BatchNorm`."""
        logits: Tensor = self.head(self.backbone(samples, stats_rows))
        return logits


@functools.cache
def _cores() -> ThreadPoolExecutor:
    """A thread for each core, its tensor operations confined to it."""
    return ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,))


class Adaptation(base.Method):
    """A network that takes a few steps of gradient descent on each support set, and then answers."""

    params: Params

    def __init__(self, params: Params, problem: base.Problem) -> None:
        super().__init__(params, problem)
        self.network = Network(problem)
        self.train_way = problem.n_way
        self.transductive = params.query_norm == "query"
        self._of_thread = threading.local()

    @property
    def maps_tasks(self) -> bool:
        """Whether tasks are mapped by ``vmap``."""
        return next(self.network.parameters()).is_cuda

    def weights(self) -> Weights:
        """The weights that adaptation starts from, cut off from autograd's graph."""
        return {name: value.detach() for name, value in self.network.named_parameters()}

    def logits(self, weights: Weights, samples: Tensor, stats_rows: int) -> Tensor:
        """Logits ``[M, N]`` of the network with these weights; see `Network.forward`."""
        # functional_call puts the weights into the module while it runs, so each thread needs its own module.
        if not hasattr(self._of_thread, "network"):
            self._of_thread.network = copy.deepcopy(self.network)
        logits: Tensor = functional_call(self._of_thread.network, weights, (samples, stats_rows))
        return logits

    def gradient(
        self,
        function: Callable[..., Tensor],
        weights: Weights,
        *tensors: Tensor,
        differentiable: bool = False,
    ) -> tuple[Weights, Tensor]:
        """Gradient of ``function(weights, *tensors)``, a scalar, by the weights; and its value.

        Args:
            function: Of weights and tensors.
            weights: Where the gradient is taken.
            *tensors: Of one task.
            differentiable: Whether the gradient itself may be differentiated.
        """
        if self.maps_tasks:
            gradient, value = grad_and_value(function)(weights, *tensors)
        else:
            with torch.enable_grad():
                at = {
                    name: w if w.requires_grad else w.detach().requires_grad_() for name, w in weights.items()
                }
                value = function(at, *tensors)
                found = torch.autograd.grad(value, list(at.values()), create_graph=differentiable)
            gradient = dict(zip(at, found, strict=True))
        if not differentiable:
            gradient = {name: part.detach() for name, part in gradient.items()}
        return gradient, value.detach()

    def fit_loss(self, weights: Weights, samples: Tensor, labels: Tensor) -> Tensor:
        """The inner objective: cross-entropy (scalar) of ``[M, *shape]`` and labels ``[M]``."""
        return F.cross_entropy(self.logits(weights, samples, len(samples)), labels)

    def adapt(
        self, weights: Weights, samples: Tensor, labels: Tensor, differentiable: bool = False
    ) -> tuple[Weights, Tensor]:
        """S steps of gradient descent on one task.

        Args:
            weights: To start from.
            samples: ``[S, M, *shape]``, a batch for each step.
            labels: ``[S, M]``.
            differentiable: Whether the result may be differentiated through the steps (second order).

        Returns:
            The weights after the last step, and the losses before each, ``[S]``.
        """
        losses = []
        for step_samples, step_labels in zip(samples, labels, strict=True):
            gradient, loss = self.gradient(
                self.fit_loss, weights, step_samples, step_labels, differentiable=differentiable
            )
            losses.append(loss)
            weights = {name: value - self.params.inner_lr * gradient[name] for name, value in weights.items()}
        return weights, torch.stack(losses)

    def answer(self, weights: Weights, support: Tensor, query: Tensor) -> Tensor:
        """Logits ``[M, N]`` of the queries ``[M, *shape]`` of one task."""
        if self.transductive:
            return self.logits(weights, query, len(query))
        return self.logits(weights, torch.cat([support, query]), len(support))[len(support) :]

    def over_tasks(self, function: Callable[..., Weights], *batches: Tensor) -> Weights:
        """``function`` of each task of a batch; each of the tensors it names, stacked to ``[B, ...]``."""
        if self.maps_tasks:
            return vmap(function)(*batches)
        results = list(_cores().map(function, *batches))
        return {name: torch.stack([result[name] for result in results]) for name in results[0]}

    def check_setting(self, n_way: int) -> None:
        """See `Method.check_setting`: the classifier has a fixed number of classes."""
        if n_way != self.train_way:
            raise MetashotError(
                f"a network with a {self.train_way}-way head cannot answer {n_way}-way episodes"
            )

    def predict(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """See `Method.predict`."""
        self.check_setting(n_way)
        weights, steps = self.weights(), self.params.test_steps

        def task(samples: Tensor, labels: Tensor, queries: Tensor) -> Weights:
            repeated = samples.expand(steps, *samples.shape), labels.expand(steps, *labels.shape)
            adapted, _ = self.adapt(weights, *repeated)
            return {"logits": self.answer(adapted, samples, queries)}

        return self.over_tasks(task, support, support_labels, query)["logits"].softmax(-1)
