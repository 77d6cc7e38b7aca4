"""Speed of metashot against named alternatives.

Each line is one piece of work done in two ways, turn about, in one process on one machine. The ratio is the
alternative's time over metashot's: above 1, metashot is faster. Times alone say little on a busy machine, so
judge by the ratio and by its spread. Nothing is asserted.
"""

import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from metashot.config import params
from metashot.data import Key, store
from metashot.data.kinds.images import form
from metashot.data.store import SampleSet
from metashot.learning.evaluation import correct_queries
from metashot.learning.models import runtime
from metashot.learning.models.backbones.conv4 import Conv4Params
from metashot.learning.models.episodes import Episodes, Manifest, sample
from metashot.learning.models.methods import adaptation, base, maml, prototypical

ROUNDS = 5
ROOT = Path(__file__).parents[1]
SIZE = (1, 28, 28)
FORM = form(28, 1)
NETWORK = Conv4Params(name="conv4", width=64, downsample="pool")
METRIC: prototypical.Params = params.read(ROOT / "params.yaml", "method.prototypical", prototypical.Params)
GRADIENT: maml.Params = params.read(ROOT / "params.yaml", "method.maml", maml.Params)

Work = Callable[[], object]


def images(classes: int, per_class: int = 20) -> SampleSet:
    """Noise in the shape of a data set; no speed here depends on what is in the pictures."""
    pixels = np.random.default_rng(0).integers(0, 256, (classes * per_class, *SIZE), dtype=np.uint8)
    labels = np.arange(classes).repeat(per_class)
    return SampleSet(pixels, labels, [str(number) for number in range(classes)], FORM, md5="", split="test")


def evaluation() -> tuple[Work, Work]:
    """100 test episodes: every image embedded once, or anew in each episode it is in."""
    data = images(100)
    manifest = sample(data, n_way=5, k_shot=1, n_query=15, episodes=100, seed=0)
    method = prototypical.Prototypical(METRIC, base.Problem(FORM, NETWORK)).eval()

    @torch.no_grad()
    def per_episode() -> None:
        for start in range(0, len(manifest), 10):
            e = manifest.gather(data.tensor(), slice(start, start + 10))
            method.predict(e.support, e.support_labels, e.query, e.n_way)

    return partial(correct_queries, method, data.tensor(), manifest), per_episode


class LoopMaml(maml.Maml):
    """One task after the other, each with all cores."""

    def over_tasks(self, function: Callable[..., adaptation.Weights], *batches: Tensor) -> adaptation.Weights:
        """See `Adaptation.over_tasks`."""
        results = [function(*task) for task in zip(*batches, strict=True)]
        return {name: torch.stack([result[name] for result in results]) for name in results[0]}


class VmapMaml(maml.Maml):
    """All tasks as one batch, as on a GPU."""

    maps_tasks = True


def tasks(alternative: type[maml.Maml]) -> tuple[Work, Work]:
    """The meta-gradient of one outer step of MAML: a thread for each core, or the alternative."""
    data = images(60)
    manifest = sample(data, n_way=5, k_shot=1, n_query=5, episodes=GRADIENT.meta_batch, seed=0)
    batch = manifest.gather(data.tensor(), slice(None))
    ours, other = (cls(GRADIENT, base.Problem(FORM, NETWORK)) for cls in (maml.Maml, alternative))
    return partial(ours.backward, batch), partial(other.backward, batch)


class Pictures(Dataset[tuple[Tensor, int]]):
    """Single images by number, as a data set for a loader usually is."""

    def __init__(self, data: SampleSet) -> None:
        self.pixels, self.labels = data.tensor(), data.labels

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.pixels[index].float().div(255), int(self.labels[index])


def loaded(data: SampleSet, manifest: Manifest) -> Iterator[Episodes]:
    """The episodes of a manifest through a DataLoader in this process, one batch of images for each."""
    batches = [np.r_[s.ravel(), q.ravel()] for s, q in zip(manifest.support, manifest.query, strict=True)]
    shots = manifest.n_way * manifest.k_shot
    labels = [torch.arange(manifest.n_way).repeat_interleave(k) for k in (manifest.k_shot, manifest.n_query)]
    for pictures, classes in DataLoader(Pictures(data), batch_sampler=batches):
        yield Episodes(
            pictures[None, :shots],
            labels[0][None],
            pictures[None, shots:],
            labels[1][None],
            classes[None, : shots : manifest.k_shot],
        )


def gathered(data: SampleSet, manifest: Manifest) -> Iterator[Episodes]:
    """The same episodes by index from the tensor in memory."""
    pixels = data.tensor()
    for row in range(len(manifest)):
        yield manifest.gather(pixels, slice(row, row + 1))


def input_steps(*, train: bool) -> tuple[Work, Work]:
    """4 episodes of 60 classes and 360 images: made, or made and trained on."""
    data = images(100)
    manifest = sample(data, n_way=60, k_shot=1, n_query=5, episodes=4, seed=0)
    method = prototypical.Prototypical(METRIC, base.Problem(FORM, NETWORK))
    optimizer = torch.optim.Adam(method.parameters(), lr=METRIC.lr)

    def steps(source: Callable[[SampleSet, Manifest], Iterator[Episodes]]) -> None:
        for episodes in source(data, manifest):
            if train:
                optimizer.zero_grad()
                method.backward(episodes)
                optimizer.step()

    return partial(steps, gathered), partial(steps, loaded)


def reading(folder: Path) -> tuple[Work, Work]:
    """2,000 pictures from Parquet, or from PNG files one by one."""
    data, kept = images(100), folder / "noise.parquet"
    keys = [Key("test", "noise", name, str(row)) for name in data.class_names for row in range(20)]
    with store.writing(kept, FORM, rotations=False, about={}) as writer:
        writer.write(keys, data.samples, [bytes(16)] * len(keys))
    for row, picture in enumerate(data.samples):
        Image.fromarray(picture[0]).save(folder / f"{row}.png")
    files = sorted(folder.glob("*.png"))

    def one_by_one() -> None:
        np.stack([np.asarray(Image.open(file)) for file in files])

    return partial(store.load, kept, "test"), one_by_one


def drawing() -> tuple[Work, Work]:
    """1,000 test episodes: drawn as whole classes by numpy, or class by class with ``random.sample``."""
    data = images(400)
    rows = [np.flatnonzero(data.labels == label).tolist() for label in range(400)]

    def by_class() -> None:
        for _ in range(1000):
            for label in random.sample(range(400), 5):
                random.sample(rows[label], 16)

    return partial(sample, data, n_way=5, k_shot=1, n_query=15, episodes=1000, seed=0), by_class


def process(directory: str, *arguments: str) -> Work:
    """A Python process from start to end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return partial(subprocess.run, command, cwd=directory, env=environment, check=True)


def seconds(work: Work) -> float:
    """How long ``work`` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare(ours: Work, other: Work) -> tuple[list[float], list[float]]:
    """Seconds of both, turn about, each first in every second round; a first round is not counted."""
    times: list[tuple[float, float]] = []
    for turn in range(ROUNDS + 1):
        if turn % 2:
            times.append((seconds(ours), seconds(other)))
        else:
            times.append((seconds(other), seconds(ours))[::-1])
    mine, others = zip(*times[1:], strict=True)
    return list(mine), list(others)


def main() -> None:
    """Run all comparisons and print them as one table."""
    runtime.keep_freed_memory()  # as the stages do; both sides gain
    torch.manual_seed(0)
    title = f"torch {torch.__version__}, {torch.get_num_threads()} threads; medians of {ROUNDS} rounds"
    view = Table(title=title, title_justify="left", box=box.HORIZONTALS, padding=(0, 1, 0, 0))
    view.add_column("metashot / alternative", no_wrap=True)
    for column in ("ms", "ms", "ratio", "spread"):
        view.add_column(column, justify="right", no_wrap=True)
    with tempfile.TemporaryDirectory() as directory:
        shutil.copy(ROOT / "params.yaml", directory)
        bare = process(directory, "-c", "import torch")
        works = {
            "read images: Parquet / PNG files": reading(Path(directory)),
            "draw test episodes: numpy / random.sample": drawing(),
            "evaluate: embed once / in every episode": evaluation(),
            "MAML: threads over tasks / plain loop": tasks(LoopMaml),
            "MAML: threads over tasks / vmap": tasks(VmapMaml),
            "make episodes: index / DataLoader": input_steps(train=False),
            "train on them: index / DataLoader": input_steps(train=True),
            "python -m stages.check / import torch": (process(directory, "-m", "stages.check"), bare),
            "import stages.train / import torch": (process(directory, "-c", "import stages.train"), bare),
        }
        for name, pair in track(works.items(), "measuring", transient=True):
            mine, others = compare(*pair)
            ratios = [b / a for a, b in zip(mine, others, strict=True)]
            times = (f"{1000 * statistics.median(side):.0f}" for side in (mine, others))
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            view.add_row(name, *times, f"{statistics.median(ratios):.2f}", spread)
    Console().print(view)


if __name__ == "__main__":
    main()
