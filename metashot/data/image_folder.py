"""Image folder: pictures of your own, one folder for each class, as a folder or in a zip file."""

from collections.abc import Mapping
from dataclasses import dataclass

from metashot.data import Form, folders, images

Raw = folders.Raw
ABOUT: Mapping[str, object] = {
    "source": "an image folder",
    "licence": "as its owner says",
    "citation": "",
    "synthetic": False,
}
_FOLDER = folders.Folder(images.SUFFIXES, "images")
digest, download, items = _FOLDER.digest, _FOLDER.download, _FOLDER.items


@dataclass(frozen=True, kw_only=True)
class Prepare(images.Prepare, folders.Prepare):
    """Section ``prepare`` of a data set that is a folder of pictures.

    Attributes:
        colour: Whether pictures are RGB; grey ones are inverted, as drawings are dark on light.
    """

    colour: bool

    @property
    def form(self) -> Form:
        """See `source.Prepare`."""
        return images.form(self.image_size, 3 if self.colour else 1)
