"""What all fixed backbones have in common: constants from the training split only, one sample at a time."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from metashot.data.kinds import KINDS
from metashot.errors import MetashotError
from metashot.learning.features import FEATURES
from metashot.learning.models import runtime
from metashot.learning.models.backbones import BACKBONES, Backbone, params_of

SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "images": ((1, 28, 28), (3, 32, 40), (3, 8, 8)),
    "sounds": ((1, 40, 49), (1, 8, 3)),
    "series": ((1, 50), (6, 16), (2, 2), (33, 9)),
    "texts": ((40,), (1,)),
    "sentences": ((32,),),
}
CASES = [
    (name, kind, shape)
    for kind, shapes in SHAPES.items()
    for name in FEATURES[kind].NAMES
    for shape in shapes
]
every = pytest.mark.parametrize(("name", "kind", "shape"), CASES)


def samples_of(kind: str, shape: tuple[int, ...], count: int = 12) -> Tensor:
    if kind == "texts":
        return torch.randint(0, 50, (count, *shape), dtype=torch.int32) * 30_000_001
    return torch.rand(count, *shape)


class Chunks:
    """Samples in chunks, counted each time."""

    def __init__(self, samples: Tensor, rows: int = 5) -> None:
        self.samples, self.rows = samples, rows

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.samples.split(self.rows))


def fitted(name: str, kind: str, shape: tuple[int, ...]) -> Backbone:
    torch.manual_seed(0)
    network = params_of({"name": name}).build(shape)
    network.fit(Chunks(samples_of(kind, shape)))
    return network


@every
def test_features_do_not_depend_on_the_batch(name: str, kind: str, shape: tuple[int, ...]) -> None:
    network, samples = fitted(name, kind, shape), samples_of(kind, shape)
    with runtime.reproducible(0):
        features = network(samples)
    assert features.shape == (len(samples), network.features)
    assert features.dtype == torch.float32
    assert features.isfinite().all()
    singly = torch.cat([network(sample[None]) for sample in samples])
    torch.testing.assert_close(singly, features, atol=1e-4, rtol=1e-4)


@every
def test_constants_do_not_depend_on_how_the_split_is_cut(
    name: str, kind: str, shape: tuple[int, ...]
) -> None:
    network, other = fitted(name, kind, shape), params_of({"name": name}).build(shape)
    torch.manual_seed(0)
    other.fit([samples_of(kind, shape)])
    for key, value in network.state_dict().items():
        torch.testing.assert_close(other.state_dict()[key], value, atol=1e-4, rtol=1e-4)


@every
def test_a_network_is_its_buffers(name: str, kind: str, shape: tuple[int, ...]) -> None:
    network, other = fitted(name, kind, shape), params_of({"name": name}).build(shape)
    other.load_state_dict(network.state_dict())
    samples = samples_of(kind, shape)
    assert torch.equal(other(samples), network(samples))
    assert params_of({"name": name}).fixed
    assert not list(network.parameters())
    assert params_of({"name": name}).count(shape) == 0


@every
def test_degenerate_samples_have_finite_features(name: str, kind: str, shape: tuple[int, ...]) -> None:
    if kind == "texts":
        blank = torch.zeros(3, *shape, dtype=torch.int32)
        blank[1, 0] = blank[2] = 7
    else:
        blank = torch.stack([torch.full(shape, value) for value in (0.0, 1.0, 0.1)])
    assert fitted(name, kind, shape)(blank).isfinite().all()
    network = params_of({"name": name}).build(shape)
    network.fit([blank])
    assert network(blank).isfinite().all()
    assert network(samples_of(kind, shape)).isfinite().all()


@pytest.mark.parametrize("name", [name for name in BACKBONES if BACKBONES[name].fixed and name != "identity"])
def test_samples_of_another_kind_are_refused(name: str) -> None:
    with pytest.raises(MetashotError, match="samples of shape"):
        params_of({"name": name}).build((2, 3, 4, 5))


def test_every_kind_has_features_that_exist() -> None:
    for kind in KINDS:
        assert FEATURES[kind].NAMES
        assert all(BACKBONES[name].fixed for name in FEATURES[kind].NAMES)
