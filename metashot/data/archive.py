"""Pictures out of zip archives, read where they lie: nothing is extracted to disk."""

import io
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image

from metashot.errors import MetashotError

_UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError),  # RuntimeError: it is encrypted
    *(SyntaxError, ValueError, Image.DecompressionBombError),  # what Pillow raises beside OSError
)


class Member(NamedTuple):
    """A picture, and the last three parts of its path in the archive: `<superclass>/<class>/<name>.png`."""

    superclass: str
    class_: str
    name: str
    picture: Image.Image


def pictures(path: Path) -> Iterator[Member]:
    """Yield the PNG pictures of a zip, 8-bit grey, in the archive's order.

    Raises MetashotError, naming archive and member, when the archive is missing, truncated or corrupt, when
    any member would lead out of a directory it is extracted to, and when a picture cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            for info in members:  # all of them before the first picture is believed
                _refuse_unsafe(path, info)
            for info in members:
                parts = PurePosixPath(info.filename).parts
                if info.is_dir() or not info.filename.endswith(".png") or "__MACOSX" in parts:
                    continue
                if len(parts) < 3:
                    raise MetashotError(f"{path}: member {info.filename!r} is not in <superclass>/<class>/")
                superclass, class_, name = parts[-3:]
                yield Member(superclass, class_, name, _decode(path, archive, info))
    except FileNotFoundError:
        raise MetashotError(f"{path}: no such archive; run the download stage first") from None
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise MetashotError(f"{path}: truncated or corrupt zip ({error}); download it again") from None


def _refuse_unsafe(path: Path, info: zipfile.ZipInfo) -> None:
    name = info.orig_filename  # `filename` has been cleaned up by zipfile already
    link = stat.S_ISLNK(info.external_attr >> 16)
    if link or "\\" in name or "\0" in name or ":" in name or name.startswith("/") or ".." in name.split("/"):
        kind = "a symbolic link" if link else "a name that leads out of the archive"
        raise MetashotError(f"{path}: member {name!r} is {kind}; the archive is refused")


def _decode(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Image.Image:
    try:
        with Image.open(io.BytesIO(archive.read(info)), formats=["PNG"]) as picture:
            return picture.convert("L")
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise MetashotError(f"{path}: member {info.filename!r} cannot be read ({reason})") from None
