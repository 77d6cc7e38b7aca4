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
from metashot.errors import reason_of
from metashot.section import Section

FORMATS = ("WAV", "WAVEX", "RF64", "FLAC")
SUFFIXES = frozenset({".wav", ".wave", ".bwf", ".rf64", ".flac"})
RATES = range(1_000, 384_001)  # Hz; resampling between other rates might exhaust the memory
UNREADABLE = (RuntimeError, ValueError, TypeError, OSError, EOFError, MemoryError, OverflowError)
_PIPED = 0x7FFF_0000  # from this size on, the header of a WAV file was written before its length was known
_CHUNKS = 1000  # of a WAV file before its sound, at most
_UNKNOWN = (1 << 63) - 1  # libsndfile's number of frames of a FLAC file that was piped
_DECODED = 1 << 28  # values of a stream to decode to reach its middle, at most: takes seconds
_BLOCK = 1 << 20  # values in memory at once, over all channels
FEATURES: tuple[str, ...] = ("mfcc", "mfcc_statistics", "identity")


USE = Use(
    noun="sound",
    column="sound",
    holds="the bytes of a WAV or FLAC file",
    prepared="Sounds are brought to the model's sample rate and length: longer ones are cut to their middle, "
    "shorter ones padded with silence.",
    suffixes=SUFFIXES,
    formats="wav, flac",
)


@dataclass(frozen=True, kw_only=True)
class Prepare(Section):
    """Preparation of sounds: the keys of ``prepare`` that all sources of sounds share.

    Attributes:
        sample_rate: Sample rate after resampling, in Hz.
        seconds: Length after cropping to the middle, or padding with silence at both ends.
        mels: Number of mel bands, the rows of the spectrogram.
        window_ms: Length of a window, one column of the spectrogram, in milliseconds.
        hop_ms: Distance between two windows, in milliseconds.
        range_db: Dynamic range in decibels below the loudest value; lower values become 0.
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
        for key, largest in (("seconds", 60), ("mels", 512), ("window_ms", 1000), ("range_db", 200)):
            if not 0 < (value := getattr(self, key)) <= largest:
                raise ValueError(f"{key}: {value} is not above 0 and at most {largest}")
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
    """Log-mel spectrogram ``[1, mels, frames]`` of a sound file, low bands first, and a digest of the sound.

    Channels are averaged; the middle is taken, resampled (polyphase), and padded with silence on both sides
    if it is too short. Power spectra of Hann windows are summed by mel filters. The scale is linear in
    decibels, with 255 for the largest value and 0 for ``range_db`` less, so the volume of a recording does
    not matter. Windows lie within the sound, and the first starts with it.

    Raises ValueError if the sound cannot be read, is empty, shorter than one window, or not finite.
    """
    decoding, mels = form.decoding, form.shape[1]
    rate, range_db = decoding["sample_rate"], decoding["range_db"]
    window, hop, length = _lengths(rate, decoding["seconds"], decoding["window_ms"], decoding["hop_ms"])
    middle, from_rate = _middle(content, decoding["seconds"], rate)
    if not np.isfinite(middle).all():
        raise ValueError("a sound with values that are not finite")
    if 1000 * len(middle) < decoding["window_ms"] * from_rate:
        milliseconds = 1000 * len(middle) / from_rate
        raise ValueError(
            f"too short: {milliseconds:.3g} ms are less than a window of {decoding['window_ms']} ms"
        )
    digest = hashlib.blake2b(f"{from_rate} ".encode() + middle.tobytes(), digest_size=16).digest()
    peak = np.abs(middle).max() or 1.0  # the power of floating-point samples could overflow
    sound = _fitted(_resampled(middle / peak, from_rate, rate), length)
    # not a matrix product, whose threads would compete with those that decode
    power = np.einsum("mb,bf->mf", filters(mels, rate, _bins(window)), _power(sound, window, hop))
    decibels = 10 * np.log10(np.maximum(power / (power.max() or 1.0), 10 ** (-range_db / 10)))
    return np.rint(255 * (1 + decibels / range_db)).astype(np.uint8)[None], digest


class SoundHeader(NamedTuple):
    """The header of a sound file; rate in Hz."""

    seconds: float
    rate: int
    channels: int


def about(content: bytes) -> SoundHeader:
    """Read the header of a sound file. Raises ValueError as `decode` does."""
    with _opened(content) as (file, frames):
        return SoundHeader(frames / file.samplerate, file.samplerate, file.channels)


def served(value: object, form: Form) -> NDArray[np.float32]:
    """Spectrogram ``[1, mels, frames]`` in [0, 1] of a sound file, as in `decode`."""
    return decode(file_bytes(value, USE.noun), form)[0].astype(np.float32) / np.float32(255)


@functools.cache
def filters(mels: int, rate: int, bins: int) -> NDArray[np.float64]:
    """Triangular filters ``[mels, bins]`` for a spectrum of ``bins`` frequencies from 0 to half the rate.

    Their centres, and the ends of the outermost, are equally spaced from 0 to half the rate on the mel scale
    of O'Shaughnessy (1987), as in HTK: ``2595 log10(1 + f / 700)``. A filter is 1 at its centre and falls
    linearly (in Hz) to 0 at the neighbouring centres.
    """
    highest = 2595 * math.log10(1 + rate / 2 / 700)
    low, centre, high = (
        700 * (10 ** (np.linspace(0, highest, mels + 2)[i : i + mels, None] / 2595) - 1) for i in range(3)
    )
    frequencies = np.linspace(0, rate / 2, bins)
    rising, falling = (frequencies - low) / (centre - low), (high - frequencies) / (high - centre)
    return np.maximum(0, np.minimum(rising, falling))


def _lengths(rate: int, seconds: float, window_ms: float, hop_ms: float) -> tuple[int, int, int]:
    """Length of a window, hop and length of the sound, in audio samples."""
    return round(window_ms * rate / 1000), round(hop_ms * rate / 1000), round(seconds * rate)


def _bins(window: int) -> int:
    """Number of frequencies in the spectrum of a window padded to the next power of two."""
    return 1 + (1 << max(1, (window - 1).bit_length())) // 2


def _middle(content: bytes, seconds: float, rate: int) -> tuple[NDArray[np.float64], int]:
    """The middle of a sound, channels averaged, with a margin for resampling; and its sample rate."""
    with _opened(content) as (file, frames):
        margin = 2 * math.ceil(10 * max(1, file.samplerate / rate))  # the filter of scipy's resample_poly
        expected = min(frames, math.ceil(seconds * file.samplerate) + margin)
        _seek(file, (frames - expected) // 2)
        blocks = [block.mean(axis=1) for block in _blocks(file, expected)]
        if (actual := sum(map(len, blocks))) < expected:
            raise ValueError(f"cut off: {actual:,} of {expected:,} samples")
        return np.concatenate(blocks), file.samplerate


@contextmanager
def _opened(content: bytes) -> Iterator[tuple[Any, int]]:
    """Open a sound file that is not empty; yields its number of frames too.

    Errors of the file within the block become ValueErrors.
    """
    declared = int.from_bytes(content[4:8], "little") + 8
    if content[:4] == b"RIFF" and len(content) + 1 < declared < _PIPED:  # the last byte may be padding
        raise ValueError(f"cut off: {len(content):,} of {declared:,} bytes")
    content = _with_length(content)
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
        raise ValueError(reason_of(error)) from None


class _Stream(soundfile.SoundFile):  # type: ignore[misc]
    """A sound that is read from its beginning: in some encodings, or without a length, seeking fails."""

    def seekable(self) -> bool:
        return False


def _seek(file: soundfile.SoundFile, frame: int) -> None:
    if file.seekable():
        file.seek(frame)
    else:
        for _ in _blocks(file, frame):
            pass


def _blocks(file: soundfile.SoundFile, frames: int) -> Iterator[NDArray[np.float64]]:
    """Blocks ``[M, channels]`` of the next frames, fewer if the file ends."""
    size = max(1, _BLOCK // file.channels)
    while frames > 0:
        block = file.read(min(frames, size), dtype="float64", always_2d=True)
        if not len(block):
            return
        frames -= len(block)
        yield block


def _with_length(content: bytes) -> bytes:
    """Mend the header of a WAV file that was piped and declares a length of 0: all that follows is sound."""
    start = 12  # of the current chunk
    for _ in range(_CHUNKS if content[:4] == b"RIFF" else 0):
        name, size = content[start : start + 4], int.from_bytes(content[start + 4 : start + 8], "little")
        after = content[start + 8 : start + 16]
        if name == b"data":
            rest = len(content) - start - 16
            another = after[:4].isalnum() and int.from_bytes(after[4:], "little") <= rest
            piped = not size and after and not another
            return content[: start + 4] + b"\xff" * 4 + content[start + 8 :] if piped else content
        start += 8 + size + size % 2
    return content


def _resampled(sound: NDArray[np.float64], from_rate: int, rate: int) -> NDArray[Any]:
    from scipy import signal  # slow to import, and not needed to read parameters

    if from_rate == rate:
        return sound
    common = math.gcd(rate, from_rate)
    return np.asarray(signal.resample_poly(sound, rate // common, from_rate // common))


def _fitted(sound: NDArray[Any], length: int) -> NDArray[Any]:
    """Crop a sound to its middle, or pad it with silence on both sides."""
    start = max(0, len(sound) - length) // 2
    sound = sound[start : start + length]
    before = (length - len(sound)) // 2
    return np.pad(sound, (before, length - len(sound) - before))


def _power(sound: NDArray[Any], window: int, hop: int) -> NDArray[np.float64]:
    """Power spectrum ``[bins, frames]`` of each window."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    windows = np.lib.stride_tricks.sliding_window_view(sound, window)[::hop]
    spectra = np.fft.rfft(windows * hann, 2 * (_bins(window) - 1))
    return np.asarray(spectra.real**2 + spectra.imag**2).T
