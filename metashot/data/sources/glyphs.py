"""Glyphs: a synthetic data set like Omniglot, generated offline in seconds.

The characters of 16 scripts from the DejaVu fonts that matplotlib ships, each drawn by several synthetic
writers. A writer has a pen width, a slant and favourite fonts; every drawing is also rotated, scaled,
sheared, shifted and bent.
"""

import functools
import io
import multiprocessing
import unicodedata
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter, maximum_filter
from tqdm import tqdm

from metashot.data import About, Item, Split
from metashot.data.files import archive
from metashot.data.kinds import images
from metashot.errors import MetashotError
from metashot.files import replacing
from metashot.section import Section

ABOUT = About(
    source="drawn from the DejaVu fonts that matplotlib ships",
    licence="DejaVu fonts: Bitstream Vera licence and public domain",
    citation="",
    synthetic=True,
)
_ARCHIVE = "glyphs.zip"


class Script(NamedTuple):
    """A script: its split, and the first and last code point of each range of its characters."""

    split: Split
    ranges: tuple[tuple[int, int], ...]


# Of two characters that look alike, the first is kept; small scripts come first, to keep theirs
SCRIPTS: Mapping[str, Script] = {
    "Hebrew": Script("val", ((0x5D0, 0x5EA),)),
    "Old_Italic": Script("val", ((0x10300, 0x1032F),)),
    "Lisu": Script("val", ((0xA4D0, 0xA4FF),)),
    "Greek": Script("val", ((0x370, 0x3E1), (0x3F0, 0x3FF))),
    "Armenian": Script("train", ((0x531, 0x58F),)),
    "Ogham": Script("train", ((0x1680, 0x169F),)),
    "Nko": Script("test", ((0x7C0, 0x7FF),)),
    "Lao": Script("test", ((0xE80, 0xEFF),)),
    "Georgian": Script("test", ((0x10A0, 0x10FF), (0x2D00, 0x2D2F))),
    "Cyrillic": Script("test", ((0x400, 0x52F), (0xA640, 0xA69F))),
    "Coptic": Script("train", ((0x3E2, 0x3EF),)),
    "Tifinagh": Script("train", ((0x2D30, 0x2D7F),)),
    "Arabic": Script("train", ((0x620, 0x6FF),)),
    "Latin": Script(
        "train", ((0x41, 0x7A), (0xC0, 0x2AF), (0x1D00, 0x1D7F), (0x2C60, 0x2C7F), (0xA722, 0xA7FF))
    ),
    "Canadian_Aboriginal": Script("train", ((0x1400, 0x167F),)),
    "Mathematical": Script("train", ((0x2200, 0x22FF), (0x2A00, 0x2AFF))),
}
# The first font that has a character gives the shape by which duplicates are found
FONTS = (
    *("Sans", "Sans-Bold", "Sans-Oblique", "Serif", "Serif-Bold", "Serif-Italic"),
    *("SansMono", "SansMono-Bold"),
)
_CANVAS = 64  # height and width of the distance field of a character
_EXTENT = 40  # longer side of the character in it
_PAPER = 56  # height and width of a drawing, in pixels
_SIMILAR = 0.90  # cosine similarity of blurred shapes above which characters count as duplicates
_BINS = 256  # sub-pixel positions


@dataclass(frozen=True, kw_only=True)
class Raw(Section):
    """Section ``data.glyphs.raw`` of params.yaml.

    Attributes:
        seed: Seed of all drawings.
        writers: Number of drawings of each character.
    """

    seed: int
    writers: int

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed: {self.seed} is negative")
        if not 2 <= self.writers <= 100:
            raise ValueError(f"writers: {self.writers} is not between 2 and 100")


@dataclass(frozen=True, kw_only=True)
class Prepare(images.Drawings):
    """Section ``data.glyphs.prepare`` of params.yaml."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size > _PAPER:
            raise ValueError(f"image_size: {self.image_size} is more than {_PAPER}, the size of the drawings")


class _Hand(NamedTuple):
    """The style of a writer, the same for all characters."""

    fonts: NDArray[np.int64]  # indices into FONTS, the favourite first
    pen: float  # half the width of a stroke, in pixels of the canvas
    slant: float
    aspect: float  # width to height


def items(prepare: Prepare, directory: Path) -> list[Item]:
    """Every drawing. A character ``<script>/<code point>`` is in the split of its script."""
    return archive.items(directory / _ARCHIVE, images.SUFFIXES, lambda _, script, *name: _split_of(script))


def _split_of(script: str) -> Split:
    if script not in SCRIPTS:
        raise MetashotError(f"glyphs: {script!r} is not one of the scripts {', '.join(SCRIPTS)}")
    return SCRIPTS[script].split


def download(raw: Raw, directory: Path) -> None:
    """Draw every character ``raw.writers`` times, to glyphs.zip; the same parameters give the same bytes."""
    characters = distinct(_fonts())
    with (
        # not forked: processes would share the position in a font's open file
        ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool,
        replacing(directory / _ARCHIVE) as partial,
        zipfile.ZipFile(partial, "w") as packed,
    ):
        drawn = pool.map(functools.partial(_pictures, raw), [code for _, code in characters], chunksize=16)
        bar = tqdm(drawn, "drawing", len(characters), unit=" characters", leave=False, disable=None)
        for (script, code), pictures in zip(characters, bar, strict=True):
            for writer, picture in enumerate(pictures, start=1):
                # A new ZipInfo has the date 1980-01-01, not today's
                packed.writestr(zipfile.ZipInfo(f"{script}/U+{code:04X}/{writer:02d}.png"), picture)


def _pictures(raw: Raw, code: int) -> list[bytes]:
    """PNG files of a character, one by each writer."""
    return [_png(ink) for ink in _draw(raw.seed, _fonts(), _hands(raw), code)]


class _Font:
    """A DejaVu font whose characters are signed distance fields."""

    def __init__(self, name: str) -> None:
        self._font = FT2Font(Path(matplotlib.get_data_path(), "fonts", "ttf", f"DejaVu{name}.ttf"))
        self._font.set_size(64, 72)
        self.codes = frozenset(self._font.get_charmap())

    def field(self, code: int) -> NDArray[np.float64]:
        """Distance to the edge of a stroke, ``[_CANVAS, _CANVAS]``, positive inside.

        The character is centred, and scaled so that its longer side is `_EXTENT`.
        """
        self._font.set_text(chr(code))
        self._font.draw_glyphs_to_bitmap()
        bitmap = np.asarray(self._font.get_image())
        rows, columns = np.nonzero(bitmap > 127)
        bitmap = bitmap[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        height, width = (max(1, round(side * _EXTENT / max(bitmap.shape))) for side in bitmap.shape)
        glyph = Image.fromarray(bitmap).resize((width, height), Image.Resampling.BILINEAR)
        canvas = Image.new("L", (_CANVAS, _CANVAS))
        canvas.paste(glyph, ((_CANVAS - width) // 2, (_CANVAS - height) // 2))
        ink = np.asarray(canvas) > 127
        distance: NDArray[np.float64] = distance_transform_edt(ink) - distance_transform_edt(~ink)
        return distance


@functools.cache
def _fonts() -> list[_Font]:
    return [_Font(name) for name in FONTS]


def distinct(fonts: list[_Font]) -> list[tuple[str, int]]:
    """Script and code point of every character in the fonts that does not look like an earlier one.

    Marks and composed characters (é, presentation forms) are excluded.
    """
    kept: list[tuple[str, int]] = []
    characters = list(_characters())
    shapes = np.empty((len(characters), (_CANVAS // 4) ** 2), np.int32)  # of the characters kept
    for script, code in characters:
        font = next((font for font in fonts if code in font.codes), None)
        if font is None:
            continue
        field = font.field(code)
        # One pen for all, so that bold does not make a difference; integers, so that processors agree
        ink = (field + _thickening(field, 2.0) > 0).astype(np.float64)
        shape = np.round(255 * gaussian_filter(ink, 2.0)[2::4, 2::4]).astype(np.int32).ravel()
        earlier = shapes[: len(kept)]
        norms = np.sqrt(np.einsum("ni,ni->n", earlier, earlier, dtype=np.float64) * (shape @ shape))
        if np.all(np.einsum("ni,i->n", earlier, shape) <= _SIMILAR * norms):
            shapes[len(kept)] = shape
            kept.append((script, code))
    return kept


def _characters() -> Iterator[tuple[str, int]]:
    for script, (_, ranges) in SCRIPTS.items():
        for first, last in ranges:
            for code in range(first, last + 1):
                letter = unicodedata.category(chr(code))[0] in "LN" or script == "Mathematical"
                if letter and not unicodedata.decomposition(chr(code)):
                    yield script, code


def _thickening(field: NDArray[np.float64], pen: float) -> float:
    """What to add to a distance field for strokes of half width ``pen``; hairlines are preserved."""
    middle = np.sort(field[(field > 0) & (field == maximum_filter(field, 3))])  # centre lines of strokes
    hairline, stroke = middle[len(middle) // 20], middle[len(middle) // 2]
    return float(max(pen - stroke, 0.8 - hairline))


@functools.cache
def _hands(raw: Raw) -> list[_Hand]:
    hands = []
    for writer in range(raw.writers):
        random = np.random.default_rng([raw.seed, writer])
        hand = _Hand(
            fonts=random.permutation(len(FONTS)),
            pen=random.uniform(1.2, 2.6),
            slant=random.uniform(-0.2, 0.2),
            aspect=random.uniform(0.85, 1.2),
        )
        hands.append(hand)
    return hands


def _draw(seed: int, fonts: list[_Font], hands: list[_Hand], code: int) -> NDArray[np.bool_]:
    """Drawings of a character, one by each writer: ``[writers, _PAPER, _PAPER]``, True for ink.

    Positions are rounded to 1/_BINS pixel, and the rest is integer arithmetic, so that processors agree on
    every pixel.
    """
    random = np.random.default_rng([seed, 1 << 20, code])
    n = len(hands)
    favourites = [next(index for index in hand.fonts if code in fonts[index].codes) for hand in hands]
    used, which = np.unique(favourites, return_inverse=True)
    fields = np.stack([fonts[index].field(code) for index in used])
    lift = np.array([_thickening(fields[i], hand.pen) for i, hand in zip(which, hands, strict=True)])
    fixed = np.round(fields * _BINS).astype(np.int32)

    # From paper to canvas: scale, rotate, slant; then shift and bend
    scale = _CANVAS / _PAPER * random.uniform(0.85, 1.15, n)
    angle = random.uniform(-0.25, 0.25, n)
    slant = random.uniform(-0.15, 0.15, n) + [hand.slant for hand in hands]
    aspect = np.sqrt(random.uniform(0.85, 1.18, n) * [hand.aspect for hand in hands])
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])  # rows y, x
    shear = np.array([[np.ones(n), np.zeros(n)], [slant, np.ones(n)]])
    matrix = np.einsum("ijn,jkn,n->nik", shear, rotation, scale)
    matrix *= np.stack([aspect, 1 / aspect], axis=1)[:, :, None]
    shift = random.uniform(-2, 2, (n, 2))
    bend = _SPLINE @ random.uniform(-_BEND, _BEND, (n, 2, _KNOTS, _KNOTS)) @ _SPLINE.T

    axis = np.arange(_PAPER) - (_PAPER - 1) / 2
    place = matrix[:, :, 0, None, None] * axis[:, None] + matrix[:, :, 1, None, None] * axis
    place += bend + shift[:, :, None, None] + (_CANVAS - 1) / 2
    position = np.clip(np.round(place * _BINS).astype(np.int32), 0, (_CANVAS - 1) * _BINS - 1)
    (y, x), (dy, dx) = np.moveaxis(position // _BINS, 1, 0), np.moveaxis(position % _BINS, 1, 0)
    corner = (which[:, None, None] * _CANVAS + y) * _CANVAS + x
    flat = fixed.ravel()
    upper = flat[corner] * (_BINS - dx) + flat[corner + 1] * dx
    lower = flat[corner + _CANVAS] * (_BINS - dx) + flat[corner + _CANVAS + 1] * dx
    distance = (upper // _BINS * (_BINS - dy) + lower // _BINS * dy) // _BINS
    ink: NDArray[np.bool_] = distance > np.round(-lift * _BINS).astype(np.int32)[:, None, None]
    return ink


def _splines(size: int, knots: int) -> NDArray[np.float64]:
    """Weights ``[size, knots]`` of the control points of a cubic B-spline at evenly spaced places."""
    distance = np.abs(np.linspace(0.5, knots - 1.5, size)[:, None] - np.arange(knots))
    near, far = 2 / 3 - distance**2 + distance**3 / 2, np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, near, far)


_KNOTS = 5
_SPLINE = _splines(_PAPER, _KNOTS)
_BEND = 6.0  # largest displacement of a control point, in pixels of the canvas


def _png(ink: NDArray[np.bool_]) -> bytes:
    """1-bit PNG, black ink on white."""
    stream = io.BytesIO()
    Image.fromarray(~ink).save(stream, "PNG")
    return stream.getvalue()
