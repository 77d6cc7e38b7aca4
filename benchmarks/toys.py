"""Synthetic sounds and series, made up so that few-shot methods have something to learn without a download.

They say that a pipeline works, and nothing about real sounds or measurements.
"""

import csv
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

CHANNELS = ("x", "y", "z")


def chirp(class_: int, sample: int, rate: int) -> NDArray[np.float64]:
    """A tone that slides and trembles: where from, where to, how bent and how fast are the class's.

    Pitch, length, loudness, phase and noise are the sample's.
    """
    of_class, of_sample = np.random.default_rng([1, class_]), np.random.default_rng([2, class_, sample])
    start, end = np.exp(of_class.uniform(np.log(200), np.log(3500), 2))
    bend, tremolo, depth = 2 ** of_class.uniform(-2, 2), of_class.uniform(2, 14), of_class.uniform(0, 0.9)
    length = round(of_sample.uniform(0.6, 1.1) * rate)
    place = np.linspace(0, 1, length)
    pitch = (start + (end - start) * place**bend) * 2 ** of_sample.uniform(-0.08, 0.08)
    tone = np.sin(2 * np.pi * (np.cumsum(pitch) / rate + of_sample.uniform()))
    beat = 1 - depth * (
        0.5 + 0.5 * np.sin(2 * np.pi * (tremolo * np.arange(length) / rate + of_sample.uniform()))
    )
    noise = of_sample.uniform(0.01, 0.1) * of_sample.standard_normal(length)
    return of_sample.uniform(0.1, 0.8) * np.clip(0.9 * tone * beat + noise, -1, 1)


def write_sound(path: Path, class_: int, sample: int) -> None:
    """A chirp as a file; rate, depth and channels differ from file to file."""
    rate = (8000, 16000, 22050, 44100)[(class_ + sample) % 4]
    sound = chirp(class_, sample, rate)
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = np.stack([sound, 0.5 * sound], axis=1) if sample % 3 == 0 else sound
    soundfile.write(path, channels, rate, subtype="PCM_24" if sample % 2 else "PCM_16")


def oscillation(class_: int, sample: int) -> NDArray[np.float64]:
    """A damped oscillation of three channels ``[3, T]``: frequencies, damping and coupling are the class's.

    Phase, size, length, noise and a slow drift, larger than what it hides, are the sample's.
    """
    of_class, of_sample = np.random.default_rng([3, class_]), np.random.default_rng([4, class_, sample])
    frequency, damping = of_class.uniform(0.02, 0.2, 3), of_class.uniform(0, 0.03, 3)
    steps = np.arange(of_sample.integers(100, 160))
    frequency = frequency * of_sample.uniform(0.95, 1.05)
    phase = of_sample.uniform(0, 1) + of_class.uniform(0, 1, 3)
    wave = np.sin(2 * np.pi * (frequency[:, None] * steps + phase[:, None])) * np.exp(
        -damping[:, None] * steps
    )
    noise = of_sample.uniform(0.1, 0.4) * of_sample.standard_normal(wave.shape)
    slow, start, size = of_sample.uniform([0.002, 0, 1], [0.015, 1, 4], (3, 3)).T[:, :, None]
    drift = size * np.sin(2 * np.pi * (slow * steps + start))
    return of_sample.uniform(0.5, 20) * (wave + noise + drift)


def split_of(class_: int, classes: int) -> str:
    """Three fifths of the classes are for training, a fifth each for validation and test."""
    place = class_ / classes
    return "train" if place < 0.6 else "val" if place < 0.8 else "test"


def write_series(path: Path, classes: int, samples: int) -> None:
    """Oscillations as a CSV file with the columns id, label, split, time and the channels."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label", "split", "time", *CHANNELS])
        for class_ in range(classes):
            for sample in range(samples):
                name, split = f"{class_:03d}-{sample:02d}", split_of(class_, classes)
                for step, values in enumerate(oscillation(class_, sample).T):
                    writer.writerow([name, f"wave{class_:03d}", split, step, *(f"{v:.6g}" for v in values)])
