"""Samples in, tensors out: sources, decoders, the Parquet store."""

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np

Split = Literal["train", "val", "test"]


def label(name: str) -> str:
    """Normalise the name of a class: Unicode form NFC, stripped.

    Applies to class names from folders, lists, tables, file names and requests.
    """
    return unicodedata.normalize("NFC", name).strip()


@dataclass(frozen=True, kw_only=True)
class About:
    """What a source says about its data.

    Attributes:
        source: Where they come from.
        licence: Under which terms.
        citation: How to cite them; may be empty.
        synthetic: Whether a program made them up.
    """

    source: str
    licence: str
    citation: str
    synthetic: bool


class Key(NamedTuple):
    """The identity of a sample."""

    split: str
    superclass: str
    class_: str
    name: str

    @property
    def path(self) -> str:
        """``<superclass>/<class>``: classes of two superclasses may share a name."""
        return f"{self.superclass}/{self.class_}"


@dataclass(frozen=True)
class Form:
    """The form of the decoded samples of a data set.

    Attributes:
        kind: Module of `metashot.data.kinds` that decodes them: ``images``, ``texts``.
        shape: Shape of a sample: ``[C, H, W]`` for pictures.
        dtype: NumPy name of its type; ``uint8`` is scaled to [0, 1] for the network.
        decoding: Parameters of the decoder.
    """

    kind: str
    shape: tuple[int, ...]
    dtype: str
    decoding: Mapping[str, Any]

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> "Form":
        """Return a form, given its ``asdict`` as read from JSON."""
        return cls(**{**fields, "shape": tuple(fields["shape"])})

    @property
    def nbytes(self) -> int:
        """Size of a sample in bytes."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


class Item(NamedTuple):
    """A sample before it is decoded."""

    key: Key
    read: Callable[[], bytes]
    """Returns the content; MetashotError if it cannot be read. Called from any thread."""
    origin: str
    """Its place, for messages."""


def ordered(items: Iterable[Item]) -> list[Item]:
    """Samples sorted by split, class and name."""
    return sorted(items, key=lambda item: (item.key.split, item.key.path, item.key.name))


def label_of(value: object) -> str:
    """Class name of a value in a table; empty for None, NaN and blank text.

    Text is normalised by `label`. Numbers and booleans are names too; 3 and 3.0 are the same name, because
    pandas writes 3.0 for 3 if other values of the column are missing.

    Raises ValueError for any other type.
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
