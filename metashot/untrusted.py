"""Reading of files that others may have written: plain files only, no links, bounded sizes."""

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

from metashot.errors import MetashotError, reason_of

ENTRIES = 1000  # largest number of files and folders in a folder
DEPTH = 32  # levels of a JSON document
DOCUMENT = 16 * 2**20  # bytes of a JSON document
LINKED = {errno.ELOOP, errno.ENOTDIR, errno.ENXIO}  # errors of opening a link or a special file
KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Refused(MetashotError):
    """A file or folder that is not as metashot writes it, and is therefore not read."""


def listing(folder: Path) -> dict[str, int]:
    """Return the size in bytes of each file in a folder, by its path in it; links are not followed.

    Raises:
        Refused: It contains anything but plain files and folders with plain files, or too many of them.
        OSError: It cannot be read.
    """
    sizes: dict[str, int] = {}
    folders = [folder]
    for current in folders:
        with os.scandir(current) as entries:
            listed = list(islice(entries, ENTRIES + 1))
        if not listed:
            raise Refused(f"{_named(current, folder)} is an empty folder")
        for entry in listed:
            status, path = entry.stat(follow_symlinks=False), Path(entry.path)
            if stat.S_ISDIR(status.st_mode):
                folders.append(path)
            else:
                _require_plain(status, _named(path, folder))
                sizes[path.relative_to(folder).as_posix()] = status.st_size
        if len(sizes) + len(folders) > ENTRIES:
            raise Refused(f"{folder} holds more than {ENTRIES:,} files and folders")
    return sizes


@contextmanager
def opened(base: Path, name: str) -> Iterator[io.BufferedReader]:
    """Open the plain file ``name`` below a trusted folder; no part of the name may be a link.

    Raises:
        Refused: It is not a plain file, or is behind a link.
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
        _require_plain(os.stat(last, dir_fd=folder, follow_symlinks=False), ascii(name))
        file = os.open(last, flags | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError as error:
        if error.errno in LINKED:
            raise Refused(f"{name!a} lies behind a symbolic link or is a special file") from None
        raise
    finally:
        os.close(folder)
    with os.fdopen(file, "rb") as stream:
        _require_plain(os.fstat(file), ascii(name))  # it may have been replaced meanwhile
        yield stream


def read(base: Path, name: str, limit: int) -> bytes:
    """Return the content of a plain file below a trusted folder.

    Args:
        base: The folder.
        name: Path in the folder.
        limit: Largest size in bytes.

    Raises:
        Refused: As `opened`, or it is larger.
        OSError: It cannot be read.
    """
    with opened(base, name) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise Refused(f"{name!a} has more than {limit:,} bytes")
    return content


def parsed(content: bytes, name: str) -> Any:
    """Return the value of a JSON document of bounded depth.

    Raises:
        Refused: It is not JSON, or nested too deeply.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{name} is not JSON that can be read ({reason_of(error, 80)})") from None
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


def _require_plain(status: os.stat_result, name: str) -> None:
    """Refuse anything but a regular file without hard links."""
    if not stat.S_ISREG(status.st_mode):
        raise Refused(f"{name} is {KINDS.get(stat.S_IFMT(status.st_mode), 'special')}, not a plain file")
    if status.st_nlink > 1:
        raise Refused(f"{name} has another name elsewhere (a hard link): put a copy in its place")


def _named(path: Path, folder: Path) -> str:
    return ascii(path.relative_to(folder).as_posix())
