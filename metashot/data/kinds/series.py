"""Series: several channels of numbers over time, to arrays of one length."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from metashot.data import Form
from metashot.data.kinds.base import Use, described
from metashot.section import Section

LARGEST = float(np.finfo(np.float32).max)


USE = Use(
    noun="series",
    column="series",
    holds="lists of numbers, one for each channel",
    prepared="Series are brought to the model's length, and prepared like its training data.",
)


@dataclass(frozen=True, kw_only=True)
class Prepare(Section):
    """Preparation of series: the keys of ``prepare`` that all sources of series share.

    Attributes:
        channels: Names of the channels, in the order of the network's input.
        length: Number of time steps.
        fit: How series of another length are fitted. ``crop`` takes the middle, and pads shorter series with
            zeros at both ends; ``stretch`` interpolates linearly between the first and the last step.
        standardise: What each channel is scaled by to mean 0 and standard deviation 1, before series are
            fitted. ``series``: itself in each series, so that its shape counts, not its level or scale;
            ``channel``: all steps of the training split, so that channels count alike, and levels do too;
            ``none``: nothing.
    """

    rotations: ClassVar[bool] = False

    channels: tuple[str, ...]
    length: int
    fit: Literal["crop", "stretch"]
    standardise: Literal["series", "channel", "none"]

    def __post_init__(self) -> None:
        if not self.channels or len(set(self.channels)) < len(self.channels):
            raise ValueError("channels: needs at least one name, and each only once")
        if not 2 <= self.length <= 1_000_000:
            raise ValueError(f"length: {self.length} is not between 2 and 1,000,000")

    @property
    def form(self) -> Form:
        """See `sources.Prepare`."""
        decoding = {"channels": list(self.channels), "fit": self.fit, "standardise": self.standardise}
        return Form("series", (len(self.channels), self.length), "float32", decoding)


def measured(form: Form, contents: Iterable[bytes]) -> Form:
    """The form with mean and standard deviation of each channel, if it scales by them: over all steps.

    Args:
        form: Of `Prepare`.
        contents: All series of the training split, as `encode` returns them. Those that `decode` refuses
            do not count.
    """
    if form.decoding["standardise"] != "channel":
        return form
    channels = form.shape[0]
    steps, mean, squares = 0, np.zeros(channels), np.zeros(channels)  # squares: of differences from the mean
    for content in contents:
        series = np.frombuffer(content, "<f8").reshape(channels, -1)
        count = series.shape[1]
        if count < 2 or not (np.abs(series) <= LARGEST).all():
            continue
        own = series.mean(axis=1)
        away, total = own - mean, steps + count
        squares += np.square(series - own[:, None]).sum(axis=1) + np.square(away) * steps * count / total
        mean, steps = mean + away * count / total, total
    deviation = np.sqrt(squares / max(1, steps))
    scales = {"mean": mean.tolist(), "deviation": deviation.tolist()}
    return replace(form, decoding={**form.decoding, **scales})


def encode(series: NDArray[np.float64]) -> bytes:
    """Content of a series ``[C, T]`` for `decode`."""
    return series.astype("<f8").tobytes()


def decode(content: bytes, form: Form) -> tuple[NDArray[np.float32], bytes]:
    """A series ``[C, length]``, and a digest of its numbers. Raises ValueError as `fitted` does."""
    series = np.frombuffer(content, "<f8").reshape(form.shape[0], -1)
    return fitted(series, form), hashlib.blake2b(content, digest_size=16).digest()


def fitted(series: NDArray[np.float64], form: Form) -> NDArray[np.float32]:
    """Fit a series ``[C, T]`` to ``[C, length]``; see `Prepare`.

    Standardisation maps a channel that is constant, in its series or in training, to 0.

    Raises ValueError for fewer than two steps, and for values that are not finite in single precision.
    """
    (_, length), steps = form.shape, series.shape[1]
    if steps < 2:
        raise ValueError(f"too short: {steps} time steps, at least 2 are needed")
    if len(invalid := np.argwhere(~(np.abs(series) <= LARGEST))):
        channel, step = invalid[0]
        name = form.decoding["channels"][channel]
        raise ValueError(f"without a finite number in channel {name!r} at step {step}")
    if form.decoding["standardise"] == "series":
        deviation = series.std(axis=1, keepdims=True)
        constant = np.ptp(series, axis=1, keepdims=True) == 0  # their deviation may be a rounding error
        series = (series - series.mean(axis=1, keepdims=True)) / np.where(constant, np.inf, deviation)
    elif form.decoding["standardise"] == "channel":
        mean, deviation = (np.array(form.decoding[key])[:, None] for key in ("mean", "deviation"))
        constant = deviation <= 1e-12 * np.abs(mean)
        scaled = (series - mean) / np.where(constant, np.inf, deviation)
        series = np.clip(scaled, -LARGEST, LARGEST)  # of another scale altogether
    if form.decoding["fit"] == "stretch":
        return _stretched(series, length)
    start = max(0, steps - length) // 2
    series = series[:, start : start + length]
    before = (length - series.shape[1]) // 2
    after = length - series.shape[1] - before
    return np.pad(series, ((0, 0), (before, after))).astype(np.float32)


def served(value: Any, form: Form) -> NDArray[np.float32]:
    """Lists of numbers ``[C][T]`` as an array ``[C, length]``, prepared as the training data were.

    Raises ValueError as `fitted` does, and for any other value.
    """
    channels = form.decoding["channels"]
    try:
        series = np.stack([np.asarray(channel, np.float64) for channel in value])
    except (TypeError, ValueError):
        series = np.empty(0)
    if series.ndim != 2 or len(series) != len(channels):
        lists = (
            f"{len(channels)} lists ({', '.join(channels)})" if len(channels) > 1 else "a list with one list"
        )
        raise ValueError(f"{described(value)}: give {lists} of equally many numbers")
    return fitted(series, form)


def _stretched(series: NDArray[Any], length: int) -> NDArray[np.float32]:
    steps = np.arange(series.shape[1])
    positions = np.linspace(0, steps[-1], length)
    return np.stack([np.interp(positions, steps, channel) for channel in series]).astype(np.float32)
