"""Methods without training against scikit-learn and closed forms; what is chosen, and from what."""

import numpy as np
import pytest
import small_models
import torch
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from torch import Tensor
from torch.nn import functional as F

from metashot.data import Form
from metashot.data.store import SampleSet
from metashot.learning.choosing import choose, make
from metashot.learning.evaluation import correct_queries
from metashot.learning.making import Order
from metashot.learning.models import methods
from metashot.learning.models.backbones.identity import IdentityParams
from metashot.learning.models.episodes import Manifest, sample
from metashot.learning.models.methods.base import Problem
from metashot.learning.models.methods.training_free import TrainingFree

WIDTH = 12
FORM = Form("sentences", (WIDTH,), "float32", {})
COUNTS = {"alike": (3, 3, 3, 3), "unequal": (1, 2, 6, 3), "one of each": (1, 1, 1, 1)}


def build(name: str, **changes: object) -> TrainingFree:
    method = small_models.build(name, Problem(FORM, IdentityParams(name="identity")), **changes)
    assert isinstance(method, TrainingFree)
    return method.eval()


def drawn(counts: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Support, labels and queries of one episode; double."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    centres = torch.randn(len(counts), WIDTH, generator=g, dtype=torch.double)
    support = centres[labels] + torch.randn(len(labels), WIDTH, generator=g, dtype=torch.double)
    return support, labels, torch.randn(40, WIDTH, generator=g, dtype=torch.double)


def vectors(split: str, seed: int, classes: int = 9, per_class: int = 12, spread: float = 1.0) -> SampleSet:
    """Classes are clouds around points that are far from the origin."""
    rng = np.random.default_rng(seed)
    centres = 7 + rng.normal(size=(classes, 1, WIDTH))
    samples = centres + spread * rng.normal(size=(classes, per_class, WIDTH))
    labels = np.arange(classes).repeat(per_class)
    names = [f"class{number}" for number in range(classes)]
    return SampleSet(samples.reshape(-1, WIDTH).astype(np.float32), labels, names, FORM, f"md5-{seed}", split)


def draw(samples: SampleSet, episodes: int = 30) -> Manifest:
    return sample(samples, n_way=4, k_shot=2, n_query=5, episodes=episodes, seed=0)


# --- each method


def test_features_are_centred_by_the_training_split_and_of_length_one() -> None:
    train = vectors("train", 0)
    method = build("centroid")
    method.fit([torch.from_numpy(train.samples[:50]), torch.from_numpy(train.samples[50:])])
    mean = train.samples.astype(np.float64).mean(0)
    np.testing.assert_allclose(method.centre, mean, rtol=1e-6)
    some = vectors("test", 1).samples[:8]
    shifted = some - mean
    expected = shifted / np.linalg.norm(shifted, axis=1, keepdims=True)
    np.testing.assert_allclose(method.embed(torch.from_numpy(some)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
def test_the_centroid_is_that_of_scikit_learn(counts: tuple[int, ...]) -> None:
    support, labels, query = drawn(counts)
    scores = build("centroid").double().scores(support[None], labels[None], query[None], 4)[0]
    expected = NearestCentroid().fit(support, labels)
    np.testing.assert_array_equal(scores.argmax(1), expected.predict(query))
    means = torch.from_numpy(expected.centroids_)
    torch.testing.assert_close(
        scores - query.square().sum(1, keepdim=True), -torch.cdist(query, means).square()
    )


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
def test_the_nearest_neighbour_is_that_of_scikit_learn(counts: tuple[int, ...]) -> None:
    support, labels, query = (F.normalize(x, dim=-1) if x.is_floating_point() else x for x in drawn(counts))
    scores = build("neighbour").double().scores(support[None], labels[None], query[None], 4)[0]
    expected = KNeighborsClassifier(1, metric="cosine").fit(support, labels)
    np.testing.assert_array_equal(scores.argmax(1), expected.predict(query))
    distances = expected.kneighbors(query)[0][:, 0]
    np.testing.assert_allclose(scores.amax(1), 1 - distances, rtol=1e-9)


@pytest.mark.parametrize("strength", [0.02, 1.0, 30.0])
@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
def test_the_ridge_with_its_bias_is_that_of_scikit_learn(counts: tuple[int, ...], strength: float) -> None:
    support, labels, query = drawn(counts)
    method = build("ridge").double()
    method.set({"strength": strength})
    scores = method.scores(support[None], labels[None], query[None], 4)[0]
    weights = torch.tensor([min(counts) / counts[label] for label in labels], dtype=torch.double)
    targets = F.one_hot(labels, 4).double()
    expected = Ridge(alpha=strength, solver="svd").fit(support, targets, sample_weight=weights)
    np.testing.assert_allclose(scores, expected.predict(query), rtol=1e-8, atol=1e-10)


def test_episodes_are_answered_each_by_itself() -> None:
    one, other = drawn((2, 2, 2, 2)), drawn((2, 2, 2, 2), seed=1)
    for name in small_models.FREE:
        method = build(name).double()
        support, labels, query = (torch.stack(pair) for pair in zip(one, other, strict=True))
        together = method.scores(support, labels, query, 4)
        for row, (s, y, q) in enumerate((one, other)):
            torch.testing.assert_close(together[row], method.scores(s[None], y[None], q[None], 4)[0])


# --- what is chosen


def test_the_most_accurate_strength_is_chosen_in_validation_and_the_scale_by_cross_entropy() -> None:
    train, val = vectors("train", 0), vectors("val", 1, spread=1.6)
    manifest = draw(val)
    strengths = (1e-6, 0.3, 1e6)
    method, tried, progress = choose([build("ridge", strengths=strengths)], train, val, manifest)
    accuracies = {}
    scale = float(method.scale)
    for strength in strengths:
        method.set({"strength": strength})
        correct = correct_queries(method, torch.from_numpy(val.samples), manifest)
        accuracies[strength] = correct.sum() / (len(manifest) * manifest.queries)
    assert {t.values["strength"]: pytest.approx(t.accuracy) for t in tried} == accuracies
    assert [t.accuracy for t in tried] == sorted(accuracies.values(), reverse=True)
    best = max(strengths, key=accuracies.__getitem__)
    method.set(tried[0].values)
    assert method.chosen == {"strength": pytest.approx(best), "scale": pytest.approx(scale, rel=1e-5)}
    assert progress.curve == [(0, None, tried[0].accuracy)]
    assert progress.journal[0]["metrics"] == {"val_accuracy": tried[0].accuracy}

    def loss(factor: float) -> float:
        method.set({"scale": scale * factor})
        e = manifest.gather(torch.from_numpy(val.samples), slice(None))
        answers = method.predict(e.support, e.support_labels, e.query, 4)
        return float(F.nll_loss(answers.log().flatten(0, 1), e.query_labels.flatten()))

    assert loss(1.0) < min(loss(0.7), loss(1.4))


def test_features_are_chosen_in_validation_and_test_classes_are_never_seen() -> None:
    train, val = vectors("train", 0), vectors("val", 1)
    candidates = [build("centroid"), build("centroid")]
    candidates[0].backbone.forward = lambda x, stats_rows=None: torch.ones_like(x)  # tells nothing apart
    method, tried, _ = choose(candidates, train, val, draw(val))
    assert method is candidates[1]
    assert tried[0].accuracy > 0.6 > tried[1].accuracy
    assert str(tried[0]).startswith("identity: validation ")


def test_among_equals_the_first_candidate_is_chosen() -> None:
    train, val = vectors("train", 0), vectors("val", 1)
    candidates = [build("neighbour"), build("neighbour")]
    assert choose(candidates, train, val, draw(val))[0] is candidates[0]


def test_a_model_is_made_of_the_features_of_its_kind_and_survives_its_files(tmp_path, capsys) -> None:
    train, val = vectors("train", 0), vectors("val", 1)
    manifest = draw(val)
    order = Order(
        samples=train,
        manifest=draw(train),
        val_samples=val,
        val_manifest=manifest,
        backbone=None,
        augment=lambda episodes: episodes,
        steps=0,
        seed=0,
        device=torch.device("cpu"),
        log=lambda step, values: None,
        checkpoint=None,
    )
    cls = methods.METHODS["ridge"]
    method, _ = make(cls, cls.params_type(**small_models.FREE["ridge"]), order)
    assert capsys.readouterr().out.count("identity, strength") == 2
    methods.save(method, tmp_path)
    loaded = methods.load(tmp_path)
    assert loaded.chosen == method.chosen
    assert loaded.parameter_count() == 0
    some = torch.from_numpy(val.samples)
    counts = [correct_queries(model, some, manifest) for model in (method, loaded)]
    np.testing.assert_array_equal(*counts)
