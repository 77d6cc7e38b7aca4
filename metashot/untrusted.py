"""Reading what others may have written: plain files alone, no link followed, no more bytes than expected."""

import errno
import io
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from metashot.errors import MetashotError

ENTRIES = 1000  # files and folders that are looked at before a folder is refused
DEPTH = 32  # levels of a JSON document
DOCUMENT = 16 * 2**20  # bytes of a JSON document
LINKED = {errno.ELOOP, errno.ENOTDIR, errno.ENXIO}  # what opening a link or a special file comes to
KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Refused(MetashotError):
    """Something that is not laid out as metashot writes it, and is therefore not read."""


def listing(folder: Path) -> dict[str, int]:
    """Return the size in bytes of each file in a folder, by its path within; no link is followed.

    Raises:
        Refused: Something in it is neither a plain file nor a folder with one, or it holds too much.
        OSError: It cannot be read.
    """
    sizes: dict[str, int] = {}
    folders = [folder]
    for here in folders:
        with os.scandir(here) as entries:
            held = list(islice(entries, ENTRIES + 1))
        if not held:
            raise Refused(f"{_named(here, folder)} is an empty folder")
        for entry in held:
            about, path = entry.stat(follow_symlinks=False), Path(entry.path)
            if stat.S_ISDIR(about.st_mode):
                folders.append(path)
            else:
                _plain(about, _named(path, folder))
                sizes[path.relative_to(folder).as_posix()] = about.st_size
        if len(sizes) + len(folders) > ENTRIES:
            raise Refused(f"{folder} holds more than {ENTRIES:,} files and folders")
    return sizes


@contextmanager
def opened(base: Path, name: str) -> Iterator[io.BufferedReader]:
    """Open the plain file ``name`` below a trusted folder; no part of the name may be a link.

    Raises:
        Refused: It is not a plain file, or lies behind a link.
        OSError: It cannot be read.
    """
    *above, last = PurePosixPath(name).parts
    if ".." in above or PurePosixPath(name).is_absolute():
        raise Refused(f"{name!a} leads outside of {base}")
    flags = os.O_RDONLY | os.O_CLOEXEC
    folder = os.open(base, flags | os.O_DIRECTORY)
    try:
        for part in above:
            inner = os.open(part, flags | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        _plain(os.stat(last, dir_fd=folder, follow_symlinks=False), ascii(name))
        file = os.open(last, flags | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError as error:
        if error.errno in LINKED:
            raise Refused(f"{name!a} lies behind a symbolic link or is a special file") from None
        raise
    finally:
        os.close(folder)
    with os.fdopen(file, "rb") as stream:
        _plain(os.fstat(file), ascii(name))  # it may have been replaced since
        yield stream


def read(base: Path, name: str, most: int) -> bytes:
    """Return the bytes of a plain file below a trusted folder.

    Args:
        base: The folder.
        name: Path in it.
        most: Bytes that it may have.

    Raises:
        Refused: As `opened`, or it has more.
        OSError: It cannot be read.
    """
    with opened(base, name) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise Refused(f"{name!a} has more than {most:,} bytes")
    return content


def parsed(content: bytes, name: str) -> Any:
    """Return a JSON document of bounded depth.

    Raises:
        Refused: It is not such a document.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{name} is not JSON that can be read ({' '.join(str(error).split())[:80]})") from None
    level = [value]
    for _ in range(DEPTH):
        level = [inner for item in level for inner in _inside(item)]
        if not level:
            return value
    raise Refused(f"{name} is nested more than {DEPTH} levels deep")


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _plain(about: os.stat_result, name: str) -> None:
    """Refuse what is not a regular file with one name."""
    if not stat.S_ISREG(about.st_mode):
        raise Refused(f"{name} is {KINDS.get(stat.S_IFMT(about.st_mode), 'special')}, not a plain file")
    if about.st_nlink > 1:
        raise Refused(f"{name} has another name elsewhere (a hard link): put a copy in its place")


def _named(path: Path, folder: Path) -> str:
    return ascii(path.relative_to(folder).as_posix())
