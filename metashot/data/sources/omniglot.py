"""Omniglot (Lake et al. 2015): 1,623 characters of 50 alphabets, each drawn by 20 people."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from metashot.data import About, Item, Split, ordered
from metashot.data.files import archive
from metashot.data.files.fetch import fetch, mirror
from metashot.data.kinds import images
from metashot.section import Section

ABOUT = About(
    source="https://github.com/brendenlake/omniglot",
    licence="MIT, copyright 2015 Brenden Lake",
    citation="Lake, Salakhutdinov and Tenenbaum (2015). Human-level concept learning through "
    "probabilistic program induction. Science 350(6266), 1332-1338.",
    synthetic=False,
)
_URL = "https://github.com/brendenlake/omniglot/raw/master/python/"
# md5 of the published zip, and of a deterministic zip of the same pictures, byte for byte
_DIGESTS = {
    "images_background.zip": ("68d2efa1b9178cc56df9314c21c6e718", "f22f7219faa097ef40d7d405c0539313"),
    "images_evaluation.zip": ("6b91aef0f799c5bb55b94e3f2daec811", "ef301fd1e34f3b482f18f3f9811dd1f4"),
}

_VAL = frozenset({"Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)"})
_VINYALS_TEST = frozenset(
    {
        *("Kannada", "Keble", "Malayalam", "Manipuri", "Mongolian", "Old_Church_Slavonic_(Cyrillic)"),
        *("Oriya", "Sylheti", "Syriac_(Serto)", "Tengwar", "Tibetan", "ULOG"),
        *(f"Gurmukhi/character{number}" for number in range(42, 46)),
    }
)
_EVALUATION = frozenset(
    {
        *("Angelic", "Atemayar_Qelisayer", "Atlantean", "Aurek-Besh", "Avesta", "Ge_ez", "Glagolitic"),
        *("Gurmukhi", "Kannada", "Keble", "Malayalam", "Manipuri", "Mongolian"),
        *(
            "Old_Church_Slavonic_(Cyrillic)",
            "Oriya",
            "Sylheti",
            "Syriac_(Serto)",
            "Tengwar",
            "Tibetan",
            "ULOG",
        ),
    }
)


@dataclass(frozen=True)
class Raw(Section):
    """Section ``data.omniglot.raw`` of params.yaml, which has no keys."""


@dataclass(frozen=True, kw_only=True)
class Prepare(images.Drawings):
    """Section ``data.omniglot.prepare`` of params.yaml.

    Attributes:
        split: ``vinyals`` (Vinyals et al. 2016, as used by Snell et al. 2017) or ``background`` (Lake et al.
            2015: background alphabets for training and, five of them, for validation; evaluation alphabets
            for the test). Characters for training, validation and test: 1,028, 172 and 423, or 792, 172 and
            659.
    """

    split: Literal["vinyals", "background"]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split not in ("vinyals", "background"):
            raise ValueError(f"split: {self.split!r} is neither 'vinyals' nor 'background'")
        if self.image_size > 105:
            raise ValueError(f"image_size: {self.image_size} is more than 105, the size of the drawings")


def download(raw: Raw, directory: Path) -> None:
    """Fetch the two archives, from METASHOT_MIRROR if that is set."""
    for name, digests in _DIGESTS.items():
        fetch(_URL + name, directory / name, digests, mirror())


def items(prepare: Prepare, directory: Path) -> list[Item]:
    """Every drawing. Only the alphabet Gurmukhi is divided between splits."""
    return ordered(
        item
        for name in _DIGESTS
        for item in archive.items(
            directory / name,
            images.SUFFIXES,
            lambda _, alphabet, character, __: split_of(prepare, alphabet, character),
        )
    )


def split_of(prepare: Prepare, superclass: str, name: str) -> Split:
    """Split of the character ``<superclass>/<name>``."""
    test = _VINYALS_TEST if prepare.split == "vinyals" else _EVALUATION
    if superclass in test or f"{superclass}/{name}" in test:
        return "test"
    return "val" if superclass in _VAL else "train"
