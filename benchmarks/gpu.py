"""Every method on every network, on a GPU against the CPU: gradients, training, test and prediction.

For whoever has a GPU, as the tests run without one. Both start from the same weights and see the same
episodes, of classes that are noise around a mean of their own. Run as ``python -m benchmarks.gpu``; it ends
with status 1 where a difference is larger than rounding, or where a GPU does not repeat its own training to
the last bit.

The meta-gradient is first compared in float64, where both have to agree; then, in the precision of the
network, each with that of float64 (``off``): a GPU may be off as a CPU is, and TF32 would be further off.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from metashot.config import params
from metashot.data import Form
from metashot.data.kinds import images
from metashot.data.store import SampleSet
from metashot.learning.evaluation import correct_queries
from metashot.learning.models import backbones, methods, runtime
from metashot.learning.models.backbones.conv1d import Conv1dParams
from metashot.learning.models.backbones.conv4 import Conv4Params
from metashot.learning.models.backbones.dense import DenseParams
from metashot.learning.models.backbones.ngrams import NgramsParams
from metashot.learning.models.backbones.resnet12 import Resnet12Params
from metashot.learning.models.episodes import Episodes, sample
from metashot.learning.models.methods.base import Method, Problem
from metashot.learning.training import train

ROOT = Path(__file__).parents[1]
METHODS = ("siamese", "matching", "prototypical", "maml", "reptile", "transfer")
CLASSES, PER_CLASS, STEPS = 64, 12, 30
BLOCK = 4  # pixels, or steps in time, that a class's mean has in common
APART = 0.02  # of probabilities and accuracies
ALGORITHMS = 2e-3  # by which ways to convolve in float32 differ: TF32 is off by 3e-2
CPU = torch.device("cpu")


class Network(NamedTuple):
    """A backbone, and what it takes."""

    backbone: backbones.Params
    form: Form
    noise: float  # of the samples of a class


PICTURE, PHOTO = images.form(28, 1), images.form(32, 3)
NETWORKS = {
    "conv4": Network(Conv4Params(name="conv4", width=64, downsample="pool"), PICTURE, 1.0),
    "conv4, strided": Network(Conv4Params(name="conv4", width=32, downsample="stride"), PHOTO, noise=1.0),
    "conv4, bfloat16": Network(
        Conv4Params(name="conv4", width=64, downsample="pool", precision="bfloat16"), PICTURE, 1.0
    ),
    "resnet12": Network(Resnet12Params(name="resnet12", width=16, drop_rate=0.0, drop_size=5), PHOTO, 1.0),
    "conv1d": Network(
        Conv1dParams(name="conv1d", width=64, kernel=5), Form("series", (3, 64), "float32", {}), 0.7
    ),
    "ngrams": Network(
        NgramsParams(name="ngrams", buckets=4096, width=64, drop_rate=0.0),
        Form("texts", (64,), "int32", {}),
        0.5,
    ),
    "dense": Network(DenseParams(name="dense"), Form("sentences", (96,), "float32", {}), 0.4),
}


def samples(network: Network, seed: int) -> SampleSet:
    """Classes that can be learned: a mean each, and noise."""
    rng, form = np.random.default_rng(seed), network.form
    coarse = [side // BLOCK for side in form.shape[1:]]
    mean = rng.random((CLASSES, 1, form.shape[0], *coarse))
    for axis in range(3, mean.ndim):
        mean = mean.repeat(BLOCK, axis)
    noise = rng.standard_normal((CLASSES, PER_CLASS, *form.shape))
    if form.dtype == "int32":  # numbered n-grams: some are the class's own
        own = rng.random(noise.shape) < network.noise
        drawn = np.where(own, (mean * 1e6).astype(int), rng.integers(1, 10**6, noise.shape))
    else:
        drawn = mean + network.noise * noise
        drawn = 255 * drawn.clip(0, 1) if form.dtype == "uint8" else drawn
    return SampleSet(
        drawn.reshape(-1, *form.shape).astype(form.dtype),
        np.arange(CLASSES).repeat(PER_CLASS),
        [str(number) for number in range(CLASSES)],
        form,
        md5="",
        split="train",
    )


def moved(episodes: Episodes, device: torch.device) -> Episodes:
    """The same episodes on a device."""
    return Episodes(**{name: tensor.to(device) for name, tensor in vars(episodes).items()})


def gradient(method: Method, episodes: Episodes) -> torch.Tensor:
    """The meta-gradient of a batch, one vector on the CPU."""
    with runtime.reproducible(0):
        method.backward(episodes)
    parts = [part.grad.flatten() for part in method.parameters() if part.grad is not None]
    return torch.cat(parts).double().cpu()


def in_double(episodes: Episodes) -> Episodes:
    """The same episodes in float64; numbered n-grams stay numbers."""
    floats = {name: t.double() for name, t in vars(episodes).items() if t.is_floating_point()}
    return replace(episodes, **floats)


def compare(name: str, network: Network, gpu: torch.device) -> tuple[list[str], bool]:
    """A row of the table, and whether all of it is as it should be."""
    cls: Any = methods.METHODS[name]
    hyper = params.read(ROOT / "params.yaml", f"method.{name}", cls.params_type)
    with runtime.reproducible(0):
        start = cls(hyper, Problem(network.form, network.backbone, CLASSES)).state_dict()

    def method_of(state: dict[str, torch.Tensor], device: torch.device | str) -> Method:
        built: Method = cls(hyper, Problem(network.form, network.backbone, CLASSES))
        built.load_state_dict(state)
        return built.to(device)

    data, held_out = samples(network, 0), samples(network, 1)
    manifest = sample(data, n_way=20, k_shot=1, n_query=5, episodes=40, seed=0)
    tests = sample(held_out, n_way=5, k_shot=1, n_query=5, episodes=100, seed=0)

    batch = manifest.gather(data.tensor(), slice(hyper.meta_batch))
    exact = [gradient(method_of(start, d).double(), moved(in_double(batch), d)) for d in (gpu, CPU)]
    single = [gradient(method_of(start, d), moved(batch, d)) for d in (gpu, CPU)]
    apart, off_gpu, off_cpu = (
        float((found - exact[1]).norm() / exact[1].norm()) for found in (exact[0], *single)
    )

    def trained(device: torch.device) -> tuple[Method, float]:
        method = method_of(start, device)
        began = time.perf_counter()
        with runtime.reproducible(0):
            train(
                method,
                data,
                manifest,
                held_out,
                tests,
                steps=STEPS,
                seed=0,
                log=lambda *_: None,
            )
        return method.eval(), time.perf_counter() - began

    (on_cpu, slow), (method, _), (again, fast) = trained(CPU), trained(gpu), trained(gpu)
    states = method.state_dict(), again.state_dict()
    repeated = all(torch.equal(states[0][key], states[1][key]) for key in states[0])

    carried = method_of(method.state_dict(), CPU).eval()  # the very same model on both
    scores = [correct_queries(m, held_out.tensor(d), tests) for m, d in ((method, gpu), (carried, CPU))]
    episodes = moved(tests.gather(held_out.tensor(), slice(8)), gpu)
    unequal = torch.cat([episodes.support, episodes.query[:, :5]], dim=1)  # six samples of the first class
    labels = torch.cat([episodes.support_labels, episodes.query_labels[:, :5]], dim=1)
    with torch.no_grad():
        answers = method.predict(unequal, labels, episodes.query, 5).cpu()
        expected = carried.predict(unequal.cpu(), labels.cpu(), episodes.query.cpu(), 5)
    answer = float((answers - expected).abs().max())
    accuracy = [float(score.mean()) / tests.queries for score in scores]
    from_cpu = float(correct_queries(on_cpu, held_out.tensor(), tests).mean()) / tests.queries

    # Rounding moves what is near the kink of a ReLU or a maximum, so how much is for the CPU to say
    good = apart < 1e-6 and off_gpu < 10 * off_cpu + ALGORITHMS and repeated
    good = good and answer < APART and abs(accuracy[0] - accuracy[1]) < APART
    cells = [f"{apart:.0e}", f"{off_gpu:.0e}", f"{off_cpu:.0e}", "yes" if repeated else "NO", f"{answer:.0e}"]
    cells += [f"{accuracy[0]:.2%}", f"{accuracy[1]:.2%}", f"{from_cpu:.2%}", f"{slow / fast:.1f}x"]
    return cells, good


def main() -> None:
    """Print the table."""
    gpu = runtime.best_device()
    if gpu.type != "cuda":
        sys.exit("error: torch finds no GPU here, and there is nothing to compare the CPU with")
    table = Table(box=box.SIMPLE, title=f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    heads = ("float64 apart", "off on GPU", "off on CPU", "same bits twice", "answers apart", "test on GPU")
    for head in ("network", "method", *heads, "same on CPU", "trained on CPU", "faster"):
        table.add_column(head)
    failed = []
    for title, network in NETWORKS.items():
        for name in METHODS:
            cells, good = compare(name, network, gpu)
            table.add_row(title, name, *cells)
            if not good:
                failed.append(f"{name} on {title}")
            print(title, name, *cells, flush=True)
    Console(width=150).print(table)
    if failed:
        sys.exit(f"error: more apart than rounding explains: {', '.join(failed)}")


if __name__ == "__main__":
    main()
