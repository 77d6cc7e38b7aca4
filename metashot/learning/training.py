"""The one outer loop, for all methods."""

import inspect
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from metashot.data.store import SampleSet
from metashot.errors import MetashotError, Preempted
from metashot.learning import checkpoints
from metashot.learning.evaluation import correct_queries
from metashot.learning.models import runtime
from metashot.learning.models.episodes import Episodes, Manifest
from metashot.learning.models.methods.base import Method

POINTS = 100  # of the loss, in a training
VALIDATIONS = 10
CHECKPOINT_SECONDS = 30.0  # between two checkpoints: what a kill loses at most

Log = Callable[[int, Mapping[str, float]], None]


@dataclass
class Progress:
    """How a training stands, and in the end how it went.

    Attributes:
        step: Outer steps taken.
        best_step: Outer step of the best validation accuracy; the method ends with the weights of that step.
        best_accuracy: That accuracy.
        best_state: Those weights.
        curve: ``(step, loss, validation accuracy)``; the loss is the mean since the last one.
        journal: What was logged, each with ``step``, ``time`` (Unix) and ``metrics``.
        resumed: Steps after which it was interrupted and went on.
        episodes_per_s: Training episodes in a second, validation left out.
        training_seconds: Spent on them.
        started: Unix time of the first attempt.
        seconds: Spent in all, interruptions left out.
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
    curve: list[tuple[int, float, float]] = field(default_factory=list)
    journal: list[dict[str, Any]] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)
    episodes_per_s: float = 0.0
    training_seconds: float = 0.0
    started: float = field(default_factory=time.time)
    seconds: float = 0.0
    point_steps: int = 0
    curve_loss: float = 0.0
    curve_steps: int = 0


def eager(optimizer: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """``optimizer`` without its wrappers for torch.compile: they import it, which takes seconds.

    Should torch wrap otherwise one day, nothing but the seconds comes back.
    """
    names = ("add_param_group", "load_state_dict", "state_dict", "step", "zero_grad")
    inner = {name: inspect.unwrap(getattr(optimizer, name)) for name in names}
    inner["step"] = torch.no_grad()(inner["step"])  # as the wrapper does
    return type(optimizer.__name__, (optimizer,), inner)


def train(
    method: Method,
    samples: SampleSet,
    manifest: Manifest,
    val_samples: SampleSet,
    val_manifest: Manifest,
    *,
    lr: float,
    meta_batch: int,
    steps: int,
    seed: int,
    log: Log,
    augment: Callable[[Episodes], Episodes] = lambda episodes: episodes,
    checkpoint: Path | None = None,
) -> Progress:
    """Train ``method`` in place, and leave it with the weights that validated best.

    The optimiser is Adam. Its learning rate falls from ``lr`` to 0 along half a cosine. The weights are
    checked on the validation manifest `VALIDATIONS` times, evenly spaced, the last after the last step.

    Args:
        method: On the device to train on.
        samples: The training split.
        manifest: Training episodes; cut to the ``train_way`` classes of the method, visited in an order
            drawn from ``seed``, again and again.
        val_samples: The validation split.
        val_manifest: Validation episodes.
        lr: Learning rate at the start.
        meta_batch: Episodes in a step.
        steps: Outer steps.
        seed: Of the order of episodes.
        log: Called with the step and named values: ``train_loss``, ``lr``, ``episodes_per_s`` and, where it
            was measured, ``val_accuracy``.
        augment: Varies the samples of training episodes.
        checkpoint: File to go on from if it is there, with the same bits to come as without the interruption.
            It is written every `CHECKPOINT_SECONDS`, after the last step, and on SIGTERM and SIGINT, which
            then end the training after the step, or the validation, that they arrive in. All other arguments
            have to be those it was written with.

    Raises:
        MetashotError: The loss or a weight became NaN or infinite, or the manifest has too few classes.
        Preempted: A signal came before the last step.
    """
    device = next(method.parameters()).device
    train_data, val_data = samples.tensor(device), val_samples.tensor(device)
    optimizer = eager(torch.optim.Adam)(method.parameters(), lr=lr)  # type: ignore[call-arg]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    manifest = manifest.narrow(min(method.params.train_way, manifest.n_way))
    parts: dict[str, Any] = {"method": method, "optimizer": optimizer, "schedule": schedule}

    progress = Progress(torch.zeros((), device=device))
    if checkpoint and (saved := checkpoints.load(checkpoint)):
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        runtime.set_generators(saved["generators"])
        progress = Progress(**saved["progress"])
        progress.point_loss = progress.point_loss.to(device)
        progress.resumed.append(progress.step)
    kept = progress.step  # in the checkpoint
    batches = islice(manifest.stream(meta_batch, seed), progress.step, None)

    def due(times: int) -> bool:
        """Whether this step is one of so many evenly spaced ones."""
        return progress.step * times // steps > (progress.step - 1) * times // steps

    method.train()
    written = time.perf_counter()
    # The moments at which an uninterrupted training would have begun
    began, training_began = written - progress.seconds, written - progress.training_seconds
    holding: AbstractContextManager[list[str]] = runtime.signals_held() if checkpoint else nullcontext([])
    with (
        holding as signals,
        tqdm(total=steps, initial=progress.step, unit="step", dynamic_ncols=True, disable=None) as bar,
    ):
        for batch in islice(batches, steps - progress.step):
            progress.step += 1
            optimizer.zero_grad()
            progress.point_loss += method.backward(augment(manifest.gather(train_data, batch)))
            progress.point_steps += 1
            optimizer.step()
            rate: float = optimizer.param_groups[0]["lr"]
            schedule.step()
            bar.update()
            progress.training_seconds = time.perf_counter() - training_began

            if (validate := due(VALIDATIONS)) or due(POINTS):
                loss = float(progress.point_loss) / progress.point_steps
                if not (math.isfinite(loss) and all(bool(p.isfinite().all()) for p in method.parameters())):
                    raise MetashotError(
                        f"training diverged: the loss or a weight was NaN or infinite by step "
                        f"{progress.step} of {steps} (loss {loss}): lower lr (now {lr:g})"
                    )
                progress.training_seconds = time.perf_counter() - training_began  # a GPU is done only now
                progress.episodes_per_s = progress.step * meta_batch / progress.training_seconds
                point = {"train_loss": loss, "lr": rate, "episodes_per_s": progress.episodes_per_s}
                progress.curve_loss += float(progress.point_loss)
                progress.curve_steps += progress.point_steps
                progress.point_loss, progress.point_steps = torch.zeros((), device=device), 0
                if validate:
                    correct = correct_queries(method, val_data, val_manifest)
                    point["val_accuracy"] = accuracy = float(correct.mean()) / val_manifest.queries
                    progress.curve.append(
                        (progress.step, progress.curve_loss / progress.curve_steps, accuracy)
                    )
                    progress.curve_loss, progress.curve_steps = 0.0, 0
                    if accuracy > progress.best_accuracy:
                        progress.best_accuracy, progress.best_step = accuracy, progress.step
                        progress.best_state = {k: v.clone() for k, v in method.state_dict().items()}
                progress.journal.append({"step": progress.step, "time": time.time(), "metrics": point})
                log(progress.step, point)
                bar.set_postfix_str(
                    f"loss {loss:.4f}, val {max(progress.best_accuracy, 0):.2%} best, "
                    f"{progress.episodes_per_s:.0f} episodes/s",
                    refresh=False,
                )

            now = time.perf_counter()
            progress.seconds = now - began
            last = progress.step == steps
            if checkpoint and (signals or last or now - written > CHECKPOINT_SECONDS):
                state = {name: part.state_dict() for name, part in parts.items()}
                state |= {"progress": vars(progress), "generators": runtime.generators()}
                if checkpoints.save(checkpoint, state):
                    kept = progress.step
                written = time.perf_counter()
                if signals and not last:
                    raise Preempted(
                        f"training stopped by {signals[0]} at step {progress.step} of {steps}: "
                        f"run again to go on from step {kept}"
                    )
            training_began = time.perf_counter() - progress.training_seconds
    method.load_state_dict(progress.best_state)
    return progress
