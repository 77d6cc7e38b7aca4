"""Pictures: PNG, JPEG, BMP and WebP files to arrays of one size."""

import hashlib
import io
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from metashot.data import Form

FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
LARGEST = 100_000_000  # pixels; more is a mistake, or made to exhaust the memory
UNREADABLE = (
    *(OSError, EOFError, SyntaxError, ValueError, RuntimeError),  # what Pillow's decoders raise
    *(MemoryError, OverflowError, IndexError, KeyError, TypeError),
)


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """How pictures are made equal: the keys of ``prepare`` that every source of pictures has.

    Attributes:
        image_size: Height and width in pixels.
        rotations: Whether turned pictures are classes of their own.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    image_size: int
    rotations: bool

    def __post_init__(self) -> None:
        if not 8 <= self.image_size <= 1024:
            raise ValueError(f"image_size: {self.image_size} is not between 8 and 1024")


@dataclass(frozen=True, kw_only=True)
class Drawings(Prepare):
    """Characters in black and white, in splits that share neither classes nor drawings."""

    repeated: ClassVar[Literal["refuse", "remove"]] = "refuse"
    disjoint: ClassVar[bool] = True

    @property
    def form(self) -> Form:
        """See `source.Prepare`."""
        return form(self.image_size, 1)


def form(image_size: int, channels: int) -> Form:
    """Square pictures, grey or RGB."""
    return Form("images", (channels, image_size, image_size), "uint8", {})


def decode(content: bytes, form: Form) -> tuple[NDArray[np.uint8], bytes]:
    """A picture file as ``[C, H, W]``, and a digest of its pixels before they were scaled.

    Grey ones are drawings: they are inverted, so that ink is 255 on a background of 0. Scaled by an
    antialiasing filter (Lanczos); the sides are stretched to the form's.

    Raises ValueError for what `picture` refuses.
    """
    channels, height, width = form.shape
    image = picture(content, colour=channels == 3)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
    return pixels.transpose(2, 0, 1) if channels == 3 else 255 - pixels[None], digest(image)


def digest(image: Image.Image) -> bytes:
    """16 bytes that are equal for pictures of equal pixels."""
    return hashlib.blake2b(f"{image.mode} {image.size}".encode() + image.tobytes(), digest_size=16).digest()


def picture(content: bytes, *, colour: bool, largest: int = LARGEST) -> Image.Image:
    """Open a picture file, in grey or RGB, the right way up.

    What is transparent shows white paper. Of an animation the first picture counts. Of 16 bits the upper 8.

    Raises ValueError when it cannot be read, and for more than ``largest`` pixels.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            if opened.width * opened.height > largest:  # known before anything is decoded
                raise ValueError(f"{opened.width}x{opened.height} is more than {largest:,} pixels")
            image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I"):  # Pillow would cut off all above 255
            image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
        if image.has_transparency_data:
            drawn = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn)
        return image.convert("RGB" if colour else "L")
    except Image.DecompressionBombError:  # Pillow's own limit, above the one asked for
        raise ValueError(f"not a readable picture (more than {largest:,} pixels)") from None
    except UnidentifiedImageError:
        raise ValueError("not a readable picture (PNG, JPEG, BMP and WebP are)") from None
    except UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"not a readable picture ({reason})") from None
