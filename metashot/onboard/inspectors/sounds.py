"""Sounds: WAV and FLAC files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from metashot.data.files import folders
from metashot.data.kinds import sounds
from metashot.onboard.inspectors.base import Gathered, SampleInspection, count, gather_files, spread

RATE = 16_000  # Hz; higher sample rates are reduced to this one, which is enough for speech
LONGEST = 2.0  # seconds; longer sounds are cropped
WINDOW, HOP = 40.0, 20.0  # ms


class _Sound(NamedTuple):
    seconds: float
    rate: int
    channels: int
    silent: bool


class Sounds:
    """WAV and FLAC files."""

    source: ClassVar = "audio_folder"
    noun: ClassVar = "sounds"
    suffixes: ClassVar = sounds.SUFFIXES

    def gather(self, raw: folders.Raw, root: Path, known: Mapping[str, Any]) -> Gathered:
        """See `Inspector.gather`."""
        return gather_files(raw, root, known, self.suffixes, self.inspect)

    def inspect(self, content: bytes) -> SampleInspection:
        """Inspect a sound; see `Gathered.inspect`."""
        about = sounds.about(content)
        prepare = self._prepare(about.rate, about.seconds)
        form = sounds.Prepare(**prepare).form
        spectrogram, digest = sounds.decode(content, form)
        silent = not spectrogram.any()
        return SampleInspection({"": digest}, None, _Sound(about.seconds, about.rate, about.channels, silent))

    def summary(self, samples: Sequence[SampleInspection]) -> Mapping[str, str]:
        """See `Inspector.summary`."""
        sounds = [sample.facts for sample in samples]
        rates = Counter(sound.rate for sound in sounds)
        channels = Counter(sound.channels for sound in sounds)
        return {
            "seconds": spread([sound.seconds for sound in sounds], ".2f"),
            "rates": ", ".join(f"{count:,} of {rate:,} Hz" for rate, count in rates.most_common()),
            "channels": ", ".join(f"{count:,} with {number}" for number, count in channels.most_common()),
        }

    def warnings(self, samples: Mapping[str, SampleInspection]) -> Sequence[str]:
        """See `Inspector.warnings`."""
        silent = [name for name, sample in samples.items() if sample.facts.silent]
        return [f"silent: {count(silent, 'sounds')}"] if silent else []

    def detected(self, samples: Sequence[SampleInspection]) -> tuple[dict[str, Any], str]:
        """See `Inspector.detected`. The length is that which 95 % of the sounds do not exceed."""
        rates = Counter(sample.facts.rate for sample in samples).most_common(1)
        lengths = [sample.facts.seconds for sample in samples] or [LONGEST]
        prepare = self._prepare(rates[0][0] if rates else RATE, float(np.quantile(lengths, 0.95)))
        return {key: prepare[key] for key in ("sample_rate", "seconds")}, ""

    def defaults(self, prepare: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """See `Inspector.defaults`."""
        proposed = self._prepare(prepare["sample_rate"], prepare["seconds"])
        return {
            "prepare": {key: value for key, value in proposed.items() if key not in prepare},
            "backbone": {"name": "conv4", "width": 64, "downsample": "pool"},
            "augment": {},
        }

    def _prepare(self, rate: int, seconds: float) -> dict[str, Any]:
        """Section ``prepare`` for sounds of a rate and length; spectrograms are large enough for Conv-4."""
        return {
            "sample_rate": min(rate, RATE),
            "seconds": float(np.clip(np.ceil(10 * seconds) / 10, 0.4, LONGEST)),
            "mels": 40 if rate >= 8000 else 20,
            "window_ms": WINDOW,
            "hop_ms": HOP,
            "range_db": 80.0,
        }
