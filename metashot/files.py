"""Atomic writing of files and folders, and their digests."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from metashot.errors import MetashotError

CACHE = "__pycache__"  # ignored by DVC too (.dvcignore)
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # full disk, exceeded quota, file size limit of the process


@contextmanager
def replacing(path: Path, resume: bool = False) -> Iterator[Path]:
    """A temporary path for a file or folder that replaces ``path`` at the end of the block.

    If the block fails, ``path`` is unchanged. If the process is killed, the old or the new content is
    complete, at ``path`` or beside it.

    Args:
        path: File or folder to write; its parents are created.
        resume: Keep what a failed block wrote, so that the next one can continue.

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
    """DVC's digest: md5 of a file, or of a folder ``<md5 of its sorted listing>.dir``."""
    if path.is_dir():
        inside = (file for file in path.rglob("*") if file.is_file() and CACHE not in file.parts)
        return folder_md5({file.relative_to(path).as_posix(): md5(file) for file in inside})
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def folder_md5(md5s: Mapping[str, str]) -> str:
    """DVC's digest of a folder, given the md5 of each file by its path in the folder."""
    listing = json.dumps([{"md5": md5s[path], "relpath": path} for path in sorted(md5s)])
    return hashlib.md5(listing.encode()).hexdigest() + ".dir"


def canonical(value: object) -> str:
    """Return the canonical JSON of a value: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def digest(value: object) -> str:
    """Return the sha256 of a value's canonical JSON, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def remove(path: Path) -> None:
    """Delete a file, or a folder with its contents, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
