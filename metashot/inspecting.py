"""What is in a folder of class folders: counts, sizes, what cannot be read, what is there twice."""

import hashlib
import io
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from metashot import files, nearness
from metashot.data import folders, images, listing
from metashot.errors import MetashotError

COLOURED = 16  # levels of 255 between the channels of a pixel that has a colour; JPEG makes a few of grey
SHARE = 0.01  # of the pixels of a coloured picture; of the pictures of a coloured data set
PROBED = 128  # pixels along a side that are looked at for colour
TINY = 8  # pixels along a side, below which a picture shows little


class Look(NamedTuple):
    """What is seen of one sample."""

    digests: Mapping[str, bytes]
    """Equal for what is the same to a person, by the way it may be prepared."""
    thumbnail: NDArray[np.uint8] | None
    """As `nearness.hashes` takes it; None for what has none."""
    facts: Any
    """Of the kind's own."""


class Kind(Protocol):
    """A kind of samples: how one is looked at, and what is made of all."""

    @property
    def source(self) -> str:
        """The module of `metashot.data` for folders of it."""

    @property
    def noun(self) -> str:
        """What its samples are called."""

    @property
    def suffixes(self) -> Collection[str]:
        """Of the names of its files."""

    def look(self, content: bytes) -> Look:
        """Look at one sample. ValueError, saying why, where it cannot be read; called from any thread."""

    def rows(self, looks: Sequence[Look]) -> Mapping[str, str]:
        """What a person is shown of all samples: name and value."""

    def warnings(self, looks: Mapping[str, Look]) -> Sequence[str]:
        """What is strange, but stops nothing."""

    def prepared(self, looks: Sequence[Look]) -> tuple[dict[str, Any], str]:
        """The keys of ``prepare`` that are found out, and which of the digests the pipeline will compare."""

    def defaults(self, prepare: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The sections ``prepare`` (its other keys), ``backbone`` and ``augment`` of params.yaml."""


class _Picture(NamedTuple):
    size: tuple[int, int]
    mode: str
    frames: int
    coloured: bool


class Pictures:
    """PNG, JPEG, BMP and WebP files."""

    source: ClassVar = "image_folder"
    noun: ClassVar = "pictures"
    suffixes: ClassVar = images.SUFFIXES

    def look(self, content: bytes) -> Look:
        """See `Kind.look`."""
        image = images.picture(content, colour=True)
        with Image.open(io.BytesIO(content), formats=images.FORMATS) as opened:
            mode, frames = opened.mode, getattr(opened, "n_frames", 1)
        pixels = np.asarray(image)
        steps = [max(1, side // PROBED) for side in pixels.shape[:2]]
        probed = pixels[:: steps[0], :: steps[1]].astype(np.int16)
        coloured = bool((np.ptp(probed, axis=-1) > COLOURED).mean() > SHARE)
        thumbnail = np.asarray(image.resize(nearness.THUMBNAIL, Image.Resampling.BOX))
        digests = {"colour": images.digest(image), "grey": images.digest(image.convert("L"))}
        return Look(digests, thumbnail, _Picture(image.size, mode, frames, coloured))

    def rows(self, looks: Sequence[Look]) -> Mapping[str, str]:
        """See `Kind.rows`."""
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
        return {
            "sizes": shown,
            "modes": ", ".join(f"{count:,} {mode}" for mode, count in modes.most_common()),
            "colour": f"{'yes' if _colour(looks) else 'no'}: {coloured:,} of {len(found):,} have it",
        }

    def warnings(self, looks: Mapping[str, Look]) -> Sequence[str]:
        """See `Kind.warnings`."""
        found = {name: look.facts for name, look in looks.items()}
        said = {
            f"less than {TINY} pixels wide or high": [n for n, p in found.items() if min(p.size) < TINY],
            "animated: the first picture of each counts": [n for n, p in found.items() if p.frames > 1],
        }
        return [f"{count(names, 'pictures')} {why}" for why, names in said.items() if names]

    def prepared(self, looks: Sequence[Look]) -> tuple[dict[str, Any], str]:
        """See `Kind.prepared`. Colour pictures become 32x32 or, where most are larger than 48, 84x84."""
        colour = _colour(looks)
        side = median(median(look.facts.size) for look in looks) if looks else 0
        size = (84 if side > 48 else 32) if colour else 28
        return {"image_size": size, "colour": colour}, "colour" if colour else "grey"

    def defaults(self, prepare: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """See `Kind.defaults`. Colour pictures are mirrored and shifted; grey ones are taken for drawings."""
        return {
            "prepare": {"rotations": False},
            "backbone": {"name": "conv4", "width": 64, "downsample": "pool"},
            "augment": {"flip": True, "shift": 0.1} if prepare["colour"] else {},
        }


KINDS: tuple[Kind, ...] = (Pictures(),)


@dataclass(frozen=True)
class Inspection:
    """A folder that was looked at.

    Attributes:
        raw: What was looked at.
        kind: Of its samples.
        contents: What it holds.
        md5: Digest of its samples.
        looks: What was seen of each sample that can be read, by its path.
        unreadable: The others with the reason, a line each.
    """

    raw: folders.Raw
    kind: Kind
    contents: folders.Contents
    md5: str
    looks: Mapping[str, Look]
    unreadable: Sequence[str]

    @cached_property
    def sizes(self) -> Counter[str]:
        """Samples of each class, by the class's path."""
        return Counter(name.rpartition("/")[0] for name in self.looks)

    @cached_property
    def prepare(self) -> dict[str, Any]:
        """The keys of ``prepare`` that are found out."""
        return self._prepared[0]

    @cached_property
    def duplicates(self) -> list[list[str]]:
        """Groups of samples that are the same."""
        groups = defaultdict(list)
        for name, look in self.looks.items():
            groups[look.digests[self._prepared[1]]].append(name)
        return [names for names in groups.values() if len(names) > 1]

    @cached_property
    def near(self) -> list[list[str]]:
        """Pairs of samples that are nearly the same; of those that are the same only one is in any."""
        again = {name for names in self.duplicates for name in names[1:]}
        seen = {n: k.thumbnail for n, k in self.looks.items() if k.thumbnail is not None and n not in again}
        if not seen:
            return []
        thumbnails = np.stack(list(seen.values()))
        names = list(seen)
        pairs = nearness.near(nearness.hashes(thumbnails), thumbnails)
        return [[names[one], names[other]] for one, other in pairs]

    @cached_property
    def _prepared(self) -> tuple[dict[str, Any], str]:
        return self.kind.prepared(list(self.looks.values()))


def inspect(raw: folders.Raw, root: Path) -> Inspection:
    """Look at every sample of a folder or a zip file.

    Raises:
        MetashotError: There is none, or a zip or lists of splits cannot be used at all.
    """
    found = {kind: folders.contents(raw, root, kind.suffixes) for kind in KINDS}
    kind = max(found, key=lambda kind: len(found[kind].samples))
    contents = found[kind]

    def look(name: str, read: Callable[[], bytes]) -> tuple[str, Look | str]:
        try:
            content = read()
            return hashlib.md5(content).hexdigest(), kind.look(content)
        except ValueError as error:
            return "", f"{raw.path}: {name!r} is {error}"
        except MetashotError as error:
            return "", str(error)

    looks: dict[str, Look] = {}
    md5s, unreadable = {}, []
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        seen = pool.map(look, contents.samples, contents.samples.values())
        bar = tqdm(seen, "looking", len(contents.samples), leave=False, disable=None, unit=f" {kind.noun}")
        for name, (md5s[name], one) in zip(contents.samples, bar, strict=True):
            if isinstance(one, str):
                unreadable.append(one)
            else:
                looks[name] = one
    return Inspection(raw, kind, contents, files.folder_md5(md5s), looks, unreadable)


def rows(found: Inspection) -> dict[str, str]:
    """What a person is shown of a folder: name and value."""
    counts = sorted(found.sizes.values())
    shown = {"classes": f"{len(counts):,}", found.kind.noun: f"{len(found.looks):,}"}
    if counts:
        shown["in a class"] = (
            f"{counts[0]:,} to {counts[-1]:,}, median {median(counts):,.0f}; the largest has "
            f"{counts[-1] / counts[0]:.1f} times as many as the smallest"
        )
        shown |= found.kind.rows(list(found.looks.values()))
    if found.contents.others:
        shown["passed by"] = folders.passed_by(found.contents.others)
    if found.contents.left_out:
        shown["left out"] = f"{found.contents.left_out:,} files that no list of splits names"
    return shown


def warnings(found: Inspection) -> list[str]:
    """What is strange in a folder, but stops nothing."""
    said = list(found.kind.warnings(found.looks))
    tops = {class_.partition("/")[0] for class_ in found.sizes if class_.count("/") == 1}
    if len(alike := sorted(top for top in tops if top.lower() in _SPLITS)) > 1 and not found.raw.splits:
        said.append(
            f"the folders {' and '.join(map(repr, alike))} look like splits, but count as superclasses, and "
            "their classes as different ones: join them, or name lists with --splits"
        )
    counts = found.sizes.values()
    if counts and max(counts) > 10 * min(counts):
        few = [class_ for class_, count in found.sizes.items() if count == min(counts)]
        said.append(f"unequal classes: {few[0]!r} has {min(counts):,} samples, the largest {max(counts):,}")
    return said


def count(names: Sequence[str], noun: str) -> str:
    """How many, and the first of them."""
    return f"{len(names):,} {noun} ({names[0]!r}{', ...' if len(names) > 1 else ''})"


_SPLITS = {*listing.SPLITS, "training", "valid", "validation", "testing", "dev", "eval"}


def _colour(looks: Sequence[Look]) -> bool:
    return bool(sum(look.facts.coloured for look in looks) > SHARE * len(looks))
