"""Data sources, one module each, and the functions that the download and preprocess stages call."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from metashot.catalogue import Catalogue
from metashot.data import About, Form, Item


class Prepare(Protocol):
    """Parameters of preprocessing that every source has, besides its own."""

    @property
    def rotations(self) -> bool:
        """Whether samples rotated by 90, 180 and 270 degrees are further classes."""

    @property
    def repeated(self) -> str:
        """What to do about a sample that is in two splits: ``refuse`` the data, or ``remove`` the sample."""

    @property
    def disjoint(self) -> bool:
        """Whether each class is in one split only."""

    @property
    def form(self) -> Form:
        """Shape and type of a decoded sample; its ``kind`` names the module with the decoder."""


class Source(Protocol):
    """A module that provides one data set, or the user's own data in one layout."""

    Raw: type[Any]
    """Frozen dataclass of the section ``data.<dataset>.raw`` of params.yaml, the parameters of `download`."""
    Prepare: type[Any]
    """Frozen dataclass of the section ``data.<dataset>.prepare``, the parameters of `preprocess`."""
    ABOUT: About
    """source, licence, citation, synthetic."""

    def download(self, raw: Any, directory: Path) -> None:
        """Fetch or generate the raw files."""

    def items(self, prepare: Any, directory: Path) -> Iterable[Item]:
        """Every sample in the raw files, in the order of `ordered`; may be iterated more than once."""


@runtime_checkable
class Local(Protocol):
    """A source of local files, which may change; its ``Raw`` pins their content as ``md5``."""

    def digest(self, raw: Any, root: Path) -> str:
        """Digest of the files as they are now."""


@runtime_checkable
class Encoded(Protocol):
    """A source whose samples go through an encoder, which its ``Raw`` pins as ``encoder_md5``."""

    def encoder_digest(self, raw: Any, root: Path) -> str:
        """Digest of the encoder as it is now."""

    def form(self, prepare: Any, directory: Path) -> Form:
        """`Prepare.form` with what the encoder says that `download` packed."""


@runtime_checkable
class Pretrained(Protocol):
    """A source of vectors that an encoder made, here or before."""

    def encoder_facts(self, prepare: Any, directory: Path) -> Mapping[str, str]:
        """What every result has to state: name, digest, ``trained_on`` and ``seen``; empty for no encoder."""


SOURCES: Catalogue[Source] = Catalogue(
    "source",
    __name__,
    {
        "audio_folder": "audio_folder",
        "encoded_folder": "encoded_folder",
        "glyphs": "glyphs",
        "image_folder": "image_folder",
        "omniglot": "omniglot",
        "sentence_table": "sentence_table",
        "series_table": "series_table",
        "text_table": "text_table",
        "vector_table": "vector_table",
    },
    ("Raw", "Prepare", "ABOUT", "download", "items"),
)
