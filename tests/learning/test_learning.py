"""Episodes, the outer loop and the evaluation."""

import dataclasses
import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from metashot.data.kinds import images
from metashot.data.store import SampleSet
from metashot.errors import MetashotError
from metashot.learning import evaluation, training
from metashot.learning.evaluation import correct_in_each, correct_queries
from metashot.learning.making import Progress
from metashot.learning.models import methods, runtime
from metashot.learning.models.backbones.conv4 import Conv4Params
from metashot.learning.models.episodes import Episodes, Manifest, load_manifest, sample
from metashot.learning.models.methods.base import Method, Problem
from metashot.learning.statistics import mean_and_interval
from metashot.learning.training import POINTS, VALIDATIONS, train, without_compile_wrappers

FORM = images.form(16, 1)
BACKBONE = Conv4Params(name="conv4", width=8, downsample="pool")
HYPER = {
    "prototypical": {"lr": 5e-3, "meta_batch": 2, "train_way": 5, "temperature": 1.0},
    "maml": {
        "lr": 5e-3,
        "meta_batch": 2,
        "train_way": 5,
        "inner_lr": 0.3,
        "inner_steps": 1,
        "test_lr": 0.3,
        "test_steps": 2,
        "second_order": True,
        "query_norm": "query",
    },
    "reptile": {
        "lr": 5e-3,
        "meta_batch": 2,
        "train_way": 5,
        "inner_lr": 0.1,
        "inner_steps": 5,
        "test_lr": 0.1,
        "test_steps": 5,
        "inner_shot": 2,
        "query_norm": "support",
    },
}


def image_set(classes: int = 12, per_class: int = 8, seed: int = 0, size: int = 16) -> SampleSet:
    """Classes are noisy copies of one random picture each, so they can be learnt."""
    g = torch.Generator().manual_seed(seed)
    pictures = torch.rand(classes, 1, 1, size, size, generator=g)
    noisy = pictures + 0.25 * torch.randn(classes, per_class, 1, size, size, generator=g)
    images = (noisy.clamp(0, 1) * 255).to(torch.uint8).flatten(0, 1).numpy()
    labels = np.arange(classes).repeat(per_class)
    return SampleSet(images, labels, [f"class{i}" for i in range(classes)], FORM, f"md5-{seed}", "test")


def draw(images: SampleSet, episodes: int = 6, seed: int = 0, **shape: int) -> Manifest:
    protocol = {"n_way": 5, "k_shot": 1, "n_query": 3} | shape
    return sample(images, episodes=episodes, seed=seed, **protocol)


# --- episodes


def test_episodes_hold_distinct_classes_and_distinct_images_of_them() -> None:
    images = image_set()
    manifest = draw(images, episodes=50, k_shot=2)
    for row in range(50):
        assert len(set(manifest.classes[row])) == 5
        used = np.concatenate([manifest.support[row], manifest.query[row]], axis=1)
        assert len(set(used.ravel())) == used.size
        labels = images.labels[used]
        assert (labels == manifest.classes[row][:, None]).all()


def test_classes_and_images_are_drawn_evenly() -> None:
    manifest = draw(image_set(), episodes=4000)
    classes = np.bincount(manifest.classes.ravel(), minlength=12)
    assert stats.chisquare(classes).pvalue > 1e-4
    support = np.bincount(manifest.support.ravel() % 8, minlength=8)
    assert stats.chisquare(support).pvalue > 1e-4


def test_classes_of_unequal_size_are_drawn_within_their_bounds() -> None:
    full = image_set(classes=6)
    keep = np.concatenate([np.arange(8 * c, 8 * c + 4 + c % 3) for c in range(6)])
    images = dataclasses.replace(full, samples=full.samples[keep], labels=full.labels[keep])
    manifest = draw(images, episodes=200, n_way=6)
    used = np.concatenate([manifest.support, manifest.query], axis=2)
    assert (images.labels[used] == manifest.classes[..., None]).all()


def test_the_same_seed_draws_the_same_episodes_and_another_does_not() -> None:
    images = image_set()
    assert np.array_equal(draw(images, seed=1).query, draw(images, seed=1).query)
    assert not np.array_equal(draw(images, seed=1).query, draw(images, seed=2).query)


def test_too_few_images_or_classes_name_the_class_and_the_need() -> None:
    with pytest.raises(
        MetashotError, match="class 'class0' of split 'test' has 8 samples: too few for 5 support"
    ):
        draw(image_set(), k_shot=5, n_query=4)
    with pytest.raises(MetashotError, match="has 4 classes: too few for 5-way"):
        draw(image_set(classes=4))


def test_a_manifest_survives_its_file_and_refuses_other_data(tmp_path: Path) -> None:
    images = image_set()
    manifest, path = draw(images), tmp_path / "test.parquet"
    manifest.save(path)
    loaded = load_manifest(path, images)
    for field in dataclasses.fields(Manifest):
        assert np.array_equal(getattr(loaded, field.name), getattr(manifest, field.name))
    first = path.read_bytes()
    manifest.save(path)
    assert path.read_bytes() == first
    with pytest.raises(MetashotError, match="made for other data"):
        load_manifest(path, image_set(seed=1))
    with pytest.raises(MetashotError, match="made for other data"):
        load_manifest(path, dataclasses.replace(images, split="train"))
    with pytest.raises(MetashotError, match="no such episode manifest"):
        load_manifest(tmp_path / "none.parquet", images)
    path.write_bytes(first[: len(first) // 2])
    with pytest.raises(MetashotError, match="damaged"):
        load_manifest(path, images)


def test_gathered_tensors_are_the_images_of_the_rows_in_the_order_of_the_labels() -> None:
    images = image_set()
    manifest = draw(images, k_shot=2)
    e = manifest.gather(images.tensor(), np.array([4, 1]))
    assert e.support.shape == (2, 10, 1, 16, 16)
    assert e.query.shape == (2, 15, 1, 16, 16)
    for b, row in enumerate([4, 1]):
        for i in range(15):
            picture = images.tensor()[manifest.query[row].ravel()[i]].float() / 255
            assert torch.equal(e.query[b, i], picture)
            assert images.labels[manifest.query[row].ravel()[i]] == e.classes[b, e.query_labels[b, i]]


def test_narrowing_cuts_episodes_into_disjoint_parts() -> None:
    manifest = draw(image_set(), n_way=11, episodes=3)
    narrow = manifest.narrow(5)
    assert len(narrow) == 6
    assert np.array_equal(narrow.classes.reshape(3, 10), manifest.classes[:, :10])
    assert np.array_equal(narrow.query[3], manifest.query[1, 5:10])
    with pytest.raises(MetashotError, match="12-way episodes cannot be cut"):
        manifest.narrow(12)


def test_the_stream_visits_every_episode_once_in_a_pass_in_a_seeded_order() -> None:
    manifest = draw(image_set(), episodes=10)
    stream, again = manifest.stream(4, seed=3), manifest.stream(4, seed=3)
    rows = [next(stream) for _ in range(5)]
    assert sorted(np.concatenate(rows)) == sorted([*range(10), *range(10)])
    assert sorted(np.concatenate(rows)[:10]) == list(range(10))
    assert all(np.array_equal(a, next(again)) for a in rows)


# --- evaluation


def test_interval_equals_the_normal_one_of_scipy() -> None:
    accuracy = np.random.default_rng(0).random(1000)
    mean, half = mean_and_interval(accuracy)
    low, high = stats.norm.interval(0.95, loc=accuracy.mean(), scale=stats.sem(accuracy))
    assert math.isclose(mean - half, low, rel_tol=1e-4)
    assert math.isclose(mean + half, high, rel_tol=1e-4)


def build(name: str, seed: int = 0, **changes: float) -> Method:
    cls = methods.METHODS[name]
    with runtime.reproducible(seed):
        return cls(cls.params_type(**HYPER[name] | changes), Problem(FORM, BACKBONE, 12))


@pytest.mark.parametrize("name", HYPER)
def test_counts_equal_predicting_each_episode_by_itself(name: str) -> None:
    images = image_set()
    method = build(name)
    manifest = draw(images, episodes=9)
    counts = correct_queries(method, images.tensor(), manifest)
    method.eval()
    for row in range(9):
        e = manifest.gather(images.tensor(), slice(row, row + 1))
        answer = method.predict(e.support, e.support_labels, e.query, 5).argmax(-1)
        assert int((answer == e.query_labels).sum()) == counts[row]


def test_pure_noise_is_answered_by_chance() -> None:
    # Many images: the episodes share them, so a few would lean one way by chance.
    g = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (40 * 20, 1, 16, 16), dtype=torch.uint8, generator=g)
    noise = dataclasses.replace(image_set(classes=40, per_class=20), samples=pixels.numpy())
    counts = correct_queries(build("prototypical"), noise.tensor(), draw(noise, episodes=300))
    assert abs(counts.mean() / 15 - 0.2) < 0.03


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_uses_running_statistics_and_puts_the_mode_back(training: bool) -> None:
    images = image_set()
    method = build("prototypical").train(training)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    gradients = []
    method.backbone.register_forward_hook(lambda *_: gradients.append(torch.is_grad_enabled()))
    correct_queries(method, images.tensor(), draw(images))
    assert gradients == [False]
    assert all(module.training == training for module in method.modules())
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
    assert all(parameter.grad is None for parameter in method.parameters())


@pytest.mark.parametrize("name", ["prototypical", "maml"])
def test_several_manifests_and_many_episodes_are_counted_as_each_by_itself(name: str) -> None:
    """More samples and episodes than are computed at once."""
    images = image_set(classes=20, per_class=20)
    method = build(name)
    manifests = [draw(images, episodes=130, n_query=1), draw(images, episodes=7, n_way=3, seed=1)]
    together = correct_in_each(method, images.tensor(), manifests)
    assert [len(counts) for counts in together] == [130, 7]
    for manifest, counts in zip(manifests, together, strict=True):
        method.eval()
        e = manifest.gather(images.tensor(), slice(None))
        answer = method.predict(e.support, e.support_labels, e.query, manifest.n_way).argmax(-1)
        expected = (answer == e.query_labels).sum(1).numpy()
        assert np.abs(expected - counts).sum() <= 2  # of hundreds: ties, which rounding decides


def test_the_first_episodes_of_a_manifest() -> None:
    manifest = draw(image_set(), episodes=9)
    head = manifest.head(4)
    assert len(head) == 4
    assert np.array_equal(head.query, manifest.query[:4])
    assert np.array_equal(head.support, manifest.support[:4])
    assert (head.n_way, head.k_shot, head.n_query, head.queries) == (5, 1, 3, 15)


# --- training


def run(
    name: str, steps: int = 20, seed: int = 0, **changes: float
) -> tuple[dict[str, Tensor], Progress, list]:
    method = build(name, seed, **changes)
    images, val = image_set(seed=0), image_set(seed=1)
    points: list = []
    with runtime.reproducible(seed):
        progress = train(
            method,
            images,
            draw(images, episodes=30, n_way=5),
            val,
            draw(val, episodes=10),
            steps=steps,
            seed=seed,
            log=lambda step, values: points.append((step, values)),
        )
    return {k: v.clone() for k, v in method.state_dict().items()}, progress, points


@pytest.mark.parametrize("name", ["prototypical", "maml"])
def test_what_is_too_large_to_keep_is_answered_in_parts_with_the_same_answers(monkeypatch, name) -> None:
    images, method = image_set(seed=1), build(name)
    manifests = [draw(images, episodes=7), draw(images, episodes=5, k_shot=2)]
    kept = correct_in_each(method, images.tensor(), manifests)
    monkeypatch.setattr(evaluation, "EMBEDDED_BYTES", 1)
    monkeypatch.setattr(evaluation, "CHUNK_BYTES", 1 << 14)  # a few episodes at once
    for first, second in zip(kept, correct_in_each(method, images.tensor(), manifests), strict=True):
        assert np.array_equal(first, second)


@pytest.mark.parametrize("name", HYPER)
def test_training_gives_the_same_bits_whatever_ran_before(name: str) -> None:
    first, *_ = run(name)
    torch.manual_seed(99)
    torch.rand(1000)
    np.random.default_rng().random(10)
    run("prototypical", seed=5, steps=3)
    second, *_ = run(name)
    assert all(torch.equal(first[key], second[key]) for key in first)
    other, *_ = run(name, seed=1)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_training_gives_the_same_bits_in_another_process() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); from test_learning import digest, run; "
    code += "print(digest(run('maml')[0]))"
    there = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)], capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == digest(run("maml")[0])


def test_the_outer_step_is_that_of_torch() -> None:
    def steps(cls: type[torch.optim.Optimizer]) -> tuple[Tensor, dict]:
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 7))
        outer = cls([weight], lr=0.1)
        for _ in range(5):
            outer.zero_grad()
            (weight**4).sum().backward()
            outer.step()
        return weight, outer.state_dict()

    (ours, state), (theirs, expected) = (
        steps(without_compile_wrappers(torch.optim.Adam)),
        steps(torch.optim.Adam),
    )
    assert torch.equal(ours, theirs)
    assert not ours.grad.requires_grad
    assert str(state) == str(expected)


def digest(state: dict[str, Tensor]) -> str:
    return hashlib.sha256(b"".join(v.numpy().tobytes() for v in state.values())).hexdigest()


@pytest.mark.parametrize("name", HYPER)
def test_training_learns(name: str) -> None:
    images = image_set(seed=0)
    manifest = draw(images, episodes=200, seed=7)
    method = build(name)
    untrained = correct_queries(method, images.tensor(), manifest).mean() / 15
    method.load_state_dict(run(name, steps=60)[0])
    assert correct_queries(method, images.tensor(), manifest).mean() / 15 > untrained + 0.35


def test_the_best_validated_weights_are_kept_and_the_curve_tells() -> None:
    _, progress, points = run("prototypical", steps=40)
    assert len(progress.curve) == 1 + VALIDATIONS
    best = max(accuracy for *_, accuracy in progress.curve)
    assert progress.best_step == next(step for step, _, accuracy in progress.curve if accuracy == best)
    measured = [(step, values["val_accuracy"]) for step, values in points if "val_accuracy" in values]
    assert measured == [(step, accuracy) for step, _, accuracy in progress.curve]


def test_a_training_that_makes_it_worse_ends_as_it_began() -> None:
    method = build("prototypical")
    before = {k: v.clone() for k, v in method.state_dict().items()}
    images, val = image_set(seed=0), image_set(seed=1)
    learn = method.backward

    def harmful(episodes: Episodes) -> Tensor:
        loss = learn(episodes)
        for parameter in method.parameters():
            parameter.data.zero_()  # so that all samples are alike
        return loss

    method.backward = harmful
    progress = train(
        method,
        images,
        draw(images, episodes=30),
        val,
        draw(val, episodes=10),
        steps=40,
        seed=0,
        log=lambda step, values: None,
    )
    assert progress.best_step == 0
    assert progress.best_accuracy == progress.curve[0][2] > max(a for *_, a in progress.curve[1:])
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())


def test_kept_weights_have_the_best_validation_accuracy() -> None:
    state, progress, _ = run("prototypical", steps=40)
    method = build("prototypical")
    method.load_state_dict(state)
    val = image_set(seed=1)
    accuracy = correct_queries(method, val.tensor(), draw(val, episodes=10)).mean() / 15
    assert math.isclose(accuracy, max(a for *_, a in progress.curve))


def test_the_learning_rate_falls_along_half_a_cosine() -> None:
    *_, points = run("prototypical", steps=50)
    assert points[0] == (0, {"val_accuracy": pytest.approx(points[0][1]["val_accuracy"])})
    for step, values in points[1:]:
        assert math.isclose(
            values["lr"], 5e-3 * (1 + math.cos(math.pi * (step - 1) / 50)) / 2, rel_tol=1e-6, abs_tol=1e-12
        )


def test_fewer_steps_than_validations_still_validate_the_last() -> None:
    _, progress, _ = run("prototypical", steps=3)
    assert [step for step, *_ in progress.curve] == [0, 1, 2, 3]


def test_points_are_means_of_the_losses_since_the_last_one() -> None:
    images, val, losses, points = image_set(seed=0), image_set(seed=1), [], {}
    method = build("prototypical")
    learn = method.backward
    method.backward = lambda episodes: losses.append(learn(episodes)) or losses[-1]
    with runtime.reproducible(0):
        progress = train(
            *(method, images, draw(images, episodes=30), val, draw(val, episodes=5)),
            **{"steps": 250, "seed": 0, "log": points.__setitem__},
        )
    assert len(losses) == progress.step == 250
    assert len(points) == 1 + POINTS == 101
    assert list(points) == [-(-250 * point // 100) for point in range(101)]  # evenly, up to the last
    assert points[0] == {"val_accuracy": progress.curve[0][2]}
    assert progress.curve[0][1] is None  # no step, no loss
    since = 0
    for step, values in list(points.items())[1:]:
        mean = sum(losses[since:step]) / (step - since)
        assert math.isclose(values["train_loss"], float(mean), rel_tol=1e-5)
        since = step
    assert [step for step, *_ in progress.curve] == list(range(0, 251, 25))
    for step, loss, _ in progress.curve[1:]:
        assert math.isclose(loss, float(sum(losses[step - 25 : step])) / 25, rel_tol=1e-5)
    assert [point["step"] for point in progress.journal] == list(points)
    assert [point["metrics"] for point in progress.journal] == list(points.values())


def test_time_for_training_is_counted_without_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only what is timed moves: a second for a step, ten for a validation."""
    clock = [1000.0]
    monkeypatch.setattr(training.time, "perf_counter", lambda: clock[0])
    validate = training.correct_queries

    def slow_validation(*arguments: object) -> np.ndarray:
        clock[0] += 10
        return validate(*arguments)

    monkeypatch.setattr(training, "correct_queries", slow_validation)
    method = build("prototypical")
    learn = method.backward

    def slow_step(episodes: object) -> Tensor:
        clock[0] += 1
        return learn(episodes)

    method.backward = slow_step
    images, val, points = image_set(seed=0), image_set(seed=1), {}
    progress = train(
        *(method, images, draw(images, episodes=30), val, draw(val, episodes=5)),
        **{"steps": 20, "seed": 0, "log": points.__setitem__},
    )
    assert progress.training_seconds == 20
    assert progress.seconds == 20 + (1 + VALIDATIONS) * 10
    assert progress.episodes_per_s == 2  # a step has two
    assert {points[step]["episodes_per_s"] for step in points if step} == {2}


@pytest.mark.parametrize(("train_way", "classes"), [(3, 3), (5, 5), (40, 11)])
def test_training_episodes_have_the_classes_of_the_method(train_way: int, classes: int) -> None:
    """Where the manifest has fewer, as many as it has."""
    images, val, ways = image_set(seed=0), image_set(seed=1), []
    method = build("prototypical", train_way=train_way)
    learn = method.backward
    method.backward = lambda episodes: ways.append(episodes.n_way) or learn(episodes)
    train(
        *(method, images, draw(images, episodes=30, n_way=11), val, draw(val, episodes=5)),
        **{"steps": 3, "seed": 0, "log": lambda *_: None},
    )
    assert ways == [classes] * 3


def test_training_episodes_are_varied_and_those_of_the_validation_are_not() -> None:
    images, val, varied = image_set(seed=0), image_set(seed=1), []
    method = build("prototypical")

    def darker(episodes: Episodes) -> Episodes:
        varied.append(len(episodes.support))
        return dataclasses.replace(episodes, support=0 * episodes.support, query=0 * episodes.query)

    progress = train(
        *(method, images, draw(images, episodes=30), val, draw(val, episodes=50)),
        **{"steps": 4, "seed": 0, "log": lambda *_: None, "augment": darker},
    )
    assert varied == [2] * 4
    assert all(math.isclose(loss, math.log(5), rel_tol=1e-4) for _, loss, _ in progress.curve[1:])
    assert max(accuracy for *_, accuracy in progress.curve) > 0.3


@pytest.mark.parametrize("lr", [1e20, 1e30])
def test_divergence_stops_with_the_step_and_the_remedy(lr: float) -> None:
    with pytest.raises(MetashotError, match=r"training diverged: .* by step \d+ of 20 .*: lower lr"):
        run("maml", lr=lr)


def test_the_learning_core_imports_without_the_pipeline_packages() -> None:
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        refused = 'dvc prefect mlflow pydantic rich ruamel typer'\n"
        "        if name.split('.')[0] in refused.split():\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from metashot.learning import training, choosing, features, evaluation, statistics, checkpoints\n"
        "from metashot.learning.models import backbones, methods, runtime, episodes\n"
        "from metashot.data import store\n"
        "methods.METHODS.check()\n"
        "backbones.BACKBONES.check()\n"
        "print('ok')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "ok\n", done.stderr


def test_model_json_names_what_to_build(tmp_path: Path) -> None:
    methods.save(build("maml"), tmp_path)
    about = json.loads((tmp_path / "model.json").read_text())
    assert about == {
        "format": 5,
        "method": "maml",
        "hyperparameters": HYPER["maml"],
        "form": {"kind": "images", "shape": [1, 16, 16], "dtype": "uint8", "decoding": {}},
        "backbone": {"name": "conv4", "width": 8, "downsample": "pool", "precision": "float32"},
    }
