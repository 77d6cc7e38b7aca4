"""Kinds of samples, a module each: how one is decoded to an array of the data set's form."""

from typing import Any, Protocol

from metashot.catalogue import Catalogue
from metashot.data import Form
from metashot.data.kinds.base import Use


class Kind(Protocol):
    """A module that makes arrays of one kind of samples."""

    Prepare: type[Any]
    """Frozen dataclass of the keys of ``prepare`` that every source of the kind has."""

    USE: Use
    """How people give them to a model."""

    def decode(self, content: bytes, form: Form) -> tuple[Any, bytes]:
        """The array that ``form`` describes, and 16 bytes that are equal for what is the same to a person.

        Raises ValueError, saying what the content is: "not a readable picture (truncated)"; MetashotError
        where no sample can be decoded.
        """

    def served(self, value: Any, form: Form) -> Any:
        """A value of a table as the network takes it, prepared as the training data were; see `Use.holds`.

        Raises ValueError, saying what the value is, where it is not such a sample; MetashotError where no
        sample can be decoded.
        """


KINDS: Catalogue[Kind] = Catalogue(
    "kind",
    __name__,
    {
        "images": "images",
        "sentences": "sentences",
        "series": "series",
        "sounds": "sounds",
        "texts": "texts",
    },
    ("Prepare", "USE", "decode", "served"),
)
