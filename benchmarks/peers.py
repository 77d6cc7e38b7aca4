"""Speed of metashot against other few-shot libraries: same machine, network, images and kinds of task.

    make peers

It installs them into an environment of their own, `.venv-peers`. Each line is one piece of work done by all
of them, turn about; a ratio is metashot's rate over a library's. metashot runs in a process that is set up as
its stages are, the others in one that is as Python starts it, both with the same threads. Each library is
used as its own examples have it, with pictures decoded when they are asked for (the libraries' idiom), and
with tensors in memory. Methods that no library has are compared with plain torch and a DataLoader. What has
to be mended for a library to run on the present torch is done at the top.
"""

import copy
import dataclasses
import io
import multiprocessing
import statistics
import sys
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Sampler
from torch.utils.flop_counter import FlopCounterMode
from torchvision.datasets import utils
from torchvision.transforms.functional import to_tensor

from metashot.config import params
from metashot.data.kinds.images import form
from metashot.data.store import SampleSet
from metashot.learning.evaluation import correct_queries
from metashot.learning.models import methods, runtime
from metashot.learning.models.backbones.conv4 import Conv4Params
from metashot.learning.models.episodes import Episodes, Manifest, sample
from metashot.learning.models.methods import adaptation, base

# What the libraries expect of an older torch and torchvision
Sampler.__init__ = lambda self, data_source=None: None  # type: ignore[method-assign]  # easyfsl names it
for name in ("_get_confirm_token", "_save_response_content"):  # torchmeta wants them for downloads
    setattr(utils, name, None)
warnings.simplefilter("ignore")

import easyfsl.datasets  # noqa: E402
import easyfsl.methods  # noqa: E402
import easyfsl.samplers  # noqa: E402
import higher  # noqa: E402
import learn2learn as l2l  # noqa: E402
import torchmeta.modules as meta  # noqa: E402
import torchmeta.transforms  # noqa: E402
import torchmeta.utils.data  # noqa: E402
import torchopt  # noqa: E402
from torchmeta.utils.data.task import SubsetTask  # noqa: E402
from torchmeta.utils.gradient_based import gradient_update_parameters  # noqa: E402
from torchmeta.utils.prototype import get_prototypes, prototypical_loss  # noqa: E402

# torch asks for both since
SubsetTask.__getitems__ = lambda self, rows: [self[row] for row in rows]

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 5
SIZE, WIDTH = (1, 28, 28), 64
FORM = form(28, 1)
OURS = {  # metashot, with the two precisions of its network
    "metashot": Conv4Params(name="conv4", width=WIDTH, downsample="pool"),
    "bfloat16": Conv4Params(name="conv4", width=WIDTH, downsample="pool", precision="bfloat16"),
}
PARAMS = Path(__file__).parents[1] / "params.yaml"
N_WAY, K_SHOT, N_QUERY = 5, 1, 15
EPISODES, META_BATCH = 20, 4  # in one piece of work
TESTED, TESTED_SLOWLY = 10_000, 40
INNER_LR, OUTER_LR = 0.4, 1e-3

Work = Callable[[], object]
Task = tuple[Tensor, Tensor, Tensor, Tensor]  # support [M, 1, 28, 28], its labels, queries, their labels


@cache
def images(classes: int = 100, per_class: int = 20) -> SampleSet:
    """Noise in the shape of a data set; no speed here depends on what is in the pictures."""
    pixels = np.random.default_rng(0).integers(0, 256, (classes * per_class, *SIZE), dtype=np.uint8)
    labels = np.arange(classes).repeat(per_class)
    return SampleSet(pixels, labels, [str(number) for number in range(classes)], FORM, md5="", split="test")


class Pictures(easyfsl.datasets.FewShotDataset):
    """Single images by number, decoded from PNG when asked for, or tensors in memory."""

    def __init__(self, decoded: bool) -> None:
        data = images()
        self.labels, self.items = data.labels.tolist(), list(data.tensor().float() / 255)
        if decoded:
            self.items = [_png(pixels[0]) for pixels in data.tensor().numpy()]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        item = self.items[index]
        if isinstance(item, bytes):
            item = to_tensor(Image.open(io.BytesIO(item)))
        return item, self.labels[index]

    def __len__(self) -> int:
        return len(self.items)

    def get_labels(self) -> list[int]:
        """As easyfsl asks for them."""
        return self.labels


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


# Tasks, as each library draws them


def easyfsl_tasks(pictures: Pictures) -> Iterator[Task]:
    """With its sampler and a DataLoader."""
    sampler = easyfsl.samplers.TaskSampler(pictures, N_WAY, K_SHOT, N_QUERY, 10**6)
    loader = DataLoader(pictures, batch_sampler=sampler, collate_fn=sampler.episodic_collate_fn)
    for support, labels, query, query_labels, _ in loader:
        yield support, labels, query, query_labels


def learn2learn_tasks(pictures: Pictures) -> Iterator[Task]:
    """With its task data set and transforms."""
    data = l2l.data.MetaDataset(pictures)
    shots = K_SHOT + N_QUERY
    transforms = [
        l2l.data.transforms.FusedNWaysKShots(data, n=N_WAY, k=shots),
        l2l.data.transforms.LoadData(data),
        l2l.data.transforms.RemapLabels(data),
        l2l.data.transforms.ConsecutiveLabels(data),
    ]
    tasks = l2l.data.TaskDataset(data, task_transforms=transforms, num_tasks=10**6)
    support = torch.arange(N_WAY * shots) % shots < K_SHOT
    while True:
        pixels, labels = tasks.sample()
        yield pixels[support], labels[support], pixels[~support], labels[~support]


class Class(torchmeta.utils.data.Dataset):
    """The images of one class."""

    def __init__(self, index: int, pictures: Pictures, rows: Sequence[int]) -> None:
        super().__init__(index)
        self.pictures, self.rows = pictures, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.pictures[self.rows[index]][0], self.target_transform(self.index)


class Classes(torchmeta.utils.data.ClassDataset):
    """A data set for each class."""

    def __init__(self, pictures: Pictures) -> None:
        super().__init__(meta_train=True)
        labels = np.array(pictures.labels)
        self.of_class = [np.flatnonzero(labels == label).tolist() for label in range(labels.max() + 1)]
        self.pictures = pictures

    num_classes = property(lambda self: len(self.of_class))

    def __getitem__(self, index: int) -> Class:
        return Class(index, self.pictures, self.of_class[index])


def torchmeta_tasks(pictures: Pictures) -> Iterator[Task]:
    """With its combinations of classes and loader of batches, of one task each."""
    data = torchmeta.utils.data.CombinationMetaDataset(
        Classes(pictures),
        N_WAY,
        target_transform=torchmeta.transforms.Categorical(N_WAY),
        dataset_transform=torchmeta.transforms.ClassSplitter(
            shuffle=True, num_train_per_class=K_SHOT, num_test_per_class=N_QUERY
        ),
    )
    for batch in torchmeta.utils.data.BatchMetaDataLoader(data, batch_size=1, num_workers=0):
        yield batch["train"][0][0], batch["train"][1][0], batch["test"][0][0], batch["test"][1][0]


def gathered() -> Iterator[Task]:
    """By index from memory: what higher and torchopt are given, which have no loader."""
    pixels, manifest = images().tensor(), metashot_tasks(1000)
    for row in cycle(range(len(manifest))):
        e = manifest.gather(pixels, slice(row, row + 1))
        yield e.support[0], e.support_labels[0], e.query[0], e.query_labels[0]


def metashot_tasks(episodes: int) -> Manifest:
    """As metashot draws them."""
    return sample(images(), n_way=N_WAY, k_shot=K_SHOT, n_query=N_QUERY, episodes=episodes, seed=0)


TASKS = {"easyfsl": easyfsl_tasks, "learn2learn": learn2learn_tasks, "torchmeta": torchmeta_tasks}


def tasks_of(library: str, decoded: bool = False) -> Iterator[Task]:
    """Endless tasks of a library."""
    return TASKS[library](Pictures(decoded)) if library in TASKS else gathered()


# The network


def conv4(kit: Any = nn) -> Any:
    """Conv-4 with the modules of torch or of torchmeta, batch normalised by the batch."""
    blocks = []
    for channels in (SIZE[0], WIDTH, WIDTH, WIDTH):
        convolution = getattr(kit, "MetaConv2d", nn.Conv2d)(channels, WIDTH, 3, padding=1)
        norm = getattr(kit, "MetaBatchNorm2d", nn.BatchNorm2d)(WIDTH, track_running_stats=False)
        blocks.append(
            getattr(kit, "MetaSequential", nn.Sequential)(convolution, norm, nn.ReLU(), nn.MaxPool2d(2))
        )
    return getattr(kit, "MetaSequential", nn.Sequential)(*blocks, nn.Flatten())


def classifier(kit: Any = nn) -> Any:
    """Conv-4 under a linear classifier of zeros, as metashot's tasks begin with."""
    head = getattr(kit, "MetaLinear", nn.Linear)(WIDTH, N_WAY, bias=False)
    nn.init.zeros_(head.weight)
    return getattr(kit, "MetaSequential", nn.Sequential)(conv4(kit), head)


# Methods that train on one episode at a time


def metashot_method(name: str, ours: str, **changes: Any) -> base.Method:
    """One of metashot's, with the hyper-parameters of params.yaml but for some."""
    cls = methods.METHODS[name]
    usual = params.read(PARAMS, f"method.{name}", cls.params_type)
    hyper = dataclasses.replace(usual, lr=OUTER_LR, train_way=N_WAY, **changes)
    return cls(hyper, base.Problem(FORM, OURS[ours], len(images().class_names)))


def metashot_steps(method: base.Method, count: int) -> Work:
    """So many outer steps."""
    each = method.params.meta_batch
    manifest, pixels = metashot_tasks(count * each), images().tensor()
    optimizer = torch.optim.Adam(method.parameters(), lr=OUTER_LR)

    def work() -> None:
        for start in range(0, count * each, each):
            optimizer.zero_grad()
            method.backward(manifest.gather(pixels, slice(start, start + each)))
            optimizer.step()

    return work


def steps_of(tasks: Iterator[Task], network: nn.Module, loss: Callable[..., Tensor]) -> Work:
    """`EPISODES` steps with a library's tasks and loss."""
    optimizer = torch.optim.Adam(network.parameters(), lr=OUTER_LR)

    def work() -> None:
        for task in islice(tasks, EPISODES):
            optimizer.zero_grad()
            loss(*task).backward()
            optimizer.step()

    return work


def easyfsl_prototypical(tasks: Iterator[Task]) -> Work:
    """With its method."""
    method = easyfsl.methods.PrototypicalNetworks(conv4())

    def loss(support: Tensor, labels: Tensor, query: Tensor, query_labels: Tensor) -> Tensor:
        method.process_support_set(support, labels)
        return F.cross_entropy(method(query), query_labels)

    return steps_of(tasks, method, loss)


def learn2learn_prototypical(tasks: Iterator[Task]) -> Work:
    """As in its example: all images through the network at once, then means and distances."""
    network = conv4()

    def loss(support: Tensor, labels: Tensor, query: Tensor, query_labels: Tensor) -> Tensor:
        features = network(torch.cat([support, query]))
        order = labels.argsort()
        prototypes = features[: len(support)][order].view(N_WAY, K_SHOT, -1).mean(1)
        distances = (features[len(support) :, None] - prototypes).square().sum(-1)
        return F.cross_entropy(-distances, query_labels)

    return steps_of(tasks, network, loss)


def torchmeta_prototypical(tasks: Iterator[Task]) -> Work:
    """With its prototypes and loss."""
    network = conv4(meta)

    def loss(support: Tensor, labels: Tensor, query: Tensor, query_labels: Tensor) -> Tensor:
        prototypes = get_prototypes(network(support)[None], labels[None], N_WAY)
        return prototypical_loss(prototypes, network(query)[None], query_labels[None])

    return steps_of(tasks, network, loss)


def plain_method(tasks: Iterator[Task], name: str) -> Work:
    """metashot's loss over a network of plain torch."""
    method: Any = metashot_method(name, "metashot")
    method.backbone = conv4()

    def loss(*task: Tensor) -> Tensor:
        found: Tensor = method.loss(Episodes(*(part[None] for part in (*task, torch.arange(N_WAY)))))
        return found

    return steps_of(tasks, method, loss)


# MAML and Reptile: training


def maml_steps(tasks: Iterator[Task], network: Any, backward: Callable[..., object]) -> Work:
    """The same with a library's tasks and its way to adapt; the classifier is zero again for each task."""
    optimizer = torch.optim.Adam(network[0].parameters(), lr=OUTER_LR)

    def work() -> None:
        optimizer.zero_grad()
        for task in islice(tasks, META_BATCH):
            backward(*task)
        optimizer.step()

    return work


def higher_maml(tasks: Iterator[Task], steps: int, second_order: bool) -> Work:
    """With its inner loop context."""
    network = classifier()
    inner = torch.optim.SGD(network.parameters(), lr=INNER_LR)

    def backward(support: Tensor, labels: Tensor, query: Tensor, query_labels: Tensor) -> None:
        with higher.innerloop_ctx(
            network, inner, copy_initial_weights=False, track_higher_grads=second_order
        ) as (adapted, optimizer):
            for _ in range(steps):
                optimizer.step(F.cross_entropy(adapted(support), labels))
            loss = F.cross_entropy(adapted(query), query_labels) / META_BATCH
            if second_order:
                loss.backward()
            else:  # as it has it: the gradient at the adapted weights
                gradients = torch.autograd.grad(loss, adapted.parameters())
                for weight, gradient in zip(network.parameters(), gradients, strict=True):
                    weight.grad = gradient if weight.grad is None else weight.grad + gradient

    return maml_steps(tasks, network, backward)


def torchopt_maml(tasks: Iterator[Task], steps: int, second_order: bool) -> Work:
    """With its differentiable optimiser; it has no first order."""
    network = classifier()
    inner = torchopt.MetaSGD(network, lr=INNER_LR)

    def backward(support: Tensor, labels: Tensor, query: Tensor, query_labels: Tensor) -> None:
        weights, state = (
            torchopt.extract_state_dict(network, by="reference"),
            torchopt.extract_state_dict(inner),
        )
        for _ in range(steps):
            inner.step(F.cross_entropy(network(support), labels))
        (F.cross_entropy(network(query), query_labels) / META_BATCH).backward()
        torchopt.recover_state_dict(network, weights)
        torchopt.recover_state_dict(inner, state)

    return maml_steps(tasks, network, backward)


def learn2learn_maml(tasks: Iterator[Task], steps: int, second_order: bool) -> Work:
    """With its MAML."""
    method = l2l.algorithms.MAML(classifier(), lr=INNER_LR, first_order=not second_order)

    def backward(support: Tensor, labels: Tensor, query: Tensor, query_labels: Tensor) -> None:
        learner = method.clone()
        for _ in range(steps):
            learner.adapt(F.cross_entropy(learner(support), labels))
        (F.cross_entropy(learner(query), query_labels) / META_BATCH).backward()

    return maml_steps(tasks, method.module, backward)


def torchmeta_maml(tasks: Iterator[Task], steps: int, second_order: bool) -> Work:
    """With its modules and gradient update."""
    network = classifier(meta)

    def backward(support: Tensor, labels: Tensor, query: Tensor, query_labels: Tensor) -> None:
        weights = OrderedDict(network.meta_named_parameters())
        for _ in range(steps):
            loss = F.cross_entropy(network(support, params=weights), labels)
            weights = gradient_update_parameters(
                network, loss, params=weights, step_size=INNER_LR, first_order=not second_order
            )
        (F.cross_entropy(network(query, params=weights), query_labels) / META_BATCH).backward()

    return maml_steps(tasks, network, backward)


def plain_reptile(tasks: Iterator[Task]) -> Work:
    """A copy of the network for each task; the first of two inner steps moves the classifier alone."""
    network = classifier()

    def backward(support: Tensor, labels: Tensor, *_: Tensor) -> None:
        learner = copy.deepcopy(network)
        for moving in (learner[1], learner):
            inner = torch.optim.SGD(moving.parameters(), lr=INNER_LR)
            loss = F.cross_entropy(learner(support), labels)
            gradients = torch.autograd.grad(loss, list(moving.parameters()))
            for weight, gradient in zip(moving.parameters(), gradients, strict=True):
                weight.grad = gradient
            inner.step()
        for weight, adapted in zip(network[0].parameters(), learner[0].parameters(), strict=True):
            way = (weight - adapted).detach() / META_BATCH
            weight.grad = way if weight.grad is None else weight.grad + way

    return maml_steps(tasks, network, backward)


# Evaluation


def metashot_evaluation(method: base.Method, episodes: int) -> Work:
    """Test episodes from start to end."""
    return partial(correct_queries, method, images().tensor(), metashot_tasks(episodes))


def easyfsl_evaluation(tasks: Iterator[Task], episodes: int) -> Work:
    """Each episode embedded anew."""
    method = easyfsl.methods.PrototypicalNetworks(conv4()).eval()

    @torch.no_grad()
    def work() -> None:
        for support, labels, query, query_labels in islice(tasks, episodes):
            method.process_support_set(support, labels)
            _ = (method(query).argmax(-1) == query_labels).sum().item()

    return work


def learn2learn_evaluation(tasks: Iterator[Task], steps: int, episodes: int) -> Work:
    """Adapted task by task."""
    method = l2l.algorithms.MAML(classifier(), lr=INNER_LR, first_order=True)

    def work() -> None:
        for support, labels, query, query_labels in islice(tasks, episodes):
            learner = method.clone()
            for _ in range(steps):
                learner.adapt(F.cross_entropy(learner(support), labels))
            with torch.no_grad():
                _ = (learner(query).argmax(-1) == query_labels).sum().item()

    return work


# What is timed: by library


def train_prototypical(library: str, decoded: bool) -> Work:
    """`EPISODES` episodes."""
    if library in OURS:
        return metashot_steps(metashot_method("prototypical", library, meta_batch=1), EPISODES)
    makers = {
        "easyfsl": easyfsl_prototypical,
        "learn2learn": learn2learn_prototypical,
        "torchmeta": torchmeta_prototypical,
    }
    return makers[library](tasks_of(library, decoded))


def train_other(library: str, name: str) -> Work:
    """`EPISODES` episodes of a method that no library has as metashot has it."""
    if library in OURS:
        return metashot_steps(metashot_method(name, library, meta_batch=1), EPISODES)
    return plain_method(easyfsl_tasks(Pictures(False)), name)


def train_reptile(library: str) -> Work:
    """`META_BATCH` tasks."""
    if library in OURS:
        return metashot_steps(metashot_method("reptile", library, meta_batch=META_BATCH), 1)
    return plain_reptile(easyfsl_tasks(Pictures(False)))


def train_maml(library: str, steps: int, second_order: bool) -> Work:
    """`META_BATCH` tasks."""
    if library in OURS:
        return metashot_steps(maml_network(library, steps, second_order), 1)
    makers = {
        "learn2learn": learn2learn_maml,
        "torchmeta": torchmeta_maml,
        "higher": higher_maml,
        "torchopt": torchopt_maml,
    }
    return makers[library](tasks_of(library), steps, second_order)


def maml_network(ours: str, steps: int, second_order: bool) -> base.Method:
    """metashot's."""
    return metashot_method(
        "maml",
        ours,
        meta_batch=META_BATCH,
        inner_lr=INNER_LR,
        inner_steps=steps,
        test_lr=INNER_LR,
        test_steps=steps,
        query_norm="query",
        second_order=second_order,
    )


def test_prototypical(library: str) -> Work:
    """`TESTED` episodes of metashot's, `TESTED_SLOWLY` of the others'."""
    if library in OURS:
        return metashot_evaluation(metashot_method("prototypical", library), TESTED)
    return easyfsl_evaluation(tasks_of(library), TESTED_SLOWLY)


def test_maml(library: str, steps: int) -> Work:
    """`TESTED_SLOWLY` episodes."""
    if library in OURS:
        return metashot_evaluation(maml_network(library, steps, False), TESTED_SLOWLY)
    return learn2learn_evaluation(tasks_of(library), steps, TESTED_SLOWLY)


# Measuring


@cache
def made(maker: Callable[..., Work], *arguments: Any) -> Work:
    """A piece of work, made once in a process."""
    return maker(*arguments)


def timed(maker: Callable[..., Work], *arguments: Any) -> float:
    """Seconds that a piece of work takes."""
    return seconds(made(maker, *arguments))


def seconds(work: Work) -> float:
    """How long it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def convolution_peak() -> float:
    """The most FLOP/s that a convolution of the network's kind, or a wider one, reaches."""
    best = 0.0
    for channels, side, rows in ((64, 14, 80), (64, 28, 128), (128, 28, 64), (256, 14, 128)):
        layer = nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(memory_format=torch.channels_last)
        x = torch.randn(rows, channels, side, side).to(memory_format=torch.channels_last)
        with torch.no_grad():
            layer(x)
            fastest = min(seconds(partial(layer, x)) for _ in range(10))
        best = max(best, 2 * 9 * channels**2 * side**2 * rows / fastest)
    return best


def operations(maker: Callable[..., Work], *arguments: Any) -> int:
    """Floating-point operations of convolutions and matrix products in metashot's work, by torch's count."""

    def here(self: adaptation.Adaptation, function: Callable[..., Any], *batches: Tensor) -> Any:
        results = [function(*task) for task in zip(*batches, strict=True)]  # torch counts one thread
        return {key: torch.stack([result[key] for result in results]) for key in results[0]}

    threaded, adaptation.Adaptation.over_tasks = adaptation.Adaptation.over_tasks, here
    with FlopCounterMode(display=False) as counter:
        made(maker, *arguments)()
    adaptation.Adaptation.over_tasks = threaded
    return int(counter.get_total_flops())


LIBRARIES = ("easyfsl", "learn2learn", "torchmeta", "higher", "torchopt")
PLAIN = ("plain torch",)
COLUMNS = (*LIBRARIES, *PLAIN)
LINES: tuple[tuple[str, int, int, tuple[str, ...], Callable[..., Work], tuple[Any, ...]], ...] = (
    # name, how many metashot does at a time, how many the others, which others, what
    (
        "Prototypical, pictures decoded, episodes/s",
        EPISODES,
        EPISODES,
        LIBRARIES[:3],
        train_prototypical,
        (True,),
    ),
    ("Prototypical, in memory, episodes/s", EPISODES, EPISODES, LIBRARIES[:3], train_prototypical, (False,)),
    ("Matching, in memory, episodes/s", EPISODES, EPISODES, PLAIN, train_other, ("matching",)),
    ("Siamese, in memory, episodes/s", EPISODES, EPISODES, PLAIN, train_other, ("siamese",)),
    ("Transfer, in memory, episodes/s", EPISODES, EPISODES, PLAIN, train_other, ("transfer",)),
    ("Reptile, 2 steps, tasks/s", META_BATCH, META_BATCH, PLAIN, train_reptile, ()),
    ("MAML, 5 steps, second order, tasks/s", META_BATCH, META_BATCH, LIBRARIES[1:], train_maml, (5, True)),
    ("MAML, 1 step, second order, tasks/s", META_BATCH, META_BATCH, LIBRARIES[1:], train_maml, (1, True)),
    ("MAML, 5 steps, first order, tasks/s", META_BATCH, META_BATCH, LIBRARIES[1:4], train_maml, (5, False)),
    ("MAML, 1 step, first order, tasks/s", META_BATCH, META_BATCH, LIBRARIES[1:4], train_maml, (1, False)),
    (
        f"test Prototypical, {TESTED:,} episodes/s",
        TESTED,
        TESTED_SLOWLY,
        LIBRARIES[:1],
        test_prototypical,
        (),
    ),
    ("test MAML, 5 steps, episodes/s", TESTED_SLOWLY, TESTED_SLOWLY, LIBRARIES[1:2], test_maml, (5,)),
)


def main() -> None:
    """Measure everything, and print one Markdown table."""
    context = multiprocessing.get_context("spawn")
    ours = ProcessPoolExecutor(1, context, runtime.keep_freed_memory)
    theirs = ProcessPoolExecutor(1, context)
    peak = ours.submit(convolution_peak).result()
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, medians of {ROUNDS} rounds, "
        f"convolution peak {peak / 1e9:,.0f} GFLOP/s.\n\n"
        f"| | metashot | of the peak | over the fastest | in bfloat16 | {' | '.join(COLUMNS)} |\n"
        f"|:--|{'--:|' * (4 + len(COLUMNS))}"
    )
    for name, count, others_count, others, maker, arguments in LINES:
        taken: dict[str, list[float]] = {library: [] for library in (*OURS, *others)}
        for turn in range(ROUNDS + 1):
            for library in list(taken)[:: -1 if turn % 2 else 1]:
                pool = ours if library in OURS else theirs
                taken[library].append(pool.submit(timed, maker, library, *arguments).result())
        medians = {
            library: statistics.median(times[1:]) for library, times in taken.items()
        }  # the first warms up
        rates = {lib: (count if lib in OURS else others_count) / s for lib, s in medians.items()}
        mine, shorter = (rates.pop(library) for library in OURS)
        fastest = max(rates.values())
        share = ours.submit(operations, maker, "metashot", *arguments).result() / medians["metashot"] / peak
        cells = [f"{rates[lib]:,.1f} ({mine / rates[lib]:.1f}x)" if lib in rates else "" for lib in COLUMNS]
        in_all = [f"{mine:,.1f}", f"{share:.0%}", f"**{mine / fastest:.1f}x**", f"{shorter / fastest:.1f}x"]
        print(f"| {' | '.join([name, *in_all, *cells])} |", flush=True)


if __name__ == "__main__":
    main()
