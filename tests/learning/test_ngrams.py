"""The n-grams network against EmbeddingBag, finite differences and tasks one by one."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from metashot.data import Form
from metashot.errors import MetashotError
from metashot.learning.models import methods, runtime
from metashot.learning.models.backbones.ngrams import Ngrams, NgramsParams
from metashot.learning.models.episodes import Episodes
from metashot.learning.models.methods import adaptation, base

NETWORK = NgramsParams(name="ngrams", buckets=50, width=6, drop_rate=0.0)


def numbered(rows: int, length: int = 20, seed: int = 0) -> Tensor:
    """Texts of 1 to ``length`` n-grams."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 2**31 - 1, (rows, length), dtype=torch.int32, generator=generator)
    counts = torch.randint(1, length + 1, (rows, 1), generator=generator)
    return ids * (torch.arange(length) < counts)


def network(**changes: object) -> Ngrams:
    with runtime.reproducible(0):
        built = replace(NETWORK, **changes).build((20,)).double()
    assert isinstance(built, Ngrams)
    return built


def test_features_are_the_normalised_mean_that_embedding_bag_computes() -> None:
    net, x = network(), numbered(30)
    bag = nn.EmbeddingBag(51, 6, mode="mean", padding_idx=0).double()
    with torch.no_grad():
        bag.weight[1:] = net.table
        mean = bag((x.long() % 50 + 1) * (x != 0))
    spread = mean.std(1, keepdim=True, correction=0)
    expected = (mean - mean.mean(1, keepdim=True)) / spread * 4 / 6**0.5
    torch.testing.assert_close(net(x), expected)
    torch.testing.assert_close(net(x).norm(dim=1), torch.full((30,), 4.0).double())


def test_the_table_starts_small() -> None:
    table = network(buckets=4000).table
    assert abs(float(table.detach().std()) - 0.02) < 0.001
    assert abs(float(table.mean())) < 0.001


def test_padding_other_texts_and_order_change_nothing() -> None:
    net, x = network(), numbered(9)
    padded = torch.cat([x, torch.zeros(9, 13, dtype=torch.int32)], dim=1)
    torch.testing.assert_close(net(padded), net(x))
    torch.testing.assert_close(net(x[4:5]), net(x)[4:5])
    torch.testing.assert_close(net(x.flip(1), 3), net(x))


def test_ngrams_are_dropped_in_training_alone_and_on_average_as_often_as_said() -> None:
    net, x = network(drop_rate=0.4), numbered(9)
    whole = net.eval()(x)
    torch.testing.assert_close(whole, network()(x))
    net.train()
    torch.testing.assert_close(net(x, 9), whole)  # the inner loop sees one network
    torch.testing.assert_close(net(x, 3), whole)
    one = torch.zeros(4000, 20, dtype=torch.int32)
    one[:, 0] = 7
    gone = (net(one) == net.norm.bias).all(1).double().mean()
    assert abs(gone - 0.4) < 4 * (0.4 * 0.6 / 4000) ** 0.5


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 128), ()])
def test_the_network_takes_texts_alone(shape: tuple[int, ...]) -> None:
    with pytest.raises(MetashotError, match="the n-grams network takes numbered n-grams"):
        NETWORK.build(shape)


@pytest.mark.parametrize("change", [{"buckets": 1}, {"width": 1}, {"drop_rate": 1.0}, {"drop_rate": -0.1}])
def test_impossible_networks_are_refused(change: dict) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(change))}: "):
        replace(NETWORK, **change)


METRIC = {"lr": 1e-2, "meta_batch": 2, "train_way": 3}
GRADIENT = METRIC | {"inner_lr": 0.1, "inner_steps": 2, "test_lr": 0.1, "test_steps": 2}
METHODS = {
    "prototypical": METRIC | {"temperature": 1.0},
    "matching": METRIC | {"temperature": 0.1},
    "siamese": METRIC | {"margin": 2.0},
    "transfer": METRIC | {"head": "cosine", "scale": 10.0, "head_steps": 5, "head_lr": 0.1},
    "maml": GRADIENT | {"second_order": True, "query_norm": "query"},
    "reptile": GRADIENT | {"inner_shot": 2, "query_norm": "support"},
}


def build(name: str, **changes: object) -> base.Method:
    cls = methods.METHODS[name]
    problem = base.Problem(Form("texts", (20,), "int32", {}), NETWORK, train_classes=20)
    with runtime.reproducible(0):
        return cls(cls.params_type(**METHODS[name] | changes), problem)


def episodes(n_query: int = 4) -> Episodes:
    def part(per_class: int, seed: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(3).repeat_interleave(per_class).expand(2, -1)
        return numbered(2 * 3 * per_class, seed=seed).reshape(2, 3 * per_class, 20), labels

    return Episodes(*part(1, 1), *part(n_query, 2), torch.tensor([[3, 0, 19], [7, 11, 2]]))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_from_texts(name: str) -> None:
    method, e = build(name), episodes()
    optimizer = torch.optim.Adam(method.parameters(), lr=method.params.lr)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        losses.append(float(method.backward(e)))
        assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
        optimizer.step()
    assert losses[-1] < losses[0] - 0.1 * abs(losses[0])
    answer = method.eval().predict(e.support, e.support_labels, e.query, 3)
    torch.testing.assert_close(answer.sum(-1), torch.ones(2, 12))


def test_the_second_order_meta_gradient_is_that_of_finite_differences() -> None:
    maml, e = build("maml").double(), episodes()
    assert isinstance(maml, adaptation.Adaptation)
    tensors = (e.support[0], e.support_labels[0], e.query[0], e.query_labels[0])
    weights = maml.weights()

    def of_task(method: base.Method) -> Callable[..., Tensor]:
        return lambda weights, *tensors: method.query_loss(weights, 3, *tensors)

    gradient, _ = maml.gradient(of_task(maml), weights, *tensors)
    first = build("maml", second_order=False).double()
    first_order, _ = first.gradient(of_task(first), weights, *tensors)
    for name, weight in weights.items():
        direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)).double()
        direction /= direction.norm()
        step = 1e-5
        ends = [
            float(maml.query_loss(weights | {name: weight + sign * step * direction}, 3, *tensors).detach())
            for sign in (1, -1)
        ]
        slope = (ends[0] - ends[1]) / (2 * step)
        assert float((gradient[name] * direction).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-7)
    table = "table"
    assert (gradient[table] - first_order[table]).abs().max() > 1e-2 * gradient[table].abs().max()


@pytest.mark.parametrize("name", ["maml", "reptile"])
def test_mapped_tasks_give_what_tasks_one_by_one_give(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU tasks are mapped by vmap; here the CPU does that too."""
    found = []
    for mapped in (False, True):
        monkeypatch.setattr(adaptation.Adaptation, "maps_tasks", mapped)
        method, e = build(name).double(), episodes()
        with runtime.reproducible(1):
            loss = method.backward(e)
        answer = method.predict(e.support, e.support_labels, e.query, 3)
        found.append([loss, answer, *(p.grad for p in method.parameters())])
    for one_by_one, together in zip(*found, strict=True):
        torch.testing.assert_close(together, one_by_one)
