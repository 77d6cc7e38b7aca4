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
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F

from metashot.learning.models.methods import base

Weights = dict[str, Tensor]
HEAD = "head"  # the classifier among the weights
LENGTH = 8.0  # norm of the features: a first step of size 0.5 gives logits of 32 times the cosine
EPS = 1e-3  # added to their mean square, so that features near zero stay small, and smooth


@dataclass(frozen=True)
class Params(base.Params):
    """Hyper-parameters.

    Attributes:
        inner_lr: Step size of the inner gradient descent; N times as large for the classifier, each of whose
            rows depends on the samples of one class, one Nth of all.
        inner_steps: Steps on a training episode.
        test_lr: Step size at prediction, likewise.
        test_steps: Steps on a support set at prediction.
        query_norm: Whose batch statistics normalise the queries: those of the ``support`` set, or of all
            the ``query`` samples of the episode together, which makes predictions transductive.
    """

    inner_lr: float
    inner_steps: int
    test_lr: float
    test_steps: int
    query_norm: Literal["support", "query"]

    def __post_init__(self) -> None:
        super().__post_init__()
        base.require_positive(self, "inner_lr", "inner_steps", "test_lr", "test_steps")


@functools.cache
def _cores() -> ThreadPoolExecutor:
    """A thread for each core, each computing on that core alone."""
    return ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,))


class Adaptation(base.TrainedMethod):
    """A network that is adapted to each support set by a few steps of gradient descent.

    A backbone, its features scaled to one length, under a linear classifier that starts at zero in each task.
    A learned start for each class would make predictions depend on how classes are numbered; one shared by
    all classes adds the same to all logits, so it has no effect (Ye and Chao 2022, arXiv:2106.16245,
    section 5; Kao, Chiu and Chen 2022, arXiv:2106.15367). So no classifier is learned, and a model takes
    episodes of any number of classes.
    """

    params: Params

    def __init__(self, params: Params, problem: base.Problem) -> None:
        super().__init__(params, problem)
        self.transductive = params.query_norm == "query"
        self._of_thread = threading.local()

    @property
    def maps_tasks(self) -> bool:
        """Whether tasks are mapped by ``vmap``."""
        return next(self.backbone.parameters()).is_cuda

    def weights(self) -> Weights:
        """The backbone's weights, which adaptation starts from, cut off from autograd's graph."""
        weights = {name: value.detach() for name, value in self.backbone.named_parameters()}
        if self.maps_tasks:  # vmap takes no other layout than torch's usual one
            return {k: w.clone(memory_format=torch.contiguous_format) for k, w in weights.items()}
        return weights

    def logits(self, weights: Weights, samples: Tensor, stats_rows: int) -> Tensor:
        """Logits ``[M, N]`` of ``[M, *shape]``; ``stats_rows`` as in `BatchNorm`.

        Args:
            weights: The backbone's, and the classifier ``[N, D]`` as `HEAD`.
            samples: ``[M, *shape]``.
            stats_rows: So many rows make the batch statistics.
        """
        # functional_call puts the weights into the module while it runs, so each thread needs its own module.
        if not hasattr(self._of_thread, "backbone"):
            self._of_thread.backbone = copy.deepcopy(self.backbone)
        below = {name: value for name, value in weights.items() if name != HEAD}
        below |= dict(self.backbone.named_buffers())  # those of the copy may be of before `fit`
        features = functional_call(self._of_thread.backbone, below, (samples, stats_rows))
        square = features.square().mean(1, keepdim=True)
        scaled: Tensor = features * (square + EPS).rsqrt() * (LENGTH / features.shape[1] ** 0.5)
        return scaled @ weights[HEAD].mT

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
                parts = torch.autograd.grad(value, list(at.values()), create_graph=differentiable)
            gradient = dict(zip(at, parts, strict=True))
        if not differentiable:
            gradient = {name: part.detach() for name, part in gradient.items()}
        return gradient, value.detach()

    def _fit_loss(self, still: Weights, moving: Weights, samples: Tensor, labels: Tensor) -> Tensor:
        """The inner objective: cross-entropy (scalar) of ``[M, *shape]`` and labels ``[M]``.

        It is the mean over classes of the mean over each class's samples: a step from a classifier of zeros
        would otherwise make the classes with most samples the answer to everything.
        """
        logits = self.logits({**still, **moving}, samples, len(samples))
        return F.cross_entropy(logits, labels, base.class_weights(labels, logits.shape[1], logits.dtype))

    def adapt(
        self,
        weights: Weights,
        n_way: int,
        samples: Tensor,
        labels: Tensor,
        lr: float,
        differentiable: bool = False,
    ) -> tuple[Weights, Tensor]:
        """S steps of gradient descent on one task.

        The first moves the classifier alone: under one of zeros, nothing has a gradient.

        Args:
            weights: The backbone's, to start from.
            n_way: N.
            samples: ``[S, M, *shape]``, a batch for each step.
            labels: ``[S, M]``.
            lr: Step size, as `Params` has it.
            differentiable: Whether the result may be differentiated through the steps (second order).

        Returns:
            The weights after the last step, with the classifier ``[N, D]``, and the losses before each step,
            ``[S]``.
        """
        start = next(iter(weights.values())).new_zeros(n_way, self.backbone.features)
        weights, moving, losses = {**weights, HEAD: start}, {HEAD}, []
        for step_samples, step_labels in zip(samples, labels, strict=True):
            gradient, loss = self.gradient(
                functools.partial(self._fit_loss, {k: w for k, w in weights.items() if k not in moving}),
                {k: w for k, w in weights.items() if k in moving},
                step_samples,
                step_labels,
                differentiable=differentiable,
            )
            losses.append(loss)
            # What stays gets a name of its own in the graph too: the classifier now depends on what it was
            weights = {name: value.view_as(value) for name, value in weights.items()}
            for name, part in gradient.items():
                weights[name] = weights[name] - lr * (n_way if name == HEAD else 1) * part
            moving = set(weights)
        return weights, torch.stack(losses)

    def answer(self, weights: Weights, support: Tensor, query: Tensor) -> Tensor:
        """Logits ``[M, N]`` of the queries ``[M, *shape]`` of one task."""
        if self.transductive:
            return self.logits(weights, query, len(query))
        return self.logits(weights, torch.cat([support, query]), len(support))[len(support) :]

    def over_tasks(self, function: Callable[..., Weights], *batches: Tensor) -> Weights:
        """Apply ``function`` to each task of a batch, and stack the tensors it returns to ``[B, ...]``."""
        if self.maps_tasks:
            return vmap(function)(*batches)
        results = list(_cores().map(function, *batches))
        return {name: torch.stack([result[name] for result in results]) for name in results[0]}

    def predict(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """See `Method.predict`."""
        weights, steps = self.weights(), self.params.test_steps

        def task(samples: Tensor, labels: Tensor, queries: Tensor) -> Weights:
            repeated = samples.expand(steps, *samples.shape), labels.expand(steps, *labels.shape)
            adapted, _ = self.adapt(weights, n_way, *repeated, self.params.test_lr)
            return {"logits": self.answer(adapted, samples, queries)}

        return self.over_tasks(task, support, support_labels, query)["logits"].softmax(-1)
