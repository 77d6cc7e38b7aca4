"""The interface of few-shot methods to training and evaluation."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metashot.data import Form
from metashot.learning.models import backbones
from metashot.learning.models.episodes import Episodes
from metashot.section import Section

MOST = 10_000  # steps, episodes, classes or samples of a class
LARGEST = 1e30  # of a rate or a scale: far from what float32 holds, which ten times the rate must not exceed


def require_positive(params: "Params", *keys: str) -> None:
    """Raise a ValueError naming the first of ``keys`` whose value is not above 0, or is too large."""
    for key in keys:
        value = getattr(params, key)
        most = MOST if isinstance(value, int) else LARGEST
        if not 0 < value <= most:
            raise ValueError(f"{key}: must be positive and at most {most:,.6g}, not {value}")


@dataclass(frozen=True)
class Params(Section):
    """Hyper-parameters every trained method has; each method adds its own.

    Attributes:
        lr: Learning rate of the outer optimiser (Adam) at the start.
        meta_batch: Episodes in one outer step.
        train_way: Classes in a training episode; may be more than in a test episode.
    """

    lr: float
    meta_batch: int
    train_way: int

    def __post_init__(self) -> None:
        require_positive(self, "lr", "meta_batch")
        if not 2 <= self.train_way <= MOST:
            raise ValueError(f"train_way: must be between 2 and {MOST:,}, not {self.train_way}")


@dataclass(frozen=True)
class Problem:
    """What a method is built for.

    Attributes:
        form: What a sample is.
        backbone: The network that turns it into features.
        train_classes: Classes of the meta-training split; None for a model that is not trained.
    """

    form: Form
    backbone: backbones.Params
    train_classes: int | None = None


class Method(nn.Module, ABC):
    """A few-shot classifier.

    The catalogue in `methods` names it; it is built from its hyper-parameters and a `Problem`.

    Attributes:
        params_type: The class of its hyper-parameters.
        params: Its hyper-parameters.
        problem: What it was built for.
        backbone: The network.
        transductive: Whether a prediction looks at the other queries of its episode.
    """

    params_type: ClassVar[type[Section]]
    transductive: bool = False

    def __init__(self, params: Any, problem: Problem) -> None:
        super().__init__()
        self.params = params
        self.problem = problem
        self.backbone = problem.backbone.build(problem.form.shape)

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return next(chain(self.parameters(), self.buffers())).device

    def fit(self, samples: Iterable[Tensor]) -> None:
        """Take constants from the training split; see `Backbone.fit`."""
        self.backbone.fit(samples)

    @property
    def chosen(self) -> Mapping[str, float]:
        """Constants that validation episodes chose, by name; none for methods that learn all by gradients."""
        return {}

    @abstractmethod
    def predict(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Class probabilities of the queries.

        Args:
            support: ``[B, N*K, *shape]``, in any order, any number for each class.
            support_labels: ``[B, N*K]`` int64, 0..N-1.
            query: ``[B, M, *shape]``.
            n_way: N.

        Returns:
            ``[B, M, N]``.
        """

    def inference_state(self) -> dict[str, Tensor]:
        """The tensors that prediction needs."""
        return self.state_dict()

    def parameter_count(self) -> int:
        """Number of learned parameters that prediction needs."""
        needed = self.inference_state()
        return sum(value.numel() for name, value in self.named_parameters() if name in needed)


class TrainedMethod(Method):
    """A method that learns from batches of episodes."""

    params_type: ClassVar[type[Params]]
    params: Params

    @abstractmethod
    def backward(self, episodes: Episodes) -> Tensor:
        """Leave the meta-gradient of a batch of episodes in ``.grad``; return the loss, a detached scalar."""


class EmbeddingMethod(Method):
    """A method that embeds samples one by one and classifies the embeddings.

    Queries are normalised with running statistics, so a sample's embedding depends on nothing else, and
    evaluation embeds every sample once however many episodes it is in.
    """

    def embed(self, samples: Tensor) -> Tensor:
        """Samples ``[..., *shape]`` to embeddings ``[..., D]``."""
        batch = samples.shape[: samples.dim() - len(self.problem.form.shape)]
        features: Tensor = self.backbone(samples.flatten(0, len(batch) - 1))
        return features.reshape(*batch, -1)

    @abstractmethod
    def classify(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Logits of embedded queries.

        Args:
            support: Embeddings ``[B, N*K, D]``.
            support_labels: ``[B, N*K]`` int64.
            query: Embeddings ``[B, M, D]``.
            n_way: N.

        Returns:
            ``[B, M, N]``, log-probabilities up to a constant.
        """

    def predict(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """See `Method.predict`."""
        return self.classify(self.embed(support), support_labels, self.embed(query), n_way).softmax(-1)


class TrainedEmbedding(EmbeddingMethod, TrainedMethod):
    """A method that learns the embedding."""

    @abstractmethod
    def loss(self, episodes: Episodes) -> Tensor:
        """The training objective (scalar)."""

    def backward(self, episodes: Episodes) -> Tensor:
        """See `TrainedMethod.backward`."""
        loss = self.loss(episodes)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def embed_episodes(self, episodes: Episodes) -> tuple[Tensor, Tensor]:
        """Support ``[B, N*K, D]`` and query ``[B, N*Q, D]`` embeddings from one pass over all the samples."""
        together = self.embed(torch.cat([episodes.support, episodes.query], dim=1))
        shots = episodes.support.shape[1]
        return together[:, :shots], together[:, shots:]


def classification(episodes: Episodes, logits: Callable[[Tensor], Tensor]) -> Tensor:
    """Cross-entropy (scalar) of all samples of a batch over all training classes.

    Args:
        episodes: The batch.
        logits: Of samples ``[M, *shape]``: ``[M, classes]``.
    """
    samples = torch.cat([episodes.support, episodes.query], dim=1).flatten(0, 1)
    labels = torch.cat([episodes.support_labels, episodes.query_labels], dim=1)
    return F.cross_entropy(logits(samples), episodes.classes.gather(1, labels).flatten())


def class_means(values: Tensor, labels: Tensor, n_way: int) -> Tensor:
    """Mean of ``values`` ``[B, M, D]`` over each class of ``labels`` ``[B, M]``: ``[B, N, D]``."""
    member = F.one_hot(labels, n_way).to(values.dtype)  # [B, M, N]
    return member.mT @ values / member.sum(1).unsqueeze(-1)


def class_weights(labels: Tensor, n_way: int, dtype: torch.dtype) -> Tensor:
    """Weights ``[..., N]`` for a sample of each class, with which all classes count alike.

    The M samples of ``labels`` ``[..., M]`` weigh M together; in classes of one size each sample weighs 1.
    """
    counts = (labels.unsqueeze(-1) == torch.arange(n_way, device=labels.device)).sum(-2)
    return labels.shape[-1] / (n_way * counts.clamp_min(1)).to(dtype)
