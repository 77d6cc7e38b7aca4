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
from metashot.onboard.inspectors.base import Gathered, SampleInspection, count, gather_files

COLOURED = 16  # levels of 255 between the channels of a coloured pixel; JPEG adds a few to grey
SHARE = 0.01  # of coloured pixels in a coloured picture, and of coloured pictures in a coloured data set
EXCESS_BITS = 2  # bits more than most pictures use that are worth a warning: all others lose them
PROBED = 128  # pixels along a side that are examined for colour
TINY = 8  # pixels along a side, below which a picture shows little


class _Picture(NamedTuple):
    size: tuple[int, int]
    mode: str
    frames: int
    coloured: bool
    bits: int
    """Bits that a 16-bit file uses; 0 for other files."""

    @property
    def deep(self) -> bool:
        """Whether it is a 16-bit file in grey."""
        return self.bits > 0 and self.mode.startswith("I")

    @property
    def crushed(self) -> bool:
        """Whether Pillow, which reads the upper 8 of 16 bits in colour, drops some of the bits in use."""
        return 0 < self.bits < images.BITS[-1] and not self.mode.startswith("I")


class Pictures:
    """PNG, JPEG, BMP and WebP files."""

    source: ClassVar = "image_folder"
    noun: ClassVar = "pictures"
    suffixes: ClassVar = images.SUFFIXES

    def gather(self, raw: folders.Raw, root: Path, known: Mapping[str, Any]) -> Gathered:
        """See `Inspector.gather`."""
        return gather_files(raw, root, known, self.suffixes, self.inspect)

    def inspect(self, content: bytes) -> SampleInspection:
        """Inspect a picture; see `Gathered.inspect`."""
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
        return SampleInspection(digests, thumbnail, _Picture(image.size, mode, frames, coloured, deep))

    def summary(self, samples: Sequence[SampleInspection]) -> Mapping[str, str]:
        """See `Inspector.summary`."""
        pictures = [sample.facts for sample in samples]
        sizes = Counter(picture.size for picture in pictures)
        (width, height), _ = sizes.most_common(1)[0]
        shown = f"{width}x{height}"
        if len(sizes) > 1:
            sides = [sorted(side) for side in zip(*(picture.size for picture in pictures), strict=True)]
            shown = (
                f"{len(sizes):,} sizes, {sides[0][0]} to {sides[0][-1]} wide, {sides[1][0]} to "
                f"{sides[1][-1]} high, median {median(sides[0]):.0f}x{median(sides[1]):.0f}"
            )
        modes = Counter(picture.mode for picture in pictures)
        coloured = sum(picture.coloured for picture in pictures)
        deep = [picture.bits for picture in pictures if picture.bits]
        bits = {"bits": f"{len(deep):,} with 16, using up to {max(deep)}, reduced to 8"} if deep else {}
        return bits | {
            "sizes": shown,
            "modes": ", ".join(f"{count:,} {mode}" for mode, count in modes.most_common()),
            "colour": f"{'yes' if _colour(samples) else 'no'}: in {coloured:,} of {len(pictures):,}",
        }

    def warnings(self, samples: Mapping[str, SampleInspection]) -> Sequence[str]:
        """See `Inspector.warnings`."""
        pictures = {name: sample.facts for name, sample in samples.items()}
        affected = {
            f"less than {TINY} pixels wide or high": [n for n, p in pictures.items() if min(p.size) < TINY],
            "animated: only the first frame is used": [n for n, p in pictures.items() if p.frames > 1],
            "with 16 bits in colour: the upper 8 are read, but lower ones are in use; save them with 8": [
                n for n, p in pictures.items() if p.crushed
            ],
        }
        if deep := [picture.bits for picture in pictures.values() if picture.deep]:
            usual, most = int(median(deep)), max(deep)
            left = max(0, images.BITS[0] - (most - usual))
            affected[
                f"use up to {most} bits of 16, which leaves {left} of the {usual} bits that most use: mend "
                "or remove them"
            ] = [n for n, p in pictures.items() if p.deep and p.bits > usual + EXCESS_BITS]
        return [f"{count(names, 'pictures')} {reason}" for reason, names in affected.items() if names]

    def detected(self, samples: Sequence[SampleInspection]) -> tuple[dict[str, Any], str]:
        """See `Inspector.detected`. Colour pictures become 32x32 or, if most are larger than 48, 84x84."""
        colour = _colour(samples)
        side = median(median(sample.facts.size) for sample in samples) if samples else 0
        size = (84 if side > 48 else 32) if colour else 28
        bits = max((sample.facts.bits for sample in samples), default=0)
        prepare = {"image_size": size, "colour": colour} | ({"bits": bits} if bits else {})
        return prepare, "colour" if colour else "grey"

    def defaults(self, prepare: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """See `Inspector.defaults`. Colour pictures are flipped and shifted; grey ones count as drawings."""
        return {
            "prepare": {"rotations": False},
            "backbone": {"name": "conv4", "width": 64, "downsample": "pool"},
            "augment": {"flip": True, "shift": 0.1} if prepare["colour"] else {},
        }


def _colour(samples: Sequence[SampleInspection]) -> bool:
    return bool(sum(sample.facts.coloured for sample in samples) > SHARE * len(samples))
