"""Sounds: WAV and FLAC files to log-mel spectrograms of one size."""

import functools
import hashlib
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from metashot.data import Form
from metashot.data.kinds.base import Use, file_bytes
from metashot.section import Section

FORMATS = ("WAV", "WAVEX", "RF64", "FLAC")
SUFFIXES = frozenset({".wav", ".wave", ".bwf", ".rf64", ".flac"})
RATES = range(1_000, 384_001)  # Hz; between some others resampling would exhaust the memory
UNREADABLE = (RuntimeError, ValueError, TypeError, OSError, EOFError, MemoryError, OverflowError)
_PIPED = 0x7FFF_0000  # sizes from here on are of a WAV file whose length was not known when it was begun
_CHUNKS = 1000  # of a WAV file, at most so many before its sound
_UNKNOWN = (1 << 63) - 1  # frames that libsndfile says of a FLAC file, likewise
_DECODED = 1 << 28  # values of a stream that are decoded to get to its middle: seconds
_BLOCK = 1 << 20  # values in memory at once, whatever the number of channels


USE = Use(
    noun="sound",
    column="sound",
    holds="the bytes of a WAV or FLAC file",
    prepared="Sounds are brought to the model's sample rate and length: the middle counts, and silence is "
    "added.",
    suffixes=SUFFIXES,
    formats="wav, flac",
)


@dataclass(frozen=True, kw_only=True)
class Prepare(Section):
    """How sounds are made equal: the keys of ``prepare`` that every source of sounds has.

    Attributes:
        sample_rate: Samples in a second, after resampling.
        seconds: How much of a sound counts: its middle. What is shorter gets silence at both ends.
        mels: Rows of the spectrogram.
        window_ms: Length of the piece of sound behind one column, in milliseconds.
        hop_ms: From one piece to the next, in milliseconds.
        range_db: How far below the loudest place a value may lie, in decibels; what is below is 0.
    """

    rotations: ClassVar[bool] = False

    sample_rate: int
    seconds: float
    mels: int
    window_ms: float
    hop_ms: float
    range_db: float

    def __post_init__(self) -> None:
        if self.sample_rate not in RATES:
            raise ValueError(f"sample_rate: {self.sample_rate} is not between {RATES[0]} and {RATES[-1]}")
        for key, most in (("seconds", 60), ("mels", 512), ("window_ms", 1000), ("range_db", 200)):
            if not 0 < (value := getattr(self, key)) <= most:
                raise ValueError(f"{key}: {value} is not above 0 and at most {most}")
        if not 0 < self.hop_ms <= self.window_ms <= 1000 * self.seconds:
            raise ValueError(
                f"hop_ms: 0 < hop_ms ({self.hop_ms}) <= window_ms ({self.window_ms}) <= seconds "
                f"({self.seconds}) does not hold"
            )
        window, hop, _ = _lengths(self.sample_rate, self.seconds, self.window_ms, self.hop_ms)
        if not hop:
            raise ValueError(f"hop_ms: {self.hop_ms} is less than half a sample at {self.sample_rate} Hz")
        if not filters(self.mels, self.sample_rate, _bins(window)).any(axis=1).all():
            raise ValueError(
                f"mels: {self.mels} are too many for windows of {self.window_ms} ms at {self.sample_rate} Hz"
            )

    @property
    def form(self) -> Form:
        """See `sources.Prepare`."""
        window, hop, length = _lengths(self.sample_rate, self.seconds, self.window_ms, self.hop_ms)
        decoding = {
            "sample_rate": self.sample_rate,
            "seconds": self.seconds,
            "window_ms": self.window_ms,
            "hop_ms": self.hop_ms,
            "range_db": self.range_db,
        }
        return Form("sounds", (1, self.mels, 1 + (length - window) // hop), "uint8", decoding)


def decode(content: bytes, form: Form) -> tuple[NDArray[np.uint8], bytes]:
    """A sound file as a picture ``[1, mels, frames]``, low tones first, and a digest of what it was made of.

    Channels are averaged, the middle is taken and resampled (polyphase), and ended with silence on both sides
    where it is too short. The power of windows (Hann) is summed under mel filters. 255 is the greatest sum,
    0 is ``range_db`` decibels less, and linear in decibels between them: how loud a recording is does not
    count. Windows lie within the sound; the first begins with it.

    Raises ValueError when it cannot be read, is empty, shorter than one window, or not of finite numbers.
    """
    said, mels = form.decoding, form.shape[1]
    rate = said["sample_rate"]
    window, hop, length = _lengths(rate, said["seconds"], said["window_ms"], said["hop_ms"])
    middle, from_rate = _middle(content, said["seconds"], rate)
    if not np.isfinite(middle).all():
        raise ValueError("a sound with values that are not finite")
    if 1000 * len(middle) < said["window_ms"] * from_rate:
        milliseconds = 1000 * len(middle) / from_rate
        raise ValueError(f"too short: {milliseconds:.3g} ms are less than a window of {said['window_ms']} ms")
    digest = hashlib.blake2b(f"{from_rate} ".encode() + middle.tobytes(), digest_size=16).digest()
    loudest = np.abs(middle).max() or 1.0  # powers of floating-point files may be beyond all numbers
    sound = _fitted(_resampled(middle / loudest, from_rate, rate), length)
    # not as a product of matrices: its threads are in the way of those that decode
    power = np.einsum("mb,bf->mf", filters(mels, rate, _bins(window)), _power(sound, window, hop))
    least = 10 ** (-said["range_db"] / 10)
    decibels = 10 * np.log10(np.maximum(power / (power.max() or 1.0), least))
    return np.rint(255 * (1 + decibels / said["range_db"])).astype(np.uint8)[None], digest


class About(NamedTuple):
    """What the head of a sound file says; the rate in Hz."""

    seconds: float
    rate: int
    channels: int


def about(content: bytes) -> About:
    """Read what a sound file says of itself. Raises ValueError as `decode` does."""
    with _opened(content) as (file, frames):
        return About(frames / file.samplerate, file.samplerate, file.channels)


def served(value: object, form: Form) -> NDArray[np.float32]:
    """A sound file as ``[1, mels, frames]`` in [0, 1], prepared as the training data were; see `decode`."""
    return decode(file_bytes(value, USE.noun), form)[0].astype(np.float32) / np.float32(255)


@functools.cache
def filters(mels: int, rate: int, bins: int) -> NDArray[np.float64]:
    """Triangular filters ``[mels, bins]`` for a spectrum of ``bins`` frequencies from 0 to half the rate.

    Their centres, and the ends of the outermost, are equally spaced from 0 to half the rate on the mel scale
    of O'Shaughnessy (1987), which HTK uses, ``2595 log10(1 + f / 700)``. A filter is 1 at its centre and
    falls, linearly in hertz, to 0 at the centres beside it.
    """
    highest = 2595 * math.log10(1 + rate / 2 / 700)
    low, centre, high = (
        700 * (10 ** (np.linspace(0, highest, mels + 2)[i : i + mels, None] / 2595) - 1) for i in range(3)
    )
    at = np.linspace(0, rate / 2, bins)
    rising, falling = (at - low) / (centre - low), (high - at) / (high - centre)
    return np.maximum(0, np.minimum(rising, falling))


def _lengths(rate: int, seconds: float, window_ms: float, hop_ms: float) -> tuple[int, int, int]:
    """Of a window, from window to window, and of the whole, in samples."""
    return round(window_ms * rate / 1000), round(hop_ms * rate / 1000), round(seconds * rate)


def _bins(window: int) -> int:
    """Frequencies of a window's spectrum: of the next power of two, up to half the rate."""
    return 1 + (1 << max(1, (window - 1).bit_length())) // 2


def _middle(content: bytes, seconds: float, rate: int) -> tuple[NDArray[np.float64], int]:
    """The middle of a sound, channels averaged, with what resampling sees beside it; and its sample rate."""
    with _opened(content) as (file, frames):
        beside = 2 * math.ceil(10 * max(1, file.samplerate / rate))  # the filter of scipy's resample_poly
        wanted = min(frames, math.ceil(seconds * file.samplerate) + beside)
        _seek(file, (frames - wanted) // 2)
        parts = [part.mean(axis=1) for part in _blocks(file, wanted)]
        if (got := sum(map(len, parts))) < wanted:
            raise ValueError(f"cut off: {got:,} of {wanted:,} samples")
        return np.concatenate(parts), file.samplerate


@contextmanager
def _opened(content: bytes) -> Iterator[tuple[Any, int]]:
    """A sound file that is not empty, and how many frames it has.

    What goes wrong with it in the block is a ValueError.
    """
    declared = int.from_bytes(content[4:8], "little") + 8
    if content[:4] == b"RIFF" and len(content) + 1 < declared < _PIPED:  # an odd end may lack its padding
        raise ValueError(f"cut off: {len(content):,} of {declared:,} bytes")
    content = _measured(content)
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            if file.format not in FORMATS:
                raise ValueError(f"a file of format {file.format}; WAV and FLAC are read")
            if file.samplerate not in RATES:
                raise ValueError(f"a sound of {file.samplerate} Hz, not of {RATES[0]} to {RATES[-1]}")
            frames = file.frames
            if not frames:
                raise ValueError("empty")
            if file.seekable() and frames < _UNKNOWN:
                yield file, frames
                return
            longest = _DECODED // file.channels
        if frames == _UNKNOWN:
            with _Stream(io.BytesIO(content)) as file:
                frames = sum(map(len, _blocks(file, longest + 1)))
        if frames > longest:
            raise ValueError(f"too long for a stream: more than {longest:,} samples of each channel")
        with _Stream(io.BytesIO(content)) as file:
            yield file, frames
    except soundfile.LibsndfileError as error:
        reason = error.error_string.removeprefix("Error : ").rstrip(".")
        raise ValueError(f"not a readable sound, WAV or FLAC ({reason})") from None
    except UNREADABLE as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None


class _Stream(soundfile.SoundFile):  # type: ignore[misc]
    """A sound that is read from its beginning: in some encodings, and behind the end, no place is found."""

    def seekable(self) -> bool:
        return False


def _seek(file: soundfile.SoundFile, frame: int) -> None:
    if file.seekable():
        file.seek(frame)
    else:
        for _ in _blocks(file, frame):
            pass


def _blocks(file: soundfile.SoundFile, frames: int) -> Iterator[NDArray[np.float64]]:
    """The next frames, ``[M, channels]`` at a time, as far as there are any."""
    most = max(1, _BLOCK // file.channels)
    while frames > 0:
        block = file.read(min(frames, most), dtype="float64", always_2d=True)
        if not len(block):
            return
        frames -= len(block)
        yield block


def _measured(content: bytes) -> bytes:
    """A WAV file. One that was written to a pipe, and says that it has no sound, gets all that follows."""
    at = 12
    for _ in range(_CHUNKS if content[:4] == b"RIFF" else 0):
        name, size = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little")
        after = content[at + 8 : at + 16]
        if name == b"data":
            another = after[:4].isalnum() and int.from_bytes(after[4:], "little") <= len(content) - at - 16
            piped = not size and after and not another
            return content[: at + 4] + b"\xff" * 4 + content[at + 8 :] if piped else content
        at += 8 + size + size % 2
    return content


def _resampled(sound: NDArray[np.float64], from_rate: int, rate: int) -> NDArray[Any]:
    from scipy import signal  # slow to import, and most of what reads sounds' parameters needs none of it

    if from_rate == rate:
        return sound
    common = math.gcd(rate, from_rate)
    return np.asarray(signal.resample_poly(sound, rate // common, from_rate // common))


def _fitted(sound: NDArray[Any], length: int) -> NDArray[Any]:
    """The middle of a sound, or the sound in the middle of silence."""
    start = max(0, len(sound) - length) // 2
    sound = sound[start : start + length]
    before = (length - len(sound)) // 2
    return np.pad(sound, (before, length - len(sound) - before))


def _power(sound: NDArray[Any], window: int, hop: int) -> NDArray[np.float64]:
    """Power spectrum of each window: ``[bins, frames]``."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    windows = np.lib.stride_tricks.sliding_window_view(sound, window)[::hop]
    spectra = np.fft.rfft(windows * hann, 2 * (_bins(window) - 1))
    return np.asarray(spectra.real**2 + spectra.imag**2).T
