"""Image folder: pictures of your own, one folder for each class, as a folder or in a zip file."""

from dataclasses import dataclass

from metashot.data import Form
from metashot.data.files import division, folders
from metashot.data.kinds import images
from metashot.data.sources.folder import FolderSource, about

Raw = folders.Raw
ABOUT = about("an image folder")
_FOLDER = FolderSource(images.SUFFIXES, "images")
digest, download, items = _FOLDER.digest, _FOLDER.download, _FOLDER.items


@dataclass(frozen=True, kw_only=True)
class Prepare(images.Prepare, division.Prepare):
    """Section ``prepare`` of a data set of pictures.

    Attributes:
        colour: Whether to decode pictures to RGB; grey pictures are inverted, as drawings are dark on light.
        bits: Bits of a channel that 16-bit files use: 12 if the largest value is 4,095.
        fit: How a picture that is not square becomes so: ``stretch`` it, or ``crop`` to the square in its
            middle.
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
