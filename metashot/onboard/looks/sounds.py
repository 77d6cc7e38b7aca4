"""Sounds: WAV and FLAC files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from metashot.data.files import folders
from metashot.data.kinds import sounds
from metashot.onboard.looks.base import Gathered, Look, count, gathered_files, spread

RATE = 16_000  # Hz, to which sounds of more are brought: what is heard of speech
LONGEST = 2.0  # seconds of a sound that count
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
        return gathered_files(raw, root, known, self.suffixes, self.look)

    def look(self, content: bytes) -> Look:
        """Look at a sound; see `Gathered.look`."""
        about = sounds.about(content)
        prepare = self._prepare(about.rate, about.seconds)
        form = sounds.Prepare(**prepare).form
        spectrogram, digest = sounds.decode(content, form)
        silent = not spectrogram.any()
        return Look({"": digest}, None, _Sound(about.seconds, about.rate, about.channels, silent))

    def rows(self, looks: Sequence[Look]) -> Mapping[str, str]:
        """See `Inspector.rows`."""
        found = [look.facts for look in looks]
        rates, channels = (
            Counter(values) for values in zip(*((s.rate, s.channels) for s in found), strict=True)
        )
        return {
            "seconds": spread([sound.seconds for sound in found], ".2f"),
            "rates": ", ".join(f"{count:,} of {rate:,} Hz" for rate, count in rates.most_common()),
            "channels": ", ".join(f"{count:,} with {number}" for number, count in channels.most_common()),
        }

    def warnings(self, looks: Mapping[str, Look]) -> Sequence[str]:
        """See `Inspector.warnings`."""
        silent = [name for name, look in looks.items() if look.facts.silent]
        return [f"silent: {count(silent, 'sounds')}"] if silent else []

    def prepared(self, looks: Sequence[Look]) -> tuple[dict[str, Any], str]:
        """See `Inspector.prepared`."""
        rates = Counter(look.facts.rate for look in looks).most_common(1)
        most = float(np.quantile([look.facts.seconds for look in looks], 0.95)) if looks else LONGEST
        return {
            key: value
            for key, value in self._prepare(rates[0][0] if rates else RATE, most).items()
            if key in ("sample_rate", "seconds")
        }, ""

    def defaults(self, prepare: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """See `Inspector.defaults`."""
        whole = self._prepare(prepare["sample_rate"], prepare["seconds"])
        return {
            "prepare": {key: value for key, value in whole.items() if key not in prepare},
            "backbone": {"name": "conv4", "width": 64, "downsample": "pool"},
            "augment": {},
        }

    def _prepare(self, rate: int, seconds: float) -> dict[str, Any]:
        """How sounds of a rate and length are prepared, so that a spectrogram is large enough for Conv-4."""
        return {
            "sample_rate": min(rate, RATE),
            "seconds": float(np.clip(np.ceil(10 * seconds) / 10, 0.4, LONGEST)),
            "mels": 40 if rate >= 8000 else 20,
            "window_ms": WINDOW,
            "hop_ms": HOP,
            "range_db": 80.0,
        }
