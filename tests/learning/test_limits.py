"""The limits of every parameter: each is accepted where it lies and refused just beyond."""

import math
from dataclasses import FrozenInstanceError, asdict, replace

import pytest
from small_models import FREE, PARAMS

from metashot.learning.augmentation import Augment
from metashot.learning.models import backbones, methods
from metashot.learning.models.backbones.conv1d import Conv1dParams
from metashot.learning.models.backbones.conv4 import Conv4Params
from metashot.learning.models.backbones.dense import DenseParams
from metashot.learning.models.backbones.identity import IdentityParams
from metashot.learning.models.backbones.ngrams import NgramsParams
from metashot.learning.models.backbones.resnet12 import Resnet12Params
from metashot.learning.models.methods import base, ridge, training_free

BELOW_ONE = math.nextafter(1, 0)
LARGEST = 1e30
NETWORKS = [
    (Conv4Params(name="conv4", width=4, downsample="pool"), {"width": (1, 16_384)}),
    (
        Resnet12Params(name="resnet12", width=4, drop_rate=0.1, drop_size=5),
        {"width": (2, 16_384), "drop_rate": (0.0, BELOW_ONE), "drop_size": (1, 1024)},
    ),
    (Conv1dParams(name="conv1d", width=4, kernel=3), {"width": (1, 16_384), "kernel": (1, 1025)}),
    (
        NgramsParams(name="ngrams", buckets=8, width=4, drop_rate=0.0),
        {"buckets": (2, 16_777_216), "width": (2, 16_384), "drop_rate": (0.0, BELOW_ONE)},
    ),
    (DenseParams(name="dense"), {}),
    (IdentityParams(name="identity"), {}),
]


@pytest.mark.parametrize(
    ("backbone", "key", "limits"),
    [(backbone, key, limits) for backbone, keys in NETWORKS for key, limits in keys.items()],
    ids=lambda value: getattr(value, "name", None),
)
def test_limits_of_networks(backbone: backbones.Params, key: str, limits: tuple[float, float]) -> None:
    step = 2 if key in ("kernel", "width") and backbone.name in ("conv1d", "resnet12") else 1
    for value in limits:
        assert asdict(replace(backbone, **{key: value}))[key] == value
    beyond = (-1e-9, 1.0) if isinstance(limits[0], float) else (limits[0] - step, limits[1] + step)
    for value in beyond:
        with pytest.raises(ValueError, match=f"^{key}: {value} is not between {limits[0]:g} and "):
            replace(backbone, **{key: value})


def test_widths_and_kernels_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^width: 5 is not even"):
        replace(NETWORKS[1][0], width=5)
    with pytest.raises(ValueError, match=r"^kernel: 4 is not odd"):
        replace(NETWORKS[2][0], kernel=4)


@pytest.mark.parametrize("name", PARAMS)
def test_limits_of_methods(name: str) -> None:
    cls = methods.METHODS[name].params_type
    for key, value in PARAMS[name].items():
        if isinstance(value, bool | str):
            continue
        whole = isinstance(value, int)
        least, most = (2 if key == "train_way" else 1, 10_000) if whole else (5e-324, LARGEST)
        for limit in (least, most):
            assert getattr(cls(**PARAMS[name] | {key: limit}), key) == limit
        for beyond in (least - 1, most + 1) if whole else (0.0, -1.0, 1.01e30, math.inf, math.nan):
            with pytest.raises(ValueError, match=f"^{key}: must be "):
                cls(**PARAMS[name] | {key: beyond})


@pytest.mark.parametrize("features", [(), "", ("hog", "hog")])
def test_features_to_choose_from_are_named_once(features: object) -> None:
    with pytest.raises(ValueError, match=r"^features: needs at least one name"):
        training_free.Params(features=features)
    assert training_free.Params(features=("hog", "identity")).features == ("hog", "identity")


def test_limits_of_the_strengths_of_a_ridge() -> None:
    for limit in (5e-324, LARGEST):
        assert ridge.Params(features="auto", strengths=(1.0, limit)).strengths[1] == limit
    for beyond in (0.0, -1.0, 1.01e30, math.inf, math.nan):
        with pytest.raises(ValueError, match=r"^strengths: must be positive"):
            ridge.Params(features="auto", strengths=(1.0, beyond))
    with pytest.raises(ValueError, match=r"^strengths: needs at least one"):
        ridge.Params(features="auto", strengths=())


@pytest.mark.parametrize(("key", "most"), [("shift", 1), ("rotate", 180), ("scale", 1), ("jitter", 1)])
def test_limits_of_augmentation(key: str, most: float) -> None:
    assert getattr(Augment(), key) == 0
    for limit in (0, most):
        assert getattr(Augment(**{key: limit}), key) == limit
    for beyond in (-1e-9, math.nextafter(most, 999)):
        with pytest.raises(ValueError, match=rf"^{key}: {beyond} is not between 0 and {most}$"):
            Augment(**{key: beyond})


@pytest.mark.parametrize("key", ["flip", "shift", "rotate", "scale", "jitter"])
def test_any_of_them_alone_varies_and_all_but_jitter_move(key: str) -> None:
    augment = Augment(**{key: True if key == "flip" else 0.5})
    assert augment.varies
    assert augment.moves == (key != "jitter")
    assert not Augment().varies
    assert not Augment().moves


@pytest.mark.parametrize("backbone", [backbone for backbone, _ in NETWORKS], ids=lambda value: value.name)
def test_weights_are_counted_without_making_them(backbone: backbones.Params) -> None:
    shape = {"conv1d": (2, 16), "ngrams": (9,), "dense": (6,)}.get(backbone.name, (3, 16, 16))
    network = backbone.build(shape)
    assert backbone.count(shape) == sum(weight.numel() for weight in network.parameters())
    assert not any(weight.is_meta for weight in network.parameters())


@pytest.mark.parametrize("name", PARAMS | FREE)
def test_parameters_cannot_be_changed(name: str) -> None:
    """A model and its record say the same of them, whatever a program does."""
    params = methods.METHODS[name].params_type(**(PARAMS | FREE)[name])
    for value in (params, Augment(), *(backbone for backbone, _ in NETWORKS)):
        for key in asdict(value):
            with pytest.raises(FrozenInstanceError):
                setattr(value, key, 3)


@pytest.mark.parametrize("value", [Augment(), *(backbone for backbone, _ in NETWORKS)])
def test_parameters_are_given_by_name(value: object) -> None:
    with pytest.raises(TypeError, match="positional"):
        type(value)(*asdict(value).values())


@pytest.mark.parametrize(
    ("cls", "missing"),
    [
        (base.Method, {"predict"}),
        (base.TrainedMethod, {"backward", "predict"}),
        (base.EmbeddingMethod, {"classify"}),
        (base.TrainedEmbedding, {"loss", "classify"}),
        (training_free.TrainingFree, {"scores"}),
        (backbones.Params, {"build"}),
        (backbones.Backbone, {"forward"}),
    ],
)
def test_what_every_method_and_network_must_have(cls: type, missing: set[str]) -> None:
    assert cls.__abstractmethods__ == missing
    for name in missing:
        incomplete = type("Incomplete", (cls,), dict.fromkeys(missing - {name}))
        with pytest.raises(TypeError, match=name):
            incomplete()
