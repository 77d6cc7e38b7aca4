"""Samples in, tensors out: sources, decoders, the Parquet store."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np

Split = Literal["train", "val", "test"]


def label(name: str) -> str:
    """The one spelling of a class's name: in Unicode's form NFC, without white space around it.

    Whatever names a class (folders, lists, tables, file names, a request) goes through here.
    """
    return unicodedata.normalize("NFC", name).strip()


class Key(NamedTuple):
    """What identifies a sample."""

    split: str
    superclass: str
    class_: str
    name: str

    @property
    def path(self) -> str:
        """The class as the file names it: classes of two superclasses may share a name."""
        return f"{self.superclass}/{self.class_}"


@dataclass(frozen=True)
class Form:
    """What every sample of a data set is.

    Attributes:
        kind: Which module of `metashot.data` decodes it: ``images``, ``texts``.
        shape: Of a sample: ``[C, H, W]`` for pictures.
        dtype: NumPy's name of its type; ``uint8`` is scaled to [0, 1] for the network.
        decoding: What the decoder has to know.
    """

    kind: str
    shape: tuple[int, ...]
    dtype: str
    decoding: Mapping[str, Any]

    @classmethod
    def parse(cls, said: Mapping[str, Any]) -> "Form":
        """Return the form that ``asdict`` of one said."""
        return cls(**{**said, "shape": tuple(said["shape"])})

    @property
    def nbytes(self) -> int:
        """Bytes of a sample."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize
