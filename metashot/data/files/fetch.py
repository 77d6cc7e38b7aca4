"""Download of published files, from the network or a local mirror, verified before use."""

import hashlib
import os
import shutil
from collections.abc import Collection
from pathlib import Path

import requests
from tqdm import tqdm

from metashot.errors import MetashotError

_ALGORITHM = {32: "md5", 64: "sha256"}  # by the length of the hexadecimal digest
_TIMEOUT = (10, 60)  # seconds to connect, and to wait for the next bytes
_CHUNK = 1 << 16  # bytes that a broken connection loses at most


def mirror() -> Path | None:
    """Return the directory named by METASHOT_MIRROR, or None if that is not set.

    Raises MetashotError when it does not name a directory.
    """
    name = os.environ.get("METASHOT_MIRROR")
    if not name:
        return None
    if not Path(name).is_dir():
        raise MetashotError(f"METASHOT_MIRROR={name}: no such directory; it has to hold the archives")
    return Path(name)


def fetch(url: str, target: Path, digests: Collection[str], mirror: Path | None = None) -> None:
    """Fetch the file published at a URL, unless the target already is that file.

    An interrupted download (``<target>.part``) is resumed if the server allows it. A wrong target stays until
    a right file can replace it.

    Args:
        url: Address of the published file.
        target: Where to put it.
        digests: Its md5 or sha256 digests, any of which counts.
        mirror: A directory to copy the file from instead: under its published name, ``a.zip``, or as
            ``a_repacked.zip``.

    Raises MetashotError for a wrong checksum, a file that the mirror lacks, and a server that cannot be
    reached.
    """
    if target.is_file() and _is_one_of(target, digests):
        return
    part = target.with_name(f"{target.name}.part")
    if mirror is None:
        origin = url
        _download(url, part)
    else:
        origin = _find(mirror, Path(url).name)
        try:
            shutil.copyfile(origin, part)
        except OSError as error:
            raise MetashotError(f"{origin}: cannot be copied ({error.strerror})") from None
    if not _is_one_of(part, digests):
        part.unlink()
        expected = " or ".join(digests)
        raise MetashotError(
            f"{origin}: wrong checksum, not {expected}: damaged, or another file; fetch it again"
        )
    part.replace(target)


def _find(mirror: Path, name: str) -> str:
    names = (name, f"{Path(name).stem}_repacked{Path(name).suffix}")
    for candidate in names:
        if (mirror / candidate).is_file():
            return str(mirror / candidate)
    raise MetashotError(f"METASHOT_MIRROR={mirror}: holds neither {names[0]} nor {names[1]}")


def _download(url: str, part: Path) -> None:
    """Append the missing bytes of a file; try again for as long as attempts make progress."""
    while True:
        before = _size(part)
        try:
            return _attempt(url, part)
        except requests.RequestException as error:
            if _size(part) > before:
                continue
            response = error.response
            reason = f"status {response.status_code}" if response is not None else type(error).__name__
            raise MetashotError(
                f"{url}: cannot be downloaded ({reason}); try again later, the download is resumed, "
                "or set METASHOT_MIRROR=DIR to a directory that holds the file"
            ) from None


def _attempt(url: str, part: Path) -> None:
    offset = _size(part)
    # Compressed transfer would make byte positions meaningless.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # no bytes are missing; the checksum decides whether they are right
        response.raise_for_status()
        resumed = response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")
        with (
            part.open("ab" if resumed else "wb") as file,
            tqdm(
                desc=part.stem,
                total=int(response.headers.get("Content-Length", 0)) + (offset if resumed else 0) or None,
                initial=offset if resumed else 0,
                unit="B",
                unit_scale=True,
                leave=False,
                disable=None,
            ) as bar,
        ):
            for chunk in response.iter_content(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _is_one_of(path: Path, digests: Collection[str]) -> bool:
    for algorithm in sorted({_ALGORITHM[len(digest)] for digest in digests}):
        with path.open("rb") as file:
            if hashlib.file_digest(file, algorithm).hexdigest() in digests:
                return True
    return False
