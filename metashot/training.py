"""The one outer loop, for all methods."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from metashot.data.store import ImageSet
from metashot.episodes import Manifest
from metashot.errors import MetashotError
from metashot.evaluation import correct_queries
from metashot.methods.base import Method

POINTS = 100  # of the loss, in a training
VALIDATIONS = 10

Log = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Progress:
    """How a training went.

    Attributes:
        best_step: Outer step of the best validation accuracy; the method holds the weights of that step.
        curve: ``(step, loss, validation accuracy)``; the loss is the mean since the last one.
        episodes_per_s: Training episodes in a second, validation left out.
    """

    best_step: int
    curve: list[tuple[int, float, float]]
    episodes_per_s: float


def train(
    method: Method,
    images: ImageSet,
    manifest: Manifest,
    val_images: ImageSet,
    val_manifest: Manifest,
    *,
    lr: float,
    meta_batch: int,
    steps: int,
    seed: int,
    log: Log,
) -> Progress:
    """Train ``method`` in place, and leave it with the weights that validated best.

    The learning rate falls from ``lr`` to 0 along half a cosine. The weights are checked on the validation
    manifest `VALIDATIONS` times, evenly spaced, the last after the last step.

    Args:
        method: On the device to train on.
        images: The training split.
        manifest: Training episodes; cut to ``method.train_way`` classes, visited in an order drawn from
            ``seed``, again and again.
        val_images: The validation split.
        val_manifest: Validation episodes.
        lr: Learning rate of the outer optimiser at the start.
        meta_batch: Episodes in a step.
        steps: Outer steps.
        seed: Of the order of episodes.
        log: Called with the step and named values: ``train_loss``, ``lr``, ``episodes_per_s`` and, where it
            was measured, ``val_accuracy``.

    Raises:
        MetashotError: The loss or a weight became NaN or infinite, or the manifest has too few classes.
    """
    device = next(method.parameters()).device
    train_pixels, val_pixels = images.images.to(device), val_images.images.to(device)
    optimizer = method.outer_optimizer(method.parameters(), lr=lr)  # type: ignore[call-arg]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    manifest = manifest.narrow(method.train_way)
    batches = manifest.stream(meta_batch, seed)

    best_accuracy, best_step, best_state = -1.0, 0, dict[str, Tensor]()
    curve: list[tuple[int, float, float]] = []
    total, since, seconds = torch.zeros((), device=device), 0, 0.0
    curve_total, curve_since = 0.0, 0
    method.train()
    started = time.perf_counter()
    with tqdm(total=steps, unit="step", dynamic_ncols=True, disable=None) as bar:
        for step in range(1, steps + 1):
            optimizer.zero_grad()
            total += method.backward(manifest.gather(train_pixels, next(batches)))
            since += 1
            optimizer.step()
            rate: float = optimizer.param_groups[0]["lr"]
            schedule.step()
            bar.update()
            validate = step * VALIDATIONS // steps > (step - 1) * VALIDATIONS // steps
            if not (validate or step * POINTS // steps > (step - 1) * POINTS // steps):
                continue

            loss = float(total) / since
            if not (math.isfinite(loss) and all(bool(p.isfinite().all()) for p in method.parameters())):
                raise MetashotError(
                    f"training diverged: the loss or a weight was NaN or infinite by step {step} of {steps} "
                    f"(loss {loss}): lower lr (now {lr:g})"
                )
            seconds += time.perf_counter() - started
            speed = step * meta_batch / seconds
            point = {"train_loss": loss, "lr": rate, "episodes_per_s": speed}
            curve_total, curve_since = curve_total + float(total), curve_since + since
            total, since = torch.zeros((), device=device), 0
            if validate:
                accuracy = (
                    float(correct_queries(method, val_pixels, val_manifest).mean()) / val_manifest.queries
                )
                point["val_accuracy"] = accuracy
                curve.append((step, curve_total / curve_since, accuracy))
                curve_total, curve_since = 0.0, 0
                if accuracy > best_accuracy:
                    best_accuracy, best_step = accuracy, step
                    best_state = {key: value.clone() for key, value in method.state_dict().items()}
            log(step, point)
            bar.set_postfix_str(
                f"loss {loss:.4f}, val {max(best_accuracy, 0):.2%} best, {speed:.0f} episodes/s",
                refresh=False,
            )
            started = time.perf_counter()
    method.load_state_dict(best_state)
    return Progress(best_step, curve, steps * meta_batch / seconds)
