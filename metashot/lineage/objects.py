"""DVC's cache and remote, read by digest: their objects, and the entries of the run cache."""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec
from pydantic import BaseModel, TypeAdapter, ValidationError

from metashot import files, plain_yaml
from metashot.errors import MetashotError
from metashot.project import dvc
from metashot.project.entries import Digest, Entry, Inside, stages

FOLDER = ".dir"  # how the digest of a folder ends
DIGEST = re.compile(r"[0-9a-f]{32}(\.dir)?")


class Missing(MetashotError):
    """Bytes that neither the DVC cache nor the DVC remote holds."""


@dataclass(frozen=True)
class Store:
    """A DVC cache or remote: objects named by their md5, and the entries of the run cache."""

    fs: Any
    base: str

    @classmethod
    def local(cls, root: Path) -> "Store":
        """The cache."""
        return cls(fsspec.filesystem("file"), dvc.output(root, "cache", "dir").strip())

    @classmethod
    def remote(cls, root: Path) -> "Store | None":
        """The default remote, if there is one, opened with the options and credentials that DVC has."""
        opened = dvc.remote(root)
        if opened is None:
            return None
        filesystem, path = opened
        return cls(fsspec.AbstractFileSystem.from_json(filesystem), path.removesuffix("/files/md5"))

    def object(self, digest: str) -> str:
        """Path of the object with this digest, whether or not it exists.

        Raises:
            MetashotError: It is not a digest: whatever names it must not lead elsewhere.
        """
        if not DIGEST.fullmatch(digest):
            raise MetashotError(f"{digest[:80]!r} is not the md5 of a file or folder")
        return f"{self.base}/files/md5/{digest[:2]}/{digest[2:]}"

    def has(self, digest: str) -> bool:
        """Whether the store has an object; for a folder, all its files too."""
        if not self.fs.exists(self.object(digest)):
            return False
        return not digest.endswith(FOLDER) or all(map(self.has, self.listing(digest).values()))

    def listing(self, digest: str) -> dict[str, str]:
        """The files of a folder: path in it to md5."""
        return _listing(self.fs.cat_file(self.object(digest)))

    def runs(self, cmd: str = "") -> Iterator[Entry]:
        """The run cache: past runs of stages with their inputs and outputs, of one command if it is given.

        What cannot be read is not a run, as for DVC.
        """
        paths = self.fs.find(f"{self.base}/runs") if self.fs.exists(f"{self.base}/runs") else []
        for path in sorted(paths):
            text = self.fs.cat_file(path)
            if text.startswith(f"cmd: {cmd}\n".encode() if cmd else b"cmd: "):
                with suppress(MetashotError, UnicodeDecodeError):
                    yield stages({"": plain_yaml.load(text.decode(), path)}, path)[""]


class Objects:
    """Files by digest, from the DVC cache, or fetched into it from the DVC remote.

    Args:
        root: The repository.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def cache(self) -> Store:
        """The DVC cache."""
        return Store.local(self.root)

    @cached_property
    def remote(self) -> Store | None:
        """The default DVC remote."""
        return Store.remote(self.root)

    def path(self, digest: str) -> Path:
        """Return the path in the cache of a file, or of a folder's listing; its bytes are not hashed again.

        Raises:
            Missing: Neither cache nor remote has them, or the remote has other bytes under this digest.
        """
        path = Path(self.cache.object(digest))
        if not path.exists():
            self._fetch(digest, path)
        return path

    def listing(self, digest: str) -> dict[str, str]:
        """Return the files of a folder: path in it to md5. Raises Missing."""
        return _listing(self.path(digest).read_bytes())

    def _fetch(self, digest: str, path: Path) -> None:
        source = self.remote
        if source is None or not source.fs.exists(source.object(digest)):
            where = "the DVC cache" if source is None else "the DVC cache and remote"
            raise Missing(f"{where} have no {digest}" if source else f"{where} has no {digest}")
        with files.replacing(path) as partial:
            source.fs.get_file(source.object(digest), str(partial))
            if files.md5(partial) != digest.removesuffix(FOLDER):
                raise Missing(f"the DVC remote has other bytes under {digest}")
            with suppress(OSError):  # as DVC does: the cache is not to be written to by accident
                partial.chmod(0o444)


class _Listed(BaseModel):
    """A file of a folder."""

    relpath: Inside
    md5: Digest


_LISTING = TypeAdapter(list[_Listed])


def _listing(text: bytes) -> dict[str, str]:
    try:
        return {item.relpath: item.md5 for item in _LISTING.validate_json(text)}
    except ValidationError as error:
        reason = " ".join(error.errors()[0]["msg"].split())
        raise MetashotError(
            f"a folder's listing in the DVC cache is not as DVC writes it ({reason})"
        ) from None
