"""Sources of data: a module each, and what it offers to the download and preprocess stages."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from metashot.catalogue import Catalogue
from metashot.data import Form, Item


class Prepare(Protocol):
    """How samples are made from what was downloaded: parameters that every source has, beside its own."""

    @property
    def rotations(self) -> bool:
        """Whether the samples turned by 90, 180 and 270 degrees are classes of their own."""

    @property
    def repeated(self) -> str:
        """What becomes of a sample that is in two splits: ``refuse`` it all, or ``remove`` one of them."""

    @property
    def disjoint(self) -> bool:
        """Whether the splits have classes of their own."""

    @property
    def form(self) -> Form:
        """What every sample becomes; its ``kind`` names the module with the decoder."""


class Source(Protocol):
    """A module that gets data of one kind, or one data set."""

    Raw: type[Any]
    """Frozen dataclass of the section ``data.<dataset>.raw`` of params.yaml: what `download` depends on."""
    Prepare: type[Any]
    """Frozen dataclass of the section ``data.<dataset>.prepare``: what `preprocess` depends on."""
    ABOUT: Mapping[str, object]
    """source, licence, citation, synthetic."""

    def download(self, raw: Any, directory: Path) -> None:
        """Make or fetch the raw files."""

    def items(self, prepare: Any, directory: Path) -> Iterable[Item]:
        """Every sample in the raw files, as `ordered` puts them, whenever they are iterated."""


@runtime_checkable
class Local(Protocol):
    """A source of files on this machine, which may change; its ``Raw`` pins their content as ``md5``."""

    def digest(self, raw: Any, root: Path) -> str:
        """Digest of the files as they are now."""


@runtime_checkable
class Encoded(Protocol):
    """A source with an encoder on this machine, which its ``Prepare`` pins as ``encoder_md5``."""

    def encoder_digest(self, prepare: Any, root: Path) -> str:
        """Digest of the encoder as it is now."""


SOURCES: Catalogue[Source] = Catalogue(
    "source",
    __name__,
    {
        "audio_folder": "audio_folder",
        "glyphs": "glyphs",
        "image_folder": "image_folder",
        "omniglot": "omniglot",
        "sentence_table": "sentence_table",
        "series_table": "series_table",
        "text_table": "text_table",
    },
    ("Raw", "Prepare", "ABOUT", "download", "items"),
)
