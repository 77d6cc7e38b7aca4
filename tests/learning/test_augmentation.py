"""Augmentation against torchvision, which varies one picture at a time."""

import math

import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

from metashot.learning.augmentation import Augment, coloured, moved
from metashot.learning.models.episodes import Episodes


def pictures(count: int, channels: int = 3, size: int = 17) -> torch.Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_are_those_of_torchvision_picture_by_picture(channels: int) -> None:
    images = pictures(6, channels)
    factors = 0.5 + torch.rand(3, 6, generator=torch.Generator().manual_seed(1))
    for image, varied, factor in zip(images, coloured(images, *factors), factors.T.tolist(), strict=True):
        expected = tv.adjust_contrast(tv.adjust_brightness(image, factor[0]), factor[1])
        expected = tv.adjust_saturation(expected, factor[2]) if channels == 3 else expected
        torch.testing.assert_close(varied, expected, atol=2e-5, rtol=0)


def test_flips_and_shifts_of_whole_pixels_are_exact() -> None:
    images = pictures(4, size=16)
    flip = torch.tensor([[-1.0, 0, 0], [0, 1, 0]]).expand(4, -1, -1)
    torch.testing.assert_close(moved(images, flip), images.flip(-1))
    right = torch.tensor([[1, 0, 2 * 3 / 16], [0, 1, -2 * 2 / 16]]).expand(4, -1, -1)
    expected = F.pad(images, (0, 3, 2, 0))[:, :, :16, 3:]  # output x looks at input x + 3, y at y - 2
    torch.testing.assert_close(moved(images, right), expected, atol=1e-6, rtol=0)


def test_turned_pictures_are_those_of_torchvision() -> None:
    image = F.interpolate(pictures(1, size=8), 32, mode="bilinear")
    angle = math.radians(25)
    cos, sin = math.cos(angle), math.sin(angle)
    mine = moved(image, torch.tensor([[[cos, -sin, 0], [sin, cos, 0]]]))
    theirs = tv.rotate(image, 25, interpolation=tv.InterpolationMode.BILINEAR)
    torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=0)


def test_every_picture_has_a_draw_of_its_own_within_the_limits() -> None:
    image = torch.zeros(1, 1, 33, 33)
    image[..., 16, 16] = 1
    torch.manual_seed(0)
    varied = Augment(shift=0.25).images(image.expand(500, -1, -1, -1))
    places = torch.stack([torch.nonzero(v[0] == v.max())[0] for v in varied]) - 16
    assert places.abs().max() == 8  # a quarter of 33, in whole pixels
    assert len({tuple(place) for place in places.tolist()}) > 150
    assert abs(places.float().mean()) < 0.5


def test_half_of_the_pictures_are_mirrored() -> None:
    image = torch.zeros(1, 1, 8, 8)
    image[..., 0] = 1
    torch.manual_seed(0)
    mirrored = Augment(flip=True).images(image.expand(1000, -1, -1, -1))[:, 0, 0, -1] == 1
    assert abs(mirrored.float().mean() - 0.5) < 0.05


def test_sizes_stay_within_the_limits() -> None:
    image = torch.zeros(1, 1, 65, 65)
    image[..., 16:49, 16:49] = 1
    torch.manual_seed(0)
    areas = Augment(scale=0.2).images(image.expand(300, -1, -1, -1)).sum((1, 2, 3))
    side = (areas / image.sum()).sqrt()
    assert 0.79 < side.min() < 0.82
    assert 1.18 < side.max() < 1.21


@pytest.mark.parametrize(
    "augment", [Augment(), Augment(flip=True, shift=0.1, rotate=9, scale=0.1, jitter=0.4)]
)
def test_episodes_keep_their_labels_shapes_and_range(augment: Augment) -> None:
    labels = torch.arange(3).expand(2, -1)
    e = Episodes(pictures(6).view(2, 3, 3, 17, 17), labels, pictures(6).view(2, 3, 3, 17, 17), labels, labels)
    torch.manual_seed(0)
    varied = augment.episodes(e)
    assert (varied is e) == (not augment.varies)
    assert varied.support.shape == e.support.shape
    assert 0 <= varied.query.min() <= varied.query.max() <= 1
    assert torch.equal(varied.query_labels, labels)
    assert augment.varies != torch.equal(varied.support, e.support)


@pytest.mark.parametrize(
    ("key", "value"), [("shift", -0.1), ("rotate", 181), ("scale", 1.5), ("jitter", 2.0)]
)
def test_impossible_limits_name_their_key(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{key}: "):
        Augment(**{key: value})
