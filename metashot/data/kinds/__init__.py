"""Kinds of samples, one module each, with the decoder to an array of the data set's form."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from metashot.catalogue import Catalogue
from metashot.data import Form
from metashot.data.kinds.base import Use


class Kind(Protocol):
    """A module that decodes one kind of samples.

    It may also have ``measured(form, contents) -> Form``, which adds to the decoding what the contents of the
    training split say (`series.measured`); preprocessing calls it before it decodes.
    """

    Prepare: type[Any]
    """Frozen dataclass of the keys of ``prepare`` that all sources of the kind share."""

    USE: Use
    """The kind as the user of a registered model sees it."""

    def decode(self, content: bytes, form: Form) -> tuple[Any, bytes]:
        """Array of a sample in a form, and a digest of 16 bytes that is equal for equal content.

        Raises ValueError whose message completes "is …": "not a readable picture (truncated)"; MetashotError
        if no sample can be decoded at all.
        """

    def served(self, value: Any, form: Form) -> Any:
        """Array for the network of a value in a request (`Use.holds`), prepared as the training data were.

        Raises ValueError, naming the value, if it is not a sample of this kind; MetashotError if no sample
        can be decoded at all.
        """


INFINITE = "a sample whose vector is not finite"


@runtime_checkable
class Encoded(Protocol):
    """A kind whose samples go through an encoder: `Kind.decode` and `Kind.served` give what it takes."""

    def encode(self, samples: Sequence[Any], form: Form) -> Any:
        """Arrays ``[M, *shape]``, each of its own sample alone; MetashotError if none can be encoded."""

    def place(self, folder: Path) -> str:
        """Make the encoder in a folder known to `encode`; its digest."""


def arrays(kind: Kind, samples: Sequence[Any], form: Form) -> tuple[Any, Sequence[int]]:
    """Arrays ``[M, *shape]`` of samples as `Kind.decode` or `Kind.served` give them.

    Returns also the positions of those whose numbers are not all finite.

    Raises MetashotError as `Encoded.encode`.
    """
    if not isinstance(kind, Encoded):
        return np.stack(samples), []
    encoded = kind.encode(samples, form)
    return encoded, np.flatnonzero(~np.isfinite(encoded).all(axis=1)).tolist()


KINDS: Catalogue[Kind] = Catalogue(
    "kind",
    __name__,
    {
        "encoded_images": "encoded_images",
        "images": "images",
        "sentences": "sentences",
        "series": "series",
        "sounds": "sounds",
        "texts": "texts",
        "vectors": "vectors",
    },
    ("Prepare", "USE", "decode", "served"),
)
