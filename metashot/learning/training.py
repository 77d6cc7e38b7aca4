"""The outer loop of meta-training, the same for all methods."""

import inspect
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from metashot.data.store import SampleSet
from metashot.errors import MetashotError, Preempted
from metashot.learning import checkpoints
from metashot.learning.evaluation import correct_queries
from metashot.learning.making import Augmentation, Log, Order, Progress
from metashot.learning.models import runtime
from metashot.learning.models.episodes import Chunks, Manifest
from metashot.learning.models.methods.base import Params, Problem, TrainedMethod

POINTS = 100  # of the loss, in a training
VALIDATIONS = 10
CHECKPOINT_SECONDS = 30.0  # between two checkpoints: what a kill loses at most


def make(cls: type[TrainedMethod], hyper: Params, order: Order) -> tuple[TrainedMethod, Progress]:
    """Build and train a method; see `train`."""
    assert order.backbone is not None, "a method that is trained needs a network"
    classes = len(order.samples.class_names)
    method = cls(hyper, Problem(order.samples.form, order.backbone, classes)).to(order.device)
    progress = train(
        method,
        order.samples,
        order.manifest,
        order.val_samples,
        order.val_manifest,
        steps=order.steps,
        seed=order.seed,
        log=order.log,
        augment=order.augment,
        checkpoint=order.checkpoint,
    )
    return method, progress


def train(
    method: TrainedMethod,
    samples: SampleSet,
    manifest: Manifest,
    val_samples: SampleSet,
    val_manifest: Manifest,
    *,
    steps: int,
    seed: int,
    log: Log,
    augment: Augmentation = lambda episodes: episodes,
    checkpoint: Path | None = None,
) -> Progress:
    """Train ``method`` in place, and leave it with the weights that validated best.

    The optimiser is Adam. Its learning rate falls from the method's ``lr`` to 0 along half a cosine. The
    weights are validated before the first step, so that no training ends worse than it began, and then
    `VALIDATIONS` times, evenly spaced, the last time after the last step.

    Args:
        method: On the device to train on. Learning rate, ``meta_batch`` and ``train_way`` are its parameters.
        samples: The training split.
        manifest: Training episodes; cut to the ``train_way`` classes of the method, visited in an order
            drawn from ``seed``, again and again.
        val_samples: The validation split.
        val_manifest: Validation episodes.
        steps: Outer steps.
        seed: Of the order of episodes.
        log: Called with the step and named values: ``train_loss``, ``lr``, ``episodes_per_s`` and, where it
            was measured, ``val_accuracy``; before the first step that alone.
        augment: Varies the samples of training episodes.
        checkpoint: File to resume from if it exists, with the same bits to come as without the interruption.
            It is written every `CHECKPOINT_SECONDS`, after the last step, and on SIGTERM and SIGINT, which
            then end the training after the step, or the validation, that they arrive in. All other arguments
            have to be those it was written with.

    Raises:
        MetashotError: The loss or a weight became NaN or infinite, or the manifest has too few classes.
        Preempted: A signal came before the last step.
    """
    training = _Training(method, samples, manifest, val_samples, val_manifest, steps, log, augment)
    training.resume(checkpoint)
    training.run(seed)
    method.load_state_dict(training.progress.best_state)
    return training.progress


class _Training:
    """One training: what takes part in it, and how far it has come."""

    def __init__(
        self,
        method: TrainedMethod,
        samples: SampleSet,
        manifest: Manifest,
        val_samples: SampleSet,
        val_manifest: Manifest,
        steps: int,
        log: Log,
        augment: Augmentation,
    ) -> None:
        self.method, self.steps, self.log, self.augment = method, steps, log, augment
        self.device = method.device
        self.samples, self.val_samples = samples.tensor(self.device), val_samples.tensor(self.device)
        with torch.no_grad():
            method.fit(Chunks(self.samples))
        self.manifest = manifest.narrow(min(method.params.train_way, manifest.n_way))
        self.val_manifest = val_manifest
        adam = without_compile_wrappers(torch.optim.Adam)
        self.optimizer = adam(method.parameters(), lr=method.params.lr)  # type: ignore[call-arg]
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, steps)
        self.progress = Progress(torch.zeros((), device=self.device))
        self.checkpoint: Path | None = None
        self.saved_step, self.saved_at = 0, time.perf_counter()

    @property
    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds beside progress and random generators."""
        return {"method": self.method, "optimizer": self.optimizer, "schedule": self.schedule}

    def resume(self, checkpoint: Path | None) -> None:
        """Keep checkpoints in this file from now on, and take up the state that it holds, if any."""
        self.checkpoint = checkpoint
        if checkpoint and (saved := checkpoints.load(checkpoint)):
            for name, part in self.parts.items():
                part.load_state_dict(saved[name])
            runtime.set_generators(saved["generators"])
            self.progress = Progress(**saved["progress"])
            self.progress.point_loss = self.progress.point_loss.to(self.device)
            self.progress.resumed.append(self.progress.step)
            self.saved_step = self.progress.step

    def run(self, seed: int) -> None:
        """Take the steps that are left."""
        progress, meta_batch = self.progress, self.method.params.meta_batch
        batches = islice(self.manifest.stream(meta_batch, seed), progress.step, self.steps)
        holding: AbstractContextManager[list[str]]
        holding = runtime.signals_held() if self.checkpoint else nullcontext([])
        began = time.perf_counter() - progress.seconds  # when an uninterrupted training would have begun
        self.method.train()
        if not progress.curve:
            self.tell({"val_accuracy": self.validate(None)})
        with (
            holding as signals,
            tqdm(
                total=self.steps, initial=progress.step, unit="step", dynamic_ncols=True, disable=None
            ) as bar,
        ):
            for batch in batches:
                lr = self.step(batch)
                bar.update()
                validates = self.due(VALIDATIONS)
                if validates or self.due(POINTS):
                    loss = self.point(lr, validates)
                    bar.set_postfix_str(
                        f"loss {loss:.4f}, val {max(progress.best_accuracy, 0):.2%} best, "
                        f"{progress.episodes_per_s:.0f} episodes/s",
                        refresh=False,
                    )
                progress.seconds = time.perf_counter() - began
                self.save(signals)

    def step(self, batch: np.ndarray) -> float:
        """Take an outer step on the episodes ``batch`` ``[B]``; return the learning rate that it had."""
        with self.training_time():
            self.progress.step += 1
            self.optimizer.zero_grad()
            self.progress.point_loss += self.method.backward(
                self.augment(self.manifest.gather(self.samples, batch))
            )
            self.progress.point_steps += 1
            self.optimizer.step()
            lr: float = self.optimizer.param_groups[0]["lr"]
            self.schedule.step()
        return lr

    def due(self, times: int) -> bool:
        """Whether the step just taken is one of ``times`` evenly spaced ones."""
        step = self.progress.step
        return step * times // self.steps > (step - 1) * times // self.steps

    def point(self, lr: float, validates: bool) -> float:
        """Log a point, with the validation accuracy if asked to; return the mean loss since the last one."""
        progress = self.progress
        with self.training_time():  # a GPU has finished its steps only when their losses are read
            total = float(progress.point_loss)
            loss = total / progress.point_steps
            self.require_finite(loss)
        progress.episodes_per_s = progress.step * self.method.params.meta_batch / progress.training_seconds
        progress.curve_loss += total
        progress.curve_steps += progress.point_steps
        progress.point_loss, progress.point_steps = torch.zeros((), device=self.device), 0
        metrics = {"train_loss": loss, "lr": lr, "episodes_per_s": progress.episodes_per_s}
        if validates:
            metrics["val_accuracy"] = self.validate(progress.curve_loss / progress.curve_steps)
            progress.curve_loss, progress.curve_steps = 0.0, 0
        self.tell(metrics)
        return loss

    def tell(self, metrics: Mapping[str, float]) -> None:
        """Add a point to the journal, and log it."""
        self.progress.journal.append({"step": self.progress.step, "time": time.time(), "metrics": metrics})
        self.log(self.progress.step, metrics)

    def require_finite(self, loss: float) -> None:
        """Raise a MetashotError if the loss or a weight is NaN or infinite."""
        if not (math.isfinite(loss) and all(bool(p.isfinite().all()) for p in self.method.parameters())):
            raise MetashotError(
                f"training diverged: the loss or a weight was NaN or infinite by step {self.progress.step} "
                f"of {self.steps} (loss {loss}): lower lr (now {self.method.params.lr:g})"
            )

    def validate(self, loss: float | None) -> float:
        """Add a point to the curve, and keep the weights if they are the best so far; return the accuracy."""
        progress = self.progress
        correct = correct_queries(self.method, self.val_samples, self.val_manifest)
        accuracy = float(correct.mean()) / self.val_manifest.queries
        progress.curve.append((progress.step, loss, accuracy))
        if accuracy > progress.best_accuracy:
            progress.best_accuracy, progress.best_step = accuracy, progress.step
            progress.best_state = {name: value.clone() for name, value in self.method.state_dict().items()}
        return accuracy

    def save(self, signals: list[str]) -> None:
        """Write a checkpoint if one is due; raise Preempted where a signal came before the last step."""
        last = self.progress.step == self.steps
        due = signals or last or time.perf_counter() - self.saved_at > CHECKPOINT_SECONDS
        if not (self.checkpoint and due):
            return
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"progress": vars(self.progress), "generators": runtime.generators()}
        if checkpoints.save(self.checkpoint, state):
            self.saved_step = self.progress.step
        self.saved_at = time.perf_counter()
        if signals and not last:
            raise Preempted(
                f"training stopped by {signals[0]} at step {self.progress.step} of {self.steps}: "
                f"run again to go on from step {self.saved_step}"
            )

    @contextmanager
    def training_time(self) -> Iterator[None]:
        """Count the time within as spent on training episodes."""
        began = time.perf_counter()
        yield
        self.progress.training_seconds += time.perf_counter() - began


def without_compile_wrappers(optimizer: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """``optimizer`` without its wrappers for torch.compile: they import it, which takes seconds.

    If a later torch wraps in another way, nothing but those seconds comes back.
    """
    names = ("add_param_group", "load_state_dict", "state_dict", "step", "zero_grad")
    inner = {name: inspect.unwrap(getattr(optimizer, name)) for name in names}
    inner["step"] = torch.no_grad()(inner["step"])  # as the wrapper does
    return type(optimizer.__name__, (optimizer,), inner)
