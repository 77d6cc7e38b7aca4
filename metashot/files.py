"""Files and folders that appear whole or not at all, and their digests."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from metashot.errors import MetashotError

CACHE = "__pycache__"  # which DVC ignores (.dvcignore)
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # disk, quota, limit of the process


@contextmanager
def replacing(path: Path, resume: bool = False) -> Iterator[Path]:
    """A path to write a file or a folder at, which takes the place of ``path`` once the block is done.

    If the block fails, ``path`` is as it was. Killed at any moment, the old or the new content lies whole
    beside ``path`` or at it.

    Args:
        path: File or folder; the folders above it are made.
        resume: Leave what a failed block wrote for the next one to go on with.

    Raises:
        MetashotError: The disk is full.
    """
    partial, old = (path.with_name(f".{path.name}.{suffix}") for suffix in ("partial", "old"))
    if not resume:
        remove(partial)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        remove(old)
        if path.is_dir():  # a folder cannot be renamed over another
            path.rename(old)
        partial.replace(path)
        remove(old)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise MetashotError(
            f"{path}: cannot be written ({os.strerror(error.errno)}): free space and run again"
        ) from None
    finally:
        if not resume:
            remove(partial)


def md5(path: Path) -> str:
    """DVC's digest of a file, its md5, or of a folder (``<md5 of its sorted listing>.dir``)."""
    if path.is_dir():
        inside = (file for file in path.rglob("*") if file.is_file() and CACHE not in file.parts)
        return folder_md5({file.relative_to(path).as_posix(): md5(file) for file in inside})
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def folder_md5(md5s: Mapping[str, str]) -> str:
    """DVC's name of a folder, from the md5 of each file by its path within: of a listing sorted by path."""
    listing = json.dumps([{"md5": md5s[path], "relpath": path} for path in sorted(md5s)])
    return hashlib.md5(listing.encode()).hexdigest() + ".dir"


def canonical(value: object) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def digest(value: object) -> str:
    """Return the sha256 of a value's canonical JSON, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def remove(path: Path) -> None:
    """Take away a file, or a folder with all that is in it; nothing where there is neither."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
