"""Samples in, tensors out: sources, decoders, the Parquet store."""

import unicodedata
from collections.abc import Callable, Iterable, Mapping
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
        kind: Which module of `metashot.data.kinds` decodes it: ``images``, ``texts``.
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


class Item(NamedTuple):
    """A sample before it is decoded."""

    key: Key
    read: Callable[[], bytes]
    """Its bytes; MetashotError where they cannot be read. Called from any thread."""
    origin: str
    """Where it lies, for a person who has to mend it."""


def ordered(items: Iterable[Item]) -> list[Item]:
    """Samples by split, class and name."""
    return sorted(items, key=lambda item: (item.key.split, item.key.path, item.key.name))


def label_of(value: object) -> str:
    """The name of a class that a value of a table is; empty for None, NaN and blank text.

    Text is what `label` makes of it. Numbers and booleans are names too. A whole number is the same with and
    without a fraction: pandas writes 3 as 3.0 where other values of its column are missing.

    Raises ValueError for what is neither text nor a number.
    """
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    if not isinstance(value, str | int | float):  # a boolean is an int
        raise ValueError("give a text or a number")  # noqa: TRY004 - a mistake in a table
    name = label(str(value))
    whole, _, fraction = name.rpartition(".")
    digits = whole.removeprefix("-")
    return whole if digits.isascii() and digits.isdecimal() and fraction and not fraction.strip("0") else name
