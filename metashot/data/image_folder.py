"""Image folder: the user's own pictures, one folder for each class, as a folder or in a zip file.

``params.yaml`` pins their content by its digest, so a version of the data is a version of that file. Every
later stage works on the copy that DVC keeps. `metashot refresh` pins new content.
"""

import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

from tqdm import tqdm

from metashot import files
from metashot.data import Split, archive
from metashot.errors import MetashotError

ABOUT: Mapping[str, object] = {
    "source": "an image folder",
    "licence": "as its owner says",
    "citation": "",
    "synthetic": False,
}
ARCHIVES = ("images.zip",)
_NO_SUPERCLASS = "all"  # stands in where class folders lie at the top
_LAYOUT = "<class>/<image> or <superclass>/<class>/<image>"


@dataclass(frozen=True, kw_only=True)
class Raw:
    """Section ``data.image_folder.raw`` of params.yaml.

    Attributes:
        path: Folder or zip file of `<class>/<image>` or `<superclass>/<class>/<image>`; relative to the
            repository, or absolute.
        md5: Digest of its pictures, written by `metashot refresh`; empty before the first time.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    path: str
    md5: str


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Section ``data.image_folder.split`` of params.yaml: parts of the classes, drawn by chance.

    Attributes:
        seed: Of the draw.
        val: Share of the classes for validation.
        test: Share of the classes for the test; the rest is for training.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    seed: int
    val: float
    test: float

    def __post_init__(self) -> None:
        if not (self.val > 0 and self.test > 0 and self.val + self.test < 1):
            raise ValueError(f"val: {self.val} and test: {self.test} do not leave a share for every split")


@dataclass(frozen=True, kw_only=True)
class Params:
    """Section ``data.image_folder`` of params.yaml.

    Attributes:
        raw: Where the pictures are, and which.
        split: How the classes are divided.
        image_size: Height and width of the images.
        rotations: Whether turned pictures are classes of their own.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    raw: Raw
    split: Shares
    image_size: int
    rotations: bool

    def __post_init__(self) -> None:
        if self.image_size < 8:
            raise ValueError(f"image_size: {self.image_size} is less than 8")


def split_of(params: Params, superclass: str, name: str) -> Split:
    """Split of the class `<superclass>/<name>`, drawn from its name alone.

    So a class stays in its split whatever else comes and goes: no model is tested on what it was trained on
    before the folder grew. The shares hold on average.
    """
    text = f"{params.split.seed}/{superclass}/{name}"
    place = int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48  # even in [0, 1)
    if place < params.split.test:
        return "test"
    return "val" if place < params.split.test + params.split.val else "train"


def digest(raw: Raw, root: Path) -> str:
    """Digest of the pictures as they are now: DVC's of a folder that holds them and nothing else.

    Raises MetashotError for what `download` refuses, but for another digest.
    """
    pictures = _pictures(raw, root)
    return files.folder_md5({name: _md5(content) for name, content in pictures})


def download(raw: Raw, directory: Path) -> None:
    """Pack the pictures into images.zip; same pictures, same bytes.

    Raises MetashotError when there is no such folder, when its digest is not ``raw.md5``, when classes lie
    at different depths, and when there are fewer than three.
    """
    md5s = {}
    with files.replacing(directory / ARCHIVES[0]) as partial, zipfile.ZipFile(partial, "w") as packed:
        pictures = _pictures(raw, Path())
        for name, content in tqdm(pictures, "packing", unit=" images", leave=False, disable=None):
            md5s[name] = _md5(content)  # of what is packed: the folder may change meanwhile
            member = name if name.count("/") == 2 else f"{_NO_SUPERCLASS}/{name}"
            packed.writestr(zipfile.ZipInfo(member), content)  # dated 1980-01-01, not today
        if files.folder_md5(md5s) != raw.md5:
            raise MetashotError(
                f"{raw.path}: not the pictures that params.yaml pins (data.image_folder.raw.md5: "
                f"{raw.md5 or 'none yet'}); run `metashot refresh` to pin those that are there"
            )


def _pictures(raw: Raw, root: Path) -> Iterator[tuple[str, bytes]]:
    """Path and bytes of every picture, sorted by path; mistakes of layout are refused."""
    origin = root / raw.path
    if origin.is_dir():
        found = _files(origin)
    elif origin.is_file():
        found = archive.contents(origin)
    else:
        raise MetashotError(f"data.image_folder.raw.path: {raw.path}: no such folder or zip file")
    classes, first = set(), ""
    for name, content in found:
        first = first or name
        if name.count("/") not in (1, 2) or name.count("/") != first.count("/"):
            raise MetashotError(
                f"{raw.path}: {name!r}: not at the depth of the others; all have to lie in {_LAYOUT}"
            )
        classes.add(name.rpartition("/")[0])
        yield name, content
    if len(classes) < 3:
        raise MetashotError(
            f"{raw.path}: {len(classes)} class folders with pictures ({_LAYOUT}; png, jpeg, bmp, webp): "
            "training, validation and test need at least one each"
        )


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    for name, path in sorted(paths.items()):
        if path.is_dir():
            if path.is_symlink():  # would be left out in silence
                raise MetashotError(f"{path}: a link to a folder; put the folder itself there")
        elif archive.is_picture(PurePosixPath(name)):
            try:
                name.encode()
                content = path.read_bytes()
            except (OSError, UnicodeEncodeError) as error:
                raise MetashotError(f"{str(path)!a}: cannot be read ({error})") from None
            yield name, content


def _md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()
