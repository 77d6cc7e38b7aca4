"""MFCC against scipy: its cosine transform, its slopes and its interpolation."""

import numpy as np
import torch
from scipy import signal
from scipy.fft import dct

from metashot.learning.models.backbones import mfcc
from metashot.learning.models.backbones.mfcc import Mfcc
from metashot.learning.models.backbones.mfcc_statistics import MfccStatistics

RANDOM = np.random.default_rng(0)
MELS, FRAMES = 40, 30


def spectrograms(count: int = 4) -> tuple[np.ndarray, list[slice]]:
    """Loud in one part, and its frames."""
    pictures, parts = RANDOM.uniform(0, 0.1, (count, 1, MELS, FRAMES)).astype(np.float32), []
    for picture in pictures:
        start = RANDOM.integers(0, 10)
        parts.append(slice(start, start + RANDOM.integers(5, 20)))
        picture[..., parts[-1]] += RANDOM.uniform(0.6, 0.9, (MELS, 1))
    return pictures, parts


def frames_of(picture: np.ndarray) -> np.ndarray:
    coefficients = dct(picture[0].astype(float), axis=0, norm="ortho")[: mfcc.COEFFICIENTS]
    slopes = signal.savgol_filter(coefficients, 5, 1, deriv=1, mode="nearest")
    return np.concatenate([coefficients, slopes])


def test_coefficients_of_the_active_part_are_those_of_scipy() -> None:
    pictures, parts = spectrograms()
    actual = Mfcc((1, MELS, FRAMES)).describe(torch.from_numpy(pictures)).numpy()
    for row, picture, part in zip(actual, pictures, parts, strict=True):
        places = np.linspace(part.start, part.stop - 1, mfcc.STEPS)
        expected = [np.interp(places, np.arange(FRAMES), line) for line in frames_of(picture)]
        np.testing.assert_allclose(row.reshape(len(expected), -1), expected, atol=1e-5)


def test_statistics_are_over_the_active_part() -> None:
    pictures, parts = spectrograms()
    actual = MfccStatistics((1, MELS, FRAMES)).describe(torch.from_numpy(pictures)).numpy()
    for row, picture, part in zip(actual, pictures, parts, strict=True):
        frames = frames_of(picture)[:, part]
        np.testing.assert_allclose(row, np.concatenate([frames.mean(1), frames.std(1)]), atol=1e-5)


def test_features_are_standardised_by_the_training_split() -> None:
    train, other = (torch.from_numpy(spectrograms(20)[0]) for _ in range(2))
    network = Mfcc((1, MELS, FRAMES))
    network.fit([train[:7], train[7:]])
    described = network.describe(train).double()
    expected = (network.describe(other) - described.mean(0)) / described.std(0, correction=0)
    torch.testing.assert_close(network(other), expected.clamp(-10, 10).float(), atol=1e-3, rtol=1e-3)


def test_a_sound_that_starts_later_has_the_same_features() -> None:
    pictures = np.zeros((2, 1, MELS, FRAMES), np.float32)
    sound = RANDOM.uniform(0.5, 1, (MELS, 12))
    pictures[0, 0, :, 3:15], pictures[1, 0, :, 11:23] = sound, sound
    for network in (Mfcc((1, MELS, FRAMES)), MfccStatistics((1, MELS, FRAMES))):
        first, second = network(torch.from_numpy(pictures))
        torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)
