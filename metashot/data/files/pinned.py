"""Local files whose content params.yaml pins by a digest.

A version of the data is therefore a version of params.yaml, and all later stages work on the copy that DVC
keeps. `metashot refresh` pins new content.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from metashot import files
from metashot.data.files import Read, archive
from metashot.errors import MetashotError


class Pinned(Protocol):
    """The part of a section ``raw`` that says where local files are and what they contain."""

    @property
    def path(self) -> str:
        """Folder, zip file or single file; relative to the repository, or absolute."""

    @property
    def md5(self) -> str:
        """Digest of the files, written by `metashot refresh`; empty before the first time."""


def digest(contents: Iterable[tuple[str, Read]]) -> str:
    """Digest of named files: the one DVC gives a folder that holds exactly these."""
    return files.folder_md5({name: _md5(read()) for name, read in contents})


def pack(
    contents: Iterable[tuple[str, Read]], raw: Pinned, target: Path, member: Callable[[str], str] = str
) -> None:
    """Pack files into a folder of zips; the same files give the same bytes.

    Args:
        contents: Names and readers.
        raw: The section of params.yaml that pins them.
        target: The folder to write.
        member: Maps a name to the name in its zip.

    Raises MetashotError when their digest is not ``raw.md5``.
    """
    md5s = {}

    def members() -> Iterator[tuple[str, bytes]]:
        for name, read in tqdm(contents, "packing", unit=" files", leave=False, disable=None):
            content = read()
            md5s[name] = _md5(content)  # of what is packed: the folder may change meanwhile
            yield member(name), content

    with files.replacing(target) as partial:
        archive.pack(members(), partial)
        if files.folder_md5(md5s) != raw.md5:
            raise MetashotError(
                f"{raw.path}: not the files that params.yaml pins (raw.md5: {raw.md5 or 'none yet'}); "
                "run `metashot refresh` to pin the present ones"
            )


def _md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()
