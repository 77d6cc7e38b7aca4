"""Pictures: PNG, JPEG, BMP and WebP files to arrays of one size."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from metashot.data import Form
from metashot.data.kinds.base import Use, file_bytes
from metashot.section import Section

if TYPE_CHECKING:  # takes seconds to import, see `fitted`
    from torch import Tensor

Fit = Literal["stretch", "crop"]
FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".bmp", ".dib", ".webp"},
)
BITS = range(8, 17)  # of a channel
LARGEST = 100_000_000  # pixels; more is a mistake, or made to exhaust the memory
UNREADABLE = (
    *(OSError, EOFError, SyntaxError, ValueError, RuntimeError),  # what Pillow's decoders raise
    *(MemoryError, OverflowError, IndexError, KeyError, TypeError),
)
FEATURES: tuple[str, ...] = ("hog", "hog_fine", "colours", "identity")


USE = Use(
    noun="picture",
    column="image",
    holds="the bytes of a PNG or JPEG file",
    prepared="Pictures are scaled to the model's size. Models with one channel read drawings: dark ink on "
    "light paper and light ink on dark are both understood, told apart by the picture's border.",
    suffixes=SUFFIXES,
    formats="png, jpeg, bmp, webp",
    varied=True,
)
LARGEST_SERVED = 25_000_000  # pixels: some 500 MB while it is decoded


@dataclass(frozen=True, kw_only=True)
class Prepare(Section):
    """How pictures are made equal: the keys of ``prepare`` that every source of pictures has.

    Attributes:
        image_size: Height and width in pixels.
        rotations: Whether turned pictures are classes of their own.
    """

    image_size: int
    rotations: bool

    def __post_init__(self) -> None:
        if not 8 <= self.image_size <= 1024:
            raise ValueError(f"image_size: {self.image_size} is not between 8 and 1024")


@dataclass(frozen=True, kw_only=True)
class Drawings(Prepare):
    """Square pictures of characters in black and white, in splits that share neither classes nor drawings."""

    repeated: ClassVar[Literal["refuse", "remove"]] = "refuse"
    disjoint: ClassVar[bool] = True

    @property
    def form(self) -> Form:
        """See `sources.Prepare`."""
        return form(self.image_size, 1)


def form(image_size: int, channels: int, bits: int = BITS[-1], fit: Fit = "stretch") -> Form:
    """Square pictures, grey or RGB; see `shown` for the bits, `fitted` for the fit."""
    chosen = {"bits": (bits, BITS[-1]), "fit": (fit, "stretch")}
    decoding = {key: value for key, (value, usual) in chosen.items() if value != usual}
    return Form("images", (channels, image_size, image_size), "uint8", decoding)


def decode(content: bytes, form: Form) -> tuple[NDArray[np.uint8], bytes]:
    """A picture file as ``[C, H, W]``, and a digest of its pixels before they were scaled.

    Grey ones are drawings: they are inverted, so that ink is 255 on a background of 0. The size is that of
    the form, see `fitted`.

    Raises ValueError for what `opened` and `shown` refuse.
    """
    colour = form.shape[0] == 3
    stored = opened(content)
    image = shown(stored, colour=colour, bits=bits_of(form))
    pixels = fitted(image, form).numpy()
    return pixels if colour else 255 - pixels, digest(stored, image)


def fitted(image: Image.Image, form: Form) -> "Tensor":
    """A picture in grey or RGB as uint8 ``[C, H, W]`` of the form's size.

    It is scaled by an antialiasing filter (Lanczos). With ``stretch`` the whole picture is, whatever its
    sides; with ``crop`` the largest square in its middle, so that shapes stay as they are.
    """
    # Takes two seconds, with torch: nobody else who imports this module is to wait for it
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as transforms

    if form.decoding.get("fit") == "crop":  # before it is scaled: a strip would grow beyond all memory
        image = transforms.center_crop(image, [min(image.size)])
    scaled = transforms.resize(image, list(form.shape[1:]), InterpolationMode.LANCZOS)
    pixels: Tensor = transforms.pil_to_tensor(scaled)
    return pixels


def digest(stored: Image.Image, image: Image.Image) -> bytes:
    """16 bytes that are equal for pictures of equal pixels: as shown, or as stored where that is more."""
    pixels = stored if "deep" in stored.info else image
    return hashlib.blake2b(
        f"{pixels.mode} {pixels.size}".encode() + pixels.tobytes(), digest_size=16
    ).digest()


def bits_of(form: Form) -> int:
    """How many bits of 16 the pictures of a data set use: all, where it does not say."""
    bits: int = form.decoding.get("bits", BITS[-1])
    return bits


def picture(content: bytes, *, colour: bool, largest: int = LARGEST, bits: int = BITS[-1]) -> Image.Image:
    """Open a picture file, in grey or RGB, the right way up: `opened` and `shown`."""
    return shown(opened(content, largest=largest), colour=colour, bits=bits)


def opened(content: bytes, *, largest: int = LARGEST) -> Image.Image:
    """A picture file as it is stored, the right way up. Of an animation the first picture counts.

    Raises ValueError when it cannot be read, and for more than ``largest`` pixels.
    """
    with _readable(largest), Image.open(io.BytesIO(content), formats=FORMATS) as stored:
        if stored.width * stored.height > largest:  # known before anything is decoded
            raise ValueError(f"{stored.width}x{stored.height} is more than {largest:,} pixels")
        image = ImageOps.exif_transpose(stored)
        if stored.format == "PNG" and content[24:25] == b"\x10":  # bits of a channel
            if image.mode == "RGB" and (clear := image.info.get("transparency")):
                image.info["transparency"] = tuple(value >> 8 for value in clear)  # as the pixels are
                image = image.convert("RGBA")
            image.info["deep"] = True
        return image


def shown(stored: Image.Image, *, colour: bool, bits: int = BITS[-1]) -> Image.Image:
    """A picture in grey or RGB of 8 bits. What is transparent shows white paper.

    Files of 16 bits hold values of 16, or of less: 12 from many cameras and scanners. Of those bits that the
    data set uses, the same for all of its pictures, the upper 8 are taken. Of 16 bits in colour Pillow reads
    the upper 8 alone, so of 12 there are 4 left.

    Raises ValueError for a picture of 16 bits that uses more than ``bits``.
    """
    if (used := bits_used(stored)) > bits:
        raise ValueError(
            f"a picture of {used} bits, where the data set has {bits}: bring it to their scale, or run "
            "`metashot init` where it is one of them"
        )
    with _readable(LARGEST):
        image = stored
        if _deep_grey(stored):
            values = np.asarray(stored)
            image = Image.fromarray((values >> (bits - 8)).astype(np.uint8))
            if (clear := stored.info.get("transparency")) is not None:
                image.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
        elif "deep" in stored.info and bits < BITS[-1]:
            colours, *alpha = _without_alpha(stored)
            image = colours.point(lambda value: value << (BITS[-1] - bits))
            if alpha:
                image.putalpha(alpha[0])
        if image.has_transparency_data:
            drawn = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn)
        return image.convert("RGB" if colour else "L")


def bits_used(stored: Image.Image) -> int:
    """Bits of a channel that a picture's values need, 8 at least."""
    if _deep_grey(stored):
        return max(BITS[0], int(np.asarray(stored).max()).bit_length())
    if "deep" not in stored.info:
        return BITS[0]
    # What Pillow reads is shifted by 8
    return BITS[0] + int(np.asarray(_without_alpha(stored)[0]).max()).bit_length()


def served(value: object, form: Form) -> NDArray[np.float32]:
    """A picture file as ``[C, H, W]`` in [0, 1], prepared as the training data were.

    Models with one channel read drawings: ink is 1 on a background of 0. A drawing whose border is mostly
    lighter than mid-grey is dark ink on light paper, and is inverted; light on dark is taken as it is.

    Raises ValueError as `picture` does, for a picture of more than 25 million pixels, and for what is not a
    file's bytes.
    """
    from torchvision.transforms.v2 import functional as transforms

    colour = form.shape[0] == 3
    encoded = file_bytes(value, USE.noun)
    image = picture(encoded, colour=colour, largest=LARGEST_SERVED, bits=bits_of(form))
    if not colour:
        drawing = np.asarray(image)
        border = np.concatenate([drawing[0], drawing[-1], drawing[:, 0], drawing[:, -1]])
        if np.median(border) > 127:
            image = ImageOps.invert(image)
    # Divided by 255, as in training; `to_dtype` multiplies by 1 / 255, which rounds otherwise
    scaled: NDArray[np.float32] = transforms.normalize(fitted(image, form).float(), [0.0], [255.0]).numpy()
    return scaled


def _deep_grey(stored: Image.Image) -> bool:
    return stored.mode.startswith("I")


def _without_alpha(stored: Image.Image) -> list[Image.Image]:
    """The colours, and the alpha channel if there is one."""
    if stored.mode not in ("LA", "RGBA"):
        return [stored]
    return [stored.convert(stored.mode.removesuffix("A")), stored.getchannel("A")]


@contextmanager
def _readable(largest: int) -> Iterator[None]:
    """What goes wrong with a picture in the block is a ValueError."""
    try:
        yield
    except Image.DecompressionBombError:  # Pillow's own limit, above the one asked for
        raise ValueError(f"not a readable picture (more than {largest:,} pixels)") from None
    except UnidentifiedImageError:
        raise ValueError("not a readable picture (PNG, JPEG, BMP and WebP are)") from None
    except UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"not a readable picture ({reason})") from None
