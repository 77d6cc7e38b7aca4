"""Image folder: pictures of your own, one folder for each class, as a folder or in a zip file."""

from collections.abc import Mapping
from dataclasses import dataclass

from metashot.data import Form
from metashot.data.files import folders
from metashot.data.kinds import images

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
        bits: How many of their bits files of 16 use: 12 where the greatest value is 4,095.
        fit: What becomes of a picture that is not square: its sides are stretched to one length, or cropped
            to the square in its middle.
    """

    colour: bool
    bits: int = images.BITS[-1]
    fit: images.Fit = "stretch"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bits not in images.BITS:
            raise ValueError(f"bits: {self.bits} is not between {images.BITS[0]} and {images.BITS[-1]}")
        if self.fit not in ("stretch", "crop"):
            raise ValueError(f"fit: {self.fit!r} is neither 'stretch' nor 'crop'")

    @property
    def form(self) -> Form:
        """See `sources.Prepare`."""
        return images.form(self.image_size, 3 if self.colour else 1, self.bits, self.fit)
