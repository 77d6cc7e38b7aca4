"""What a person uses from a notebook: samples, episodes, methods, training, evaluation, saved models.

Reached as ``import metashot``, which loads each name when it is first used. Nothing here needs DVC, Prefect
or params.yaml; MLflow is imported by `load_registered` alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metashot.config import params
from metashot.data import Form, Split, store
from metashot.data.preprocess import preprocess
from metashot.data.sources import SOURCES
from metashot.data.store import SampleSet
from metashot.errors import MetashotError
from metashot.learning import choosing, evaluation, statistics, training
from metashot.learning.making import Log, Progress
from metashot.learning.models import methods, runtime
from metashot.learning.models.backbones import BACKBONES
from metashot.learning.models.episodes import Manifest, sample
from metashot.learning.models.methods import METHODS
from metashot.learning.models.methods.base import Method, Problem, TrainedMethod
from metashot.learning.models.methods.training_free import TrainingFree
from metashot.learning.statistics import Difference

__all__ = [
    "Difference",
    "Evaluation",
    "Form",
    "Manifest",
    "MetashotError",
    "Method",
    "Progress",
    "SampleSet",
    "build",
    "compare",
    "draw_episodes",
    "evaluate",
    "load",
    "load_registered",
    "load_samples",
    "make_samples",
    "save",
    "train",
]


@dataclass(frozen=True)
class Evaluation:
    """How a model did on episodes.

    Attributes:
        accuracies: Fraction of the queries of each episode that were answered correctly: ``[E]``.
        accuracy: Their mean.
        ci95: Half width of its 95 % interval.
    """

    accuracies: NDArray[np.float64]
    accuracy: float
    ci95: float


def make_samples(
    source: str, folder: Path | str, *, raw: Mapping[str, Any], prepare: Mapping[str, Any]
) -> Path:
    """Get the raw files of a source, and prepare its samples; return the Parquet file.

    Args:
        source: Such as ``glyphs`` or ``omniglot``: a module of `metashot.data.sources`.
        folder: Where the raw files and the Parquet file are written.
        raw: Parameters of the source, as ``data.<dataset>.raw`` of params.yaml has them.
        prepare: How samples are prepared, as ``data.<dataset>.prepare``.

    Raises:
        MetashotError: There is no such source, it has no such parameters, or its files cannot be had or read.
    """
    module, directory = SOURCES[source], Path(folder) / "raw"
    download = params.validate(dict(raw), module.Raw, "raw")
    settings = params.validate(dict(prepare), module.Prepare, "prepare")
    directory.mkdir(parents=True, exist_ok=True)
    module.download(download, directory)
    target = Path(folder) / "samples.parquet"
    preprocess(module, settings, directory, target)
    return target


def load_samples(path: Path | str, split: Split) -> SampleSet:
    """Read one split, ``train``, ``val`` or ``test``, of a Parquet file that metashot made.

    Raises:
        MetashotError: It is not such a file, or has no such split.
    """
    return store.load(Path(path), split)


def draw_episodes(
    samples: SampleSet, *, n_way: int, k_shot: int, n_query: int, episodes: int, seed: int = 0
) -> Manifest:
    """Draw N-way K-shot episodes: classes, support and query samples, all without replacement.

    Raises:
        MetashotError: A number is too small, or there are too few classes, or too few samples in one.
    """
    return sample(samples, n_way=n_way, k_shot=k_shot, n_query=n_query, episodes=episodes, seed=seed)


def build(
    method: str, samples: SampleSet, *, backbone: Mapping[str, Any], seed: int = 0, **hyper: Any
) -> Method:
    """Return an untrained method on the best device there is.

    Args:
        method: Such as ``prototypical`` or ``maml``.
        samples: The training split, whose form and number of classes the network is made for.
        backbone: Parameters of the embedding network with its ``name``, as ``data.<dataset>.backbone``.
        seed: Of the initial weights.
        hyper: Hyper-parameters, as ``method.<method>`` of params.yaml.

    Raises:
        MetashotError: There is no such method or backbone, it has no such parameters, or it takes no such
            samples.
    """
    cls = METHODS[method]
    network = params.validate(dict(backbone), BACKBONES, "backbone")
    problem = Problem(samples.form, network, len(samples.class_names))
    with runtime.reproducible(seed):
        return cls(params.validate(hyper, cls.params_type, method), problem).to(runtime.best_device())


def train(
    method: Method,
    samples: SampleSet,
    episodes: Manifest,
    val_samples: SampleSet,
    val_episodes: Manifest,
    *,
    steps: int,
    seed: int = 0,
    log: Log = lambda step, values: None,
) -> Progress:
    """Meta-train a method in place, and leave it with the weights that validated best.

    A method without training, such as ``ridge``, takes its constants from the training split and the
    validation episodes; its ``steps`` are 0, and its training episodes are not looked at.

    Args:
        method: As `build` returns it; learning rate, episodes in a step and ``train_way`` are its parameters.
        samples: The training split.
        episodes: Of the training split, with ``train_way`` classes or more.
        val_samples: The validation split.
        val_episodes: Of the validation split.
        steps: Outer steps.
        seed: Of the order of episodes.
        log: Called with the step and named values, such as ``train_loss`` and ``val_accuracy``.

    Raises:
        MetashotError: The training diverged, the episodes have too few classes, or the steps are not 0 for a
            method without training.
    """
    if isinstance(method, TrainingFree):
        if steps:
            raise MetashotError(f"steps: needs 0 steps, as nothing is trained (it is {steps})")
        return choosing.choose([method], samples, val_samples, val_episodes)[-1]
    if not isinstance(method, TrainedMethod):
        raise MetashotError(f"{type(method).__name__} cannot be trained: it is no TrainedMethod")
    with runtime.reproducible(seed):
        return training.train(
            *(method, samples, episodes, val_samples, val_episodes),
            steps=steps,
            seed=seed,
            log=log,
        )


def evaluate(method: Method, samples: SampleSet, episodes: Manifest) -> Evaluation:
    """Answer the queries of every episode.

    Args:
        method: Trained, or not.
        samples: The split that the episodes are of.
        episodes: At least 2 of them.
    """
    correct = evaluation.correct_queries(method, samples.tensor(method.device), episodes)
    accuracies = correct / episodes.queries
    return Evaluation(accuracies, *statistics.mean_and_interval(accuracies))


def compare(first: Evaluation, second: Evaluation) -> Difference:
    """Hold one model against another on the same episodes, episode by episode."""
    return statistics.paired(first.accuracies, second.accuracies)


def save(method: Method, folder: Path | str) -> None:
    """Write a method into a folder: ``model.safetensors`` and ``model.json``."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    methods.save(method, Path(folder))


def load(folder: Path | str, device: torch.device | str = "cpu") -> Method:
    """Read a method that `save` wrote, ready to predict.

    Raises:
        MetashotError: There is none, or its files are damaged.
    """
    return methods.load(Path(folder), device)


def load_registered(uri: str) -> Any:
    """Load a registered model, such as ``models:/glyphs-5w1s@champion``: MLflow's pyfunc, with ``predict``.

    It is of the tracking store that MLFLOW_TRACKING_URI names, or else of the repository that the working
    directory lies in.

    Raises:
        MetashotError: MLflow is not reachable, or has no such model.
    """
    from metashot.registry.versions import load_model

    return load_model(uri)
