"""Vectors: numbers that another program made of samples of any kind, taken as they are."""

import hashlib
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from metashot.data import Form, encoders
from metashot.data.kinds.base import Use, described

USE = Use(
    noun="vector",
    column="vector",
    holds="a list of numbers, from the program that made the training data",
    prepared="Vectors are taken as they are.",
)


@dataclass(frozen=True, kw_only=True)
class Prepare(encoders.Prepare):
    """The keys of ``prepare`` that every source of vectors has."""

    rotations: ClassVar[bool] = False

    @property
    def form(self) -> Form:
        """See `sources.Prepare`."""
        return Form("vectors", (self.width,), "float32", {})


def decode(content: bytes, form: Form) -> tuple[NDArray[np.float32], bytes]:
    """A vector ``[width]`` of float32, and a digest of it.

    Raises ValueError for another width, and for numbers that are not finite.
    """
    vector = np.frombuffer(content, "<f4")
    if vector.shape != form.shape:
        raise ValueError(f"{len(vector):,} numbers long, not {form.shape[0]:,}")
    if len(gaps := np.flatnonzero(~np.isfinite(vector))):
        raise ValueError(f"without a finite number at position {gaps[0]}")
    return vector, hashlib.blake2b(content, digest_size=16).digest()


def served(value: Any, form: Form) -> NDArray[np.float32]:
    """A list of numbers as a vector ``[width]``. Raises ValueError for any other value."""
    try:
        vector = np.asarray(value, np.float32)
    except (TypeError, ValueError):
        vector = np.empty((0, 0), np.float32)
    if vector.ndim != 1:
        raise ValueError(f"{described(value)}: give a list of {form.shape[0]:,} numbers")
    return decode(vector.astype("<f4").tobytes(), form)[0]
