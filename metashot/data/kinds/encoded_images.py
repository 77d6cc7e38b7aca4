"""Pictures as vectors of a frozen encoder: a folder of timm, or an architecture of torchvision.

Pictures are encoded in preprocessing, and in requests to a registered model; training sees vectors only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metashot.data import Form, encoders
from metashot.data.encoders.pictures import PictureEncoder
from metashot.data.kinds import images
from metashot.data.kinds.base import file_bytes

SIZES = 16, 1024  # smallest and largest side in pixels
place = encoders.place


USE = replace(
    images.USE,
    prepared="Pictures are encoded by the encoder of the training data: one that is too large for "
    "the model to carry is in the folder that METASHOT_ENCODER names.",
    varied=False,
)


@dataclass(frozen=True, kw_only=True)
class Prepare(encoders.Prepare):
    """Encoding of pictures: the keys of ``prepare`` that all sources of encoded pictures share.

    Attributes:
        image_size: Height and width in pixels that pictures are scaled to; 0 for those that the encoder was
            trained with.
        fit: How a picture that is not square becomes so: ``crop`` to the square in its middle, or
            ``stretch``.
        bits: Bits of a channel that 16-bit files use.
    """

    rotations: ClassVar[bool] = False

    image_size: int = 0
    fit: Literal["crop", "stretch"] = "crop"
    bits: int = images.BITS[-1]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size and not SIZES[0] <= self.image_size <= SIZES[1]:
            raise ValueError(
                f"image_size: {self.image_size} is neither 0 nor between {SIZES[0]} and {SIZES[1]}"
            )
        if self.bits not in images.BITS:
            raise ValueError(f"bits: {self.bits} is not between {images.BITS[0]} and {images.BITS[-1]}")

    @property
    def form(self) -> Form:
        """See `sources.Prepare`; without what the encoder's files say, which `download` packs."""
        chosen = {"image_size": self.image_size, "fit": self.fit, "bits": self.bits}
        return Form("encoded_images", (self.width,), "float32", chosen)


def decode(content: bytes, form: Form) -> tuple[NDArray[np.uint8], bytes]:
    """A picture file as RGB ``[3, H, W]``, as the encoder takes it, and a digest of its pixels before.

    Raises ValueError as `images.decode`.
    """
    stored = images.opened(content)
    image = images.shown(stored, colour=True, bits=form.decoding["bits"])
    return _scaled(image, form), images.digest(stored, image)


def encode(samples: Sequence[NDArray[np.uint8]], form: Form) -> NDArray[np.float32]:
    """See `Kind.encode`."""
    options: Any = (form.decoding["image_size"], tuple(form.decoding["mean"]), tuple(form.decoding["std"]))
    encoder = encoders.loaded(form, options, partial(PictureEncoder, form=form))
    return encoders.encode(encoder, samples, form)


def served(value: object, form: Form) -> NDArray[np.uint8]:
    """A picture file as RGB ``[3, H, W]``. Raises ValueError as `images.served`."""
    content = file_bytes(value, USE.noun)
    largest = images.LARGEST_SERVED
    return _scaled(images.picture(content, colour=True, largest=largest, bits=form.decoding["bits"]), form)


def _scaled(image: Image.Image, form: Form) -> NDArray[np.uint8]:
    size, side = form.decoding["image_size"], min(image.size)
    if form.decoding["fit"] == "crop":
        left, top = ((length - side) // 2 for length in image.size)
        image = image.crop((left, top, left + side, top + side))
    filter_ = Image.Resampling[form.decoding["interpolation"].upper()]
    return np.asarray(image.resize((size, size), filter_)).transpose(2, 0, 1)
