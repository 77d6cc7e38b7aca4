"""Pictures: PNG, JPEG, BMP and WebP files."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, NamedTuple

import numpy as np
from PIL import Image

from metashot.data.files import folders
from metashot.data.kinds import images
from metashot.onboard import near_duplicates
from metashot.onboard.looks.base import Gathered, Look, count, gathered_files

COLOURED = 16  # levels of 255 between the channels of a pixel that has a colour; JPEG makes a few of grey
SHARE = 0.01  # of the pixels of a coloured picture; of the pictures of a coloured data set
BEYOND = 2  # bits more than most pictures use: one bright spot takes them from all
PROBED = 128  # pixels along a side that are looked at for colour
TINY = 8  # pixels along a side, below which a picture shows little


class _Picture(NamedTuple):
    size: tuple[int, int]
    mode: str
    frames: int
    coloured: bool
    bits: int
    """Of a file of 16 bits those that it uses; 0 for others."""

    @property
    def deep(self) -> bool:
        """Whether it is a file of 16 bits in grey."""
        return self.bits > 0 and self.mode.startswith("I")

    @property
    def crushed(self) -> bool:
        """Whether Pillow, which reads the upper 8 of 16 bits in colour, leaves less than 8 of those used."""
        return 0 < self.bits < images.BITS[-1] and not self.mode.startswith("I")


class Pictures:
    """PNG, JPEG, BMP and WebP files."""

    source: ClassVar = "image_folder"
    noun: ClassVar = "pictures"
    suffixes: ClassVar = images.SUFFIXES

    def gather(self, raw: folders.Raw, root: Path, known: Mapping[str, Any]) -> Gathered:
        """See `Inspector.gather`."""
        return gathered_files(raw, root, known, self.suffixes, self.look)

    def look(self, content: bytes) -> Look:
        """Look at a picture; see `Gathered.look`."""
        stored = images.opened(content)
        bits = images.bits_used(stored)
        image = images.shown(stored, colour=True, bits=bits)
        with Image.open(io.BytesIO(content), formats=images.FORMATS) as opened:
            mode, frames = opened.mode, getattr(opened, "n_frames", 1)
        pixels = np.asarray(image)
        steps = [max(1, side // PROBED) for side in pixels.shape[:2]]
        probed = pixels[:: steps[0], :: steps[1]].astype(np.int16)
        coloured = bool((np.ptp(probed, axis=-1) > COLOURED).mean() > SHARE)
        thumbnail = np.asarray(image.resize(near_duplicates.THUMBNAIL, Image.Resampling.BOX))
        digests = {
            "colour": images.digest(stored, image),
            "grey": images.digest(stored, image.convert("L")),
        }
        deep = bits if "deep" in stored.info else 0
        return Look(digests, thumbnail, _Picture(image.size, mode, frames, coloured, deep))

    def rows(self, looks: Sequence[Look]) -> Mapping[str, str]:
        """See `Inspector.rows`."""
        found = [look.facts for look in looks]
        sizes = Counter(picture.size for picture in found)
        (width, height), _ = sizes.most_common(1)[0]
        shown = f"{width}x{height}"
        if len(sizes) > 1:
            sides = [sorted(side) for side in zip(*(picture.size for picture in found), strict=True)]
            shown = (
                f"{len(sizes):,} sizes, {sides[0][0]} to {sides[0][-1]} wide, {sides[1][0]} to "
                f"{sides[1][-1]} high, median {median(sides[0]):.0f}x{median(sides[1]):.0f}"
            )
        modes = Counter(picture.mode for picture in found)
        coloured = sum(picture.coloured for picture in found)
        deep = [picture.bits for picture in found if picture.bits]
        bits = (
            {"bits": f"{len(deep):,} of 16, which use {max(deep)}: the upper 8 of those count"}
            if deep
            else {}
        )
        return bits | {
            "sizes": shown,
            "modes": ", ".join(f"{count:,} {mode}" for mode, count in modes.most_common()),
            "colour": f"{'yes' if _colour(looks) else 'no'}: {coloured:,} of {len(found):,} have it",
        }

    def warnings(self, looks: Mapping[str, Look]) -> Sequence[str]:
        """See `Inspector.warnings`."""
        found = {name: look.facts for name, look in looks.items()}
        said = {
            f"less than {TINY} pixels wide or high": [n for n, p in found.items() if min(p.size) < TINY],
            "animated: the first picture of each counts": [n for n, p in found.items() if p.frames > 1],
            "of 16 bits in colour, read are the upper 8, but used are lower ones: save them with 8": [
                n for n, p in found.items() if p.crushed
            ],
        }
        if deep := [picture.bits for picture in found.values() if picture.deep]:
            usual, most = int(median(deep)), max(deep)
            left = max(0, images.BITS[0] - (most - usual))
            said[
                f"use up to {most} bits of 16: of the {usual} that most use {left} count; mend or remove them"
            ] = [n for n, p in found.items() if p.deep and p.bits > usual + BEYOND]
        return [f"{count(names, 'pictures')} {why}" for why, names in said.items() if names]

    def prepared(self, looks: Sequence[Look]) -> tuple[dict[str, Any], str]:
        """See `Inspector.prepared`. Colour pictures become 32x32 or, where most are larger than 48, 84x84."""
        colour = _colour(looks)
        side = median(median(look.facts.size) for look in looks) if looks else 0
        size = (84 if side > 48 else 32) if colour else 28
        bits = max((look.facts.bits for look in looks), default=0)
        prepare = {"image_size": size, "colour": colour} | ({"bits": bits} if bits else {})
        return prepare, "colour" if colour else "grey"

    def defaults(self, prepare: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """See `Inspector.defaults`. Colour is mirrored and shifted; grey is taken for drawings."""
        return {
            "prepare": {"rotations": False},
            "backbone": {"name": "conv4", "width": 64, "downsample": "pool"},
            "augment": {"flip": True, "shift": 0.1} if prepare["colour"] else {},
        }


def _colour(looks: Sequence[Look]) -> bool:
    return bool(sum(look.facts.coloured for look in looks) > SHARE * len(looks))
