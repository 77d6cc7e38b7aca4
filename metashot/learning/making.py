"""What makes a model, and how it went: the same for methods that are trained and those that are not."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metashot.catalogue import Catalogue
from metashot.data.store import SampleSet
from metashot.learning.models import backbones
from metashot.learning.models.episodes import Episodes, Manifest
from metashot.learning.models.methods.base import Method

Log = Callable[[int, Mapping[str, float]], None]
Augmentation = Callable[[Episodes], Episodes]


@dataclass(frozen=True)
class Order:
    """Everything that a model is made from, but for its method and hyper-parameters.

    Attributes:
        samples: The training split.
        manifest: Training episodes.
        val_samples: The validation split.
        val_manifest: Validation episodes.
        backbone: Network of a method that is trained; None for one that chooses a fixed backbone.
        augment: Varies the samples of training episodes.
        steps: Outer steps.
        seed: Of the order of episodes.
        device: To compute on.
        log: Called with the step and named values; see `training.train`.
        checkpoint: File to resume from if it exists.
    """

    samples: SampleSet
    manifest: Manifest
    val_samples: SampleSet
    val_manifest: Manifest
    backbone: backbones.Params | None
    augment: Augmentation
    steps: int
    seed: int
    device: torch.device
    log: Log
    checkpoint: Path | None


@dataclass
class Progress:
    """The state of a training beside weights and optimiser; in the end, how it went.

    Attributes:
        step: Outer steps taken.
        best_step: Outer step of the best validation accuracy; the method ends with the weights of that step.
        best_accuracy: That accuracy.
        best_state: Those weights.
        curve: ``(step, loss, validation accuracy)``; the loss is the mean since the last validation, None
            before the first step.
        journal: What was logged, each with ``step``, ``time`` (Unix) and ``metrics``.
        resumed: Steps after which the training was interrupted and resumed.
        episodes_per_s: Training episodes per second, validation excluded.
        training_seconds: Time spent on them.
        started: Unix time of the first attempt.
        seconds: Duration, interruptions excluded.
        point_loss: Sum of the losses since the last point, on the method's device.
        point_steps: Number of them.
        curve_loss: Sum of the losses from the last validation to the last point.
        curve_steps: Number of them.
    """

    point_loss: Tensor
    step: int = 0
    best_step: int = 0
    best_accuracy: float = -1.0
    best_state: dict[str, Tensor] = field(default_factory=dict)
    curve: list[tuple[int, float | None, float]] = field(default_factory=list)
    journal: list[dict[str, Any]] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)
    episodes_per_s: float = 0.0
    training_seconds: float = 0.0
    started: float = field(default_factory=time.time)
    seconds: float = 0.0
    point_steps: int = 0
    curve_loss: float = 0.0
    curve_steps: int = 0


# Functions of a method's class, its hyper-parameters and an `Order`; they return the method and its progress
MAKERS: Catalogue[Callable[[Any, Any, Order], tuple[Method, Progress]]] = Catalogue(
    "maker",
    __package__,
    {
        "choosing": "choosing:make",
        "training": "training:make",
    },
    (),
)
