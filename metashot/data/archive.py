"""Pictures out of zip archives, read where they lie: nothing is extracted to disk."""

import io
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath, PurePosixPath
from typing import NamedTuple

from PIL import Image

from metashot.errors import MetashotError

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
_UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError),  # RuntimeError: it is encrypted
    *(SyntaxError, ValueError, Image.DecompressionBombError),  # what Pillow raises beside OSError
)


class Member(NamedTuple):
    """A picture, and the last three parts of its path in the archive: `<superclass>/<class>/<name>`."""

    superclass: str
    class_: str
    name: str
    picture: Image.Image


def pictures(path: Path) -> Iterator[Member]:
    """Yield the pictures of a zip, 8-bit grey, sorted by name; what is transparent shows white paper.

    Raises MetashotError for what `contents` refuses and for a picture that cannot be read.
    """
    for name, content in contents(path):
        try:
            superclass, class_, file = PurePosixPath(name).parts[-3:]
        except ValueError:
            raise MetashotError(f"{path}: member {name!r} is not in <superclass>/<class>/") from None
        with _reading(path, name):
            picture = _decode(content)
        yield Member(superclass, class_, file, picture)


def contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of the PNG, JPEG, BMP and WebP files of a zip, sorted by name.

    Raises MetashotError, naming archive and member, when the archive is missing, truncated or corrupt, and
    when any member would lead out of a directory it is extracted to.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            for info in members:  # all of them before the first picture is believed
                _refuse_unsafe(path, info)
            for info in sorted(members, key=lambda info: info.filename):
                if not info.is_dir() and is_picture(PurePosixPath(info.filename)):
                    with _reading(path, info.filename):
                        content = archive.read(info)
                    yield info.filename, content
    except FileNotFoundError:
        raise MetashotError(f"{path}: no such archive; run the download stage first") from None
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise MetashotError(f"{path}: truncated or corrupt zip ({error}); download it again") from None


def is_picture(path: PurePath) -> bool:
    """Whether a path is named like a picture; hidden files and what macOS adds to a zip are none."""
    return path.suffix.lower() in _SUFFIXES and not any(p.startswith((".", "__MACOSX")) for p in path.parts)


def _refuse_unsafe(path: Path, info: zipfile.ZipInfo) -> None:
    name = info.orig_filename  # `filename` has been cleaned up by zipfile already
    link = stat.S_ISLNK(info.external_attr >> 16)
    if link or "\\" in name or "\0" in name or ":" in name or name.startswith("/") or ".." in name.split("/"):
        kind = "a symbolic link" if link else "a name that leads out of the archive"
        raise MetashotError(f"{path}: member {name!r} is {kind}; the archive is refused")


@contextmanager
def _reading(path: Path, name: str) -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise MetashotError(f"{path}: member {name!r} cannot be read ({reason})") from None


def _decode(content: bytes) -> Image.Image:
    with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
        if picture.mode.startswith("I"):  # 16 bits; Pillow would cut off all above 255
            return picture.convert("I").point(lambda value: value * (1 / 256)).convert("L")
        if picture.has_transparency_data:
            drawn = picture.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert("L")
        return picture.convert("L")
