"""Make a model without training: constants of the training split, and a choice on validation episodes."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from metashot.data import Form
from metashot.data.store import SampleSet
from metashot.errors import MetashotError
from metashot.learning.evaluation import Answering
from metashot.learning.features import FEATURES
from metashot.learning.making import Order, Progress
from metashot.learning.models import backbones
from metashot.learning.models.episodes import Chunks, Manifest
from metashot.learning.models.methods.base import Problem
from metashot.learning.models.methods.training_free import Params, TrainingFree
from metashot.output import say

SCALES = torch.logspace(0, 3, 31).tolist()  # of scores, which lie within a few units

M = TypeVar("M", bound=TrainingFree)


@dataclass(frozen=True)
class Tried:
    """What was tried on the validation episodes.

    Attributes:
        features: Name of the fixed backbone.
        values: The method's constants.
        accuracy: On the validation episodes.
    """

    features: str
    values: Mapping[str, float]
    accuracy: float

    def __str__(self) -> str:
        """As people read it: ``hog, strength 0.1: validation 71.23%``."""
        names = [self.features, *(f"{name} {value:g}" for name, value in self.values.items())]
        return f"{', '.join(names)}: validation {self.accuracy:.2%}"


def make(cls: type[TrainingFree], hyper: Params, order: Order) -> tuple[TrainingFree, Progress]:
    """Build a method on each of its features, and choose; see `choose`. Prints what was tried."""
    form = order.samples.form
    candidates = [cls(hyper, Problem(form, n)).to(order.device) for n in networks(hyper.features, form)]
    method, tried, progress = choose(candidates, order.samples, order.val_samples, order.val_manifest)
    for result in tried:
        say(result)
    return method, progress


def networks(features: Literal["auto"] | Sequence[str], form: Form) -> list[backbones.Params]:
    """Return the fixed backbones to choose from; with ``auto`` those of the kind that take such samples.

    Raises:
        MetashotError: One that is named does not exist, is trained, or takes no such samples; or with
            ``auto`` none does.
    """
    if features == "auto":
        return applicable(FEATURES[form.kind].NAMES, form.shape)
    for name in features:
        if not backbones.BACKBONES[name].fixed:
            raise MetashotError(f"{name} is trained: name backbones that are not")
    return [network for name in features for network in applicable([name], form.shape)]


def applicable(names: Sequence[str], shape: tuple[int, ...]) -> list[backbones.Params]:
    """Return those fixed backbones that take samples of a shape. Raises MetashotError if none does."""
    found, refusals = [], []
    for name in names:
        network = backbones.params_of({"name": name})
        try:
            network.count(shape)
        except MetashotError as error:
            refusals.append(str(error))
        else:
            found.append(network)
    if not found:
        raise MetashotError("; ".join(refusals))
    return found


@torch.no_grad()
def choose(
    candidates: Sequence[M], samples: SampleSet, val_samples: SampleSet, val_manifest: Manifest
) -> tuple[M, list[Tried], Progress]:
    """Fit each candidate to the training split, and take the one that is most accurate in validation.

    Candidates that are equally accurate stay in their order, and so do the values of a candidate's
    constants. The scale of the scores is the one with the lowest cross-entropy.

    Args:
        candidates: The same method on several fixed backbones, on the device to compute on.
        samples: The training split.
        val_samples: The validation split.
        val_manifest: Validation episodes.

    Returns:
        The best candidate with its constants set; what was tried, best first; and how it went, as of a
        training without a step.
    """
    started, began = time.time(), time.perf_counter()
    device = candidates[0].device
    train_tensor, val_tensor = samples.tensor(device), val_samples.tensor(device)
    tried: list[tuple[Tried, M]] = []
    for method in candidates:
        method.eval()
        method.fit(Chunks(train_tensor))
        answering = Answering.of(method, val_tensor, [val_manifest])
        for values in method.options():
            scores, labels = _scores(method, values, answering, val_manifest)
            accuracy = float((scores.argmax(-1) == labels).double().mean())
            tried.append((Tried(method.problem.backbone.name, values, accuracy), method))
    tried.sort(key=lambda pair: -pair[0].accuracy)
    best, method = tried[0]
    answering = Answering.of(method, val_tensor, [val_manifest])
    scores, labels = _scores(method, best.values, answering, val_manifest)
    scale = min(SCALES, key=lambda scale: float(F.cross_entropy(scale * scores, labels)))
    method.set({"scale": scale})
    seconds = time.perf_counter() - began
    progress = Progress(
        torch.zeros(()),
        best_accuracy=best.accuracy,
        curve=[(0, None, best.accuracy)],
        journal=[{"step": 0, "time": started + seconds, "metrics": {"val_accuracy": best.accuracy}}],
        started=started,
        seconds=seconds,
    )
    return method, [result for result, _ in tried], progress


def _scores(
    method: TrainingFree, values: Mapping[str, float], answering: Answering, manifest: Manifest
) -> tuple[Tensor, Tensor]:
    """Scores ``[M, N]`` and labels ``[M]`` of all queries, with these constants and the scale 1."""
    method.set({**values, "scale": 1.0})
    scores, labels = zip(*answering.scores(manifest), strict=True)
    return torch.cat([part.flatten(0, 1) for part in scores]), torch.cat([part.flatten() for part in labels])
