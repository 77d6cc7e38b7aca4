"""HOG and histograms of colours against loops over pixels."""

import math

import numpy as np
import pytest
import torch

from metashot.learning.models.backbones import colours, hog
from metashot.learning.models.backbones.colours import Colours
from metashot.learning.models.backbones.hog import Hog

RANDOM = np.random.default_rng(0)


def reference(picture: np.ndarray) -> np.ndarray:
    """Histograms of oriented gradients by a loop over pixels, cells and blocks."""
    channels, height, width = picture.shape
    size = min(height, width) / hog.CELLS
    cells = np.zeros((round(height / size) + 1, round(width / size) + 1, hog.DIRECTIONS))
    for y in range(height):
        for x in range(width):
            gradients = [
                (
                    picture[c, y + 1, x] - picture[c, y - 1, x] if 0 < y < height - 1 else 0.0,
                    picture[c, y, x + 1] - picture[c, y, x - 1] if 0 < x < width - 1 else 0.0,
                )
                for c in range(channels)
            ]
            down, right = max(gradients, key=lambda pair: math.hypot(*pair))
            angle = math.degrees(math.atan2(down, right)) % 180 / (180 / hog.DIRECTIONS)
            for row in range(cells.shape[0]):
                for column in range(cells.shape[1]):
                    near = max(0, 1 - abs((y + 0.5) / size - row)) * max(
                        0, 1 - abs((x + 0.5) / size - column)
                    )
                    low = int(angle)
                    length = near * math.hypot(down, right) / size**2
                    cells[row, column, low % hog.DIRECTIONS] += length * (1 - (angle - low))
                    cells[row, column, (low + 1) % hog.DIRECTIONS] += length * (angle - low)
    blocks = []
    for row in range(cells.shape[0] - 1):
        for column in range(cells.shape[1] - 1):
            block = cells[row : row + 2, column : column + 2].flatten()
            for most in (hog.CLIPPED, np.inf):
                block = np.minimum(block / np.sqrt((block**2).sum() + hog.EPSILON**2), most)
            blocks.append(block)
    return np.concatenate(blocks)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 16, 23)])
def test_hog_is_that_of_a_loop_over_pixels(shape: tuple[int, ...]) -> None:
    pictures = RANDOM.random((2, *shape))
    network = Hog(shape).double()
    np.testing.assert_allclose(
        network(torch.from_numpy(pictures)).numpy(), [reference(p) for p in pictures], atol=1e-6
    )


def test_hog_sees_direction_and_not_sign_or_level() -> None:
    ramp = torch.linspace(0, 0.5, 28).expand(28, 28)
    network = Hog((1, 28, 28))
    first = network(ramp[None, None])
    torch.testing.assert_close(network(0.5 - ramp[None, None]), first)
    torch.testing.assert_close(network(ramp[None, None] + 0.4), first, atol=1e-4, rtol=1e-4)
    assert float((network(ramp.T[None, None]) * first).sum()) == pytest.approx(0, abs=1e-6)


def test_a_histogram_of_colours_is_that_of_a_loop_over_pixels() -> None:
    picture = RANDOM.random((3, 5, 6))
    expected = np.zeros((colours.LEVELS,) * 3)
    for pixel in picture.reshape(3, -1).T * (colours.LEVELS - 1):
        for index in np.ndindex(expected.shape):
            expected[index] += np.prod(np.maximum(0, 1 - np.abs(pixel - index))) / 30
    actual = Colours((3, 5, 6))(torch.from_numpy(picture)[None])[0]
    np.testing.assert_allclose(actual.numpy(), np.sqrt(expected).flatten(), atol=1e-7)
    assert float(actual.square().sum()) == pytest.approx(1)
