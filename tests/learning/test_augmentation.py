"""Augmentation against torchvision, which varies one picture at a time."""

import math

import pytest
import torch
from scipy import stats
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


def uniform(values: torch.Tensor, low: float, high: float) -> bool:
    """Whether values may well be drawn evenly between two ends: Kolmogorov and Smirnov's test."""
    return bool(stats.kstest(values.numpy(), stats.uniform(low, high - low).cdf).pvalue > 1e-3)


def test_brightness_contrast_and_saturation_are_drawn_evenly_within_the_jitter() -> None:
    """Of a picture of two dim colours each of the three can be told from what comes out."""
    first, second = torch.tensor([0.2, 0.25, 0.3]), torch.tensor([0.4, 0.3, 0.25])
    image = torch.stack([first, second], dim=1).view(1, 3, 1, 2)
    torch.manual_seed(0)
    varied = Augment(jitter=0.4).images(image.expand(2000, -1, -1, -1)).double()
    grey = (varied * torch.tensor([0.2989, 0.587, 0.114]).view(3, 1, 1)).sum(1)[:, 0]  # [2000, 2]
    before = torch.stack([first, second]).double() @ torch.tensor([0.2989, 0.587, 0.114]).double()
    brightness = grey.mean(1) / before.mean()  # the others leave the mean of the greys
    contrast = (grey[:, 1] - grey[:, 0]) / (before[1] - before[0]) / brightness
    chroma = (varied[:, 2, 0, 0] - varied[:, 0, 0, 0]) / (first[2] - first[0])
    saturation = chroma / brightness / contrast
    for factor in (brightness, contrast, saturation):
        assert 0.599 < factor.min() < 0.605
        assert 1.395 < factor.max() < 1.401
        assert uniform(factor, 0.6, 1.4)
    drawn = torch.stack([brightness, contrast, saturation])
    assert (torch.corrcoef(drawn) - torch.eye(3)).abs().max() < 0.1  # each of them by itself


def dot(x: int, y: int, count: int, size: int = 65) -> torch.Tensor:
    """Pictures of one dot so far from their middle."""
    image = torch.zeros(1, 1, size, size)
    image[..., size // 2 + y, size // 2 + x] = 1
    return image.expand(count, -1, -1, -1)


def places(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the dots are: their centres, from the middle."""
    size = images.shape[-1]
    axis = torch.arange(size).double() - size // 2
    weight = images[:, 0].double() / images[:, 0].double().sum((1, 2), keepdim=True)
    return (weight.sum(1) * axis).sum(1), (weight.sum(2) * axis).sum(1)


def test_turns_are_drawn_evenly_and_keep_the_distance_from_the_middle() -> None:
    torch.manual_seed(0)
    x, y = places(Augment(rotate=30).images(dot(20, 0, 1000)))
    angles = torch.atan2(y, x) * 180 / math.pi
    assert torch.hypot(x, y).sub(20).abs().max() < 0.5
    assert uniform(angles, -30, 30)
    assert angles.abs().max() > 29


def test_shifts_are_drawn_evenly_and_each_way_by_itself() -> None:
    torch.manual_seed(0)
    moves = torch.stack(places(Augment(shift=0.2).images(dot(0, 0, 1000))))
    for along in moves:
        assert uniform(along, -13, 13)  # a fifth of 65
        assert 12.8 < along.abs().max() < 13.01
    assert abs(torch.corrcoef(moves)[0, 1]) < 0.1


def test_sizes_are_drawn_evenly() -> None:
    torch.manual_seed(0)
    x, y = places(Augment(scale=0.25).images(dot(20, -8, 1000)))
    torch.testing.assert_close(y, -0.4 * x, atol=0.5, rtol=0)
    assert uniform(x / 20, 0.75, 1.25)


def test_mirrored_and_turned_a_dot_lies_where_geometry_has_it() -> None:
    """Mirrored first or not, then turned: on one of two arcs, evenly, whatever else is drawn."""
    torch.manual_seed(0)
    x, y = places(Augment(flip=True, rotate=30).images(dot(20, 0, 2000)))
    mirrored = x < 0
    assert abs(mirrored.double().mean() - 0.5) < 0.05
    angles = torch.atan2(y, x.abs()) * 180 / math.pi
    assert torch.hypot(x, y).sub(20).abs().max() < 0.5
    for part in (mirrored, ~mirrored):
        assert uniform(angles[part], -30, 30)


def test_what_is_not_asked_for_stays() -> None:
    images = pictures(3)
    for augment in (Augment(shift=1e-9), Augment(rotate=1e-9), Augment(scale=1e-9), Augment(jitter=1e-9)):
        torch.testing.assert_close(augment.images(images), images, atol=1e-5, rtol=0)
    assert torch.equal(Augment().images(images), images)


def test_support_and_query_are_varied_each_by_itself() -> None:
    labels = torch.arange(3).expand(2, -1)
    same = pictures(1).expand(2, 3, -1, -1, -1, -1).flatten(2, 3)
    torch.manual_seed(0)
    varied = Augment(jitter=0.5).episodes(Episodes(same, labels, same, labels, labels))
    flat = torch.cat([varied.support.flatten(0, 1), varied.query.flatten(0, 1)]).flatten(1)
    assert len({tuple(row.tolist()) for row in flat}) == 12
    assert torch.equal(varied.classes, labels)
