"""The fixed backbones that methods without training choose from, a module for each kind of samples."""

from typing import Protocol

from metashot.catalogue import Catalogue


class Features(Protocol):
    """A module that lists them for one kind."""

    NAMES: tuple[str, ...]
    """Names in the catalogue of backbones."""


FEATURES: Catalogue[Features] = Catalogue(
    "features",
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
    ("NAMES",),
)
