"""The standardisation that `metashot init` proposes, on series whose classes differ in a known way."""

import numpy as np
import pytest

from metashot.data.kinds import series
from metashot.onboard import standardisation

STEPS, SAMPLES, CLASSES = 30, 12, 6
RANDOM = np.random.default_rng(0)


def forms(channels: int) -> dict:
    names = tuple("abc"[:channels])
    return {
        how: series.Prepare(channels=names, length=STEPS, fit="crop", standardise=how).form
        for how in ("series", "channel", "none")
    }


def collection(make) -> tuple[dict, dict]:
    """Contents by path, and the split of each: a third of every class for training, validation and test."""
    contents = {
        f"all/class{number}/{sample:02d}": series.encode(make(number))
        for number in range(CLASSES)
        for sample in range(SAMPLES)
    }
    splits = {name: ("train", "val", "test")[int(name[-2:]) % 3] for name in contents}
    return {name: (lambda content=content: content) for name, content in contents.items()}, splits


def waves(number: int) -> np.ndarray:
    """Classes are frequencies; level and scale are anything."""
    wave = np.sin(np.arange(STEPS) * (0.3 + 0.25 * number) + RANDOM.uniform(0, 0.3))
    return (RANDOM.normal(0, 300) + RANDOM.uniform(1, 500) * wave)[None]


def levels(number: int) -> np.ndarray:
    """Classes are levels of a channel in small units, beside one of large numbers that says nothing."""
    noise = RANDOM.normal(0, 1, (2, STEPS))
    return noise * [[0.1], [1e5]] + [[number], [0]]


@pytest.mark.parametrize(
    ("make", "best", "worst"), [(waves, "series", "none"), (levels, "channel", "series")]
)
def test_what_tells_the_classes_apart_is_kept(make, best: str, worst: str) -> None:
    contents, splits = collection(make)
    measured = standardisation.accuracies(forms(len(make(0))), contents, splits, n_way=5, n_query=3)
    assert list(measured) == ["series", "channel", "none"]
    assert measured[best] == max(measured.values()) > 0.5
    assert measured[worst] < measured[best] - 0.15


def test_what_the_test_split_holds_is_not_looked_at() -> None:
    contents, splits = collection(waves)

    def unread() -> bytes:
        raise AssertionError("a series of the test split was read")

    guarded = {name: unread if splits[name] == "test" else read for name, read in contents.items()}
    assert standardisation.accuracies(forms(1), guarded, splits, n_way=5, n_query=3)["series"] > 0.8
