"""Every picture against one that a person has looked at, in tests/results/pictures.

What is meant to look otherwise: `python tests/results/test_plots.py` draws them again; look at each before
you commit it.
"""

import io
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "support"))  # as pytest does

import comparisons
from PIL import Image

from metashot.results import plots

PICTURES = Path(__file__).with_name("pictures")
ENCODER = (
    "pretrained encoder: resnet10t.c3_in1k, trained on ImageNet-1k, 1.2 million pictures of 1,000 classes; "
    "may have seen classes of these data"
)
LEVEL = 17  # of 256, between those of the files
ROUNDING = 4  # levels of 256 by which a processor's rounding may change an edge


def drawing(side: int, corner: int) -> bytes:
    """A square that is dark in one corner."""
    pixels = np.full((side, side, 3), 235, np.uint8)
    rows, columns = divmod(corner, 2)
    half = side // 2
    pixels[rows * half :, columns * half :][:half, :half] = (40 + 20 * corner, 90, 160)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def answers() -> bytes:
    """More support pictures and answers than are drawn, of one class; none of another."""
    one, two, three = "a$b$", "second", "third"
    support = [(drawing(8 + 4 * n, n % 4), one) for n in range(5)]
    support += [(drawing(150, 1), two), (drawing(12, 2), three), (drawing(12, 3), three)]
    taken = [(drawing(12, n % 4), one, 0.995 - 0.07 * n) for n in range(12)]
    equal = sorted((drawing(12, n), three, 0.51) for n in range(3))
    taken += [*equal[::-1], (drawing(12, 2), three, 0.76), (drawing(12, 0), "fourth", 0.9)]
    return plots.answers_plot(support, taken)


def curve() -> bytes:
    points = [{"step": n, "train_loss": 2 / (n + 1)} for n in range(0, 100, 5)]
    points[4::4] = [{**point, "val_accuracy": 1 - 0.5 / (1 + point["step"] / 20)} for point in points[4::4]]
    return plots.learning_curve("flowers, 5w1s, maml", [*points, {"step": 100, "val_accuracy": 0.931}])


def minutes() -> bytes:
    """Ten methods, so that colours and marks come again; from below what is drawn to above it."""
    times = (0.3, 1, 3, 9.5, 30)
    ends = (0.9996, 0.985, 0.97, 0.9, 0.8, 0.62, 0.4, 0.08)
    starts = (0.3, 0.27, 0.24, 0.21, 0.18, 0.15, 0.12, 0.0004)
    curves = {
        f"method {n}": [(time / (1 + n), a + (b - a) * x / 4) for x, time in enumerate(times)]
        for n, (a, b) in enumerate(zip(starts, ends, strict=True))
    }
    points = {f"without training {n}": [(0.02 * n, 0.5 + 0.2 * n)] for n in (1, 2)}
    return plots.minutes_plot("flowers, 5-way 1-shot", dict(reversed(curves.items())) | points)


DRAWN: dict[str, Callable[[], bytes]] = {
    "comparison": lambda: plots.comparison_plot(comparisons.made()),
    "comparison-groups": lambda: plots.comparison_plot(comparisons.grouped()),
    "comparison-encoder": lambda: plots.comparison_plot(comparisons.grouped(-0.0145, -0.0101, ENCODER)),
    "differences-groups": lambda: plots.differences_plot(comparisons.grouped(-0.001, 0.003)),
    "differences-far": lambda: plots.differences_plot(comparisons.made()),
    "differences-close": lambda: plots.differences_plot(
        replace(comparisons.made(comparisons.CLOSE, (1.0, 1.0, 0.0174)), known_classes=False)
    ),
    "learning-curve": curve,
    "learning-curve-point": lambda: plots.learning_curve(
        "ridge on flowers, 5w1s", [{"step": 0, "val_accuracy": 0.9312}]
    ),
    "minutes": minutes,
    "answers": answers,
}


def pixels(file: bytes | Path) -> np.ndarray:
    with Image.open(file if isinstance(file, Path) else io.BytesIO(file)) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def stored(drawn: bytes) -> Image.Image:
    """A picture in 16 levels of each colour, by which its file is half as large."""
    levels = (pixels(drawn) + LEVEL // 2) // LEVEL * LEVEL
    return Image.fromarray(levels.astype(np.uint8))


@pytest.mark.parametrize("name", DRAWN)
def test_every_picture_is_the_one_that_was_looked_at(name: str, tmp_path: Path) -> None:
    drawn, known = DRAWN[name](), PICTURES / f"{name}.png"
    (tmp_path / known.name).write_bytes(drawn)
    found, expected = pixels(drawn), pixels(known)
    assert found.shape == expected.shape, f"another size: see {tmp_path}"
    off = np.abs(found - expected).max(axis=2) > LEVEL // 2 + ROUNDING
    assert not off.any(), f"{off.sum()} pixels differ: see {tmp_path}"


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots return the figure itself, which takes no time to draw."""
    monkeypatch.setattr(plots, "_png", lambda figure: figure)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("mean", "half", "marks"),
    [
        (0.0056, 0.0044, None),  # as far as 1 point
        (0.0056, 0.0045, [0, 0.5, 1]),
        (-0.0056, 0.0045, [-1, -0.5, 0, 0.5]),
        (0.5, 0.499, [0, 0.5, 1, 2, 5, 10, 20, 50, 100]),
        (0.49, 0.51, [-2, -1, -0.5, 0, 0.5, 1, 2, 5, 10, 20, 50, 100]),
        (-0.49, 0.51, [-100, -50, -20, -10, -5, -2, -1, -0.5, 0, 0.5, 1, 2]),
    ],
)
def test_leads_of_more_than_a_point_are_drawn_on_a_scale_of_even_marks(mean, half, marks) -> None:
    first, *others = comparisons.CLOSE
    wide = replace(first, mean=mean, low=mean - half, high=mean + half)
    axes = plots.differences_plot(comparisons.made((wide, *others), (1.0, 1.0, 1.0))).axes[0]
    assert axes.get_xscale() == ("symlog" if marks else "linear")
    assert not marks or sorted(axes.get_xticks()) == marks


@pytest.mark.usefixtures("undrawn")
def test_no_more_classes_are_drawn_than_one_can_look_at() -> None:
    """30 classes, 4 support pictures and 10 answers of each."""
    pictures = [drawing(8, n % 4) for n in range(31)]
    support = [(picture, f"class {n:02d}") for n, picture in enumerate(pictures)]
    for classes in (30, 31):
        figure = plots.answers_plot(support[:classes], [(pictures[0], support[classes - 1][1], 0.9)])
        drawn = [axes for axes in figure.axes if axes.images]
        assert len(drawn) == min(classes, 30) + (classes <= 30)
        assert figure.get_suptitle().endswith("; 1 not drawn") == (classes > 30)
        assert figure.get_size_inches() == pytest.approx([1.5 + 2.2, 1.1 + 1.35 * min(classes, 30)])
        assert [axes.get_title(loc="left") for axes in drawn if axes.get_title(loc="left")] == [
            label for _, label in support[: min(classes, 30)]
        ]
    for classes in (1, 2):  # a column for answers, though there is none
        assert len(plots.answers_plot(support[:classes], []).axes) == 2 * classes


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("size", "expected"), [((220, 55), (28, 110)), ((55, 220), (110, 28)), ((9, 5), (5, 9))]
)
def test_large_pictures_are_drawn_smaller_with_the_same_sides(size, expected) -> None:
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "PNG")
    figure = plots.answers_plot([(file.getvalue(), "a")], [])
    assert figure.axes[0].images[0].get_size() == expected


def test_no_line_looks_like_another() -> None:
    styles = [plots._style(number) for number in range(36)]
    assert len(set(styles)) == 36
    assert styles[0] == (plots.BLUE, "o-")


if __name__ == "__main__":
    for name, draw in DRAWN.items():
        stored(draw()).save(PICTURES / f"{name}.png", optimize=True)
