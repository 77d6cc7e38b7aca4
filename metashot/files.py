"""Files and folders that appear whole or not at all, and their digests."""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, resume: bool = False) -> Iterator[Path]:
    """A path to write a file or a folder at, which takes the place of ``path`` once the block is done.

    If the block fails, ``path`` is as it was. Killed at any moment, the old or the new content lies whole
    beside ``path`` or at it.

    Args:
        path: File or folder; the folders above it are made.
        resume: Leave what a failed block wrote for the next one to go on with.
    """
    partial, old = (path.with_name(f".{path.name}.{suffix}") for suffix in ("partial", "old"))
    path.parent.mkdir(parents=True, exist_ok=True)
    if not resume:
        _remove(partial)
    try:
        yield partial
        _remove(old)
        if path.is_dir():  # a folder cannot be renamed over another
            path.rename(old)
        partial.replace(path)
        _remove(old)
    finally:
        if not resume:
            _remove(partial)


def md5(path: Path) -> str:
    """The md5 of a file, which is also how DVC names it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
