"""Files below a folder: which there are, what reads each, and why some cannot be used."""

import os
from pathlib import Path

from metashot.data.files import archive
from metashot.data.files.split_lists import Found, Read
from metashot.errors import MetashotError, SampleError
from metashot.output import say

TOLD = 100_000  # files after which a walk says where it is
MOST = 20_000_000  # files; more are a whole disk, not a data set


def walk(folder: Path, faults: list[tuple[str, str]]) -> tuple[Found, set[str], set[str]]:
    """Files, folders, and what of both is hidden, below a folder; links are not followed out of it.

    Hidden folders are not walked: they are not part of the data, and may not be readable. Adds to ``faults``.
    """
    if folder.resolve() == Path(folder.resolve().anchor):
        raise MetashotError(f"{folder}: the whole file system: name the folder that holds the samples")

    def refuse(error: OSError) -> None:
        faults.append((f"{str(error.filename)!a}:", f"cannot be read ({error.strerror})"))

    files: Found = {}
    folders, hidden = set(), set()
    for place, below, inside in os.walk(folder, onerror=refuse):
        within = Path(place).relative_to(folder)
        for name in [name for name in below if archive.hidden(name)]:
            below.remove(name)
            hidden.add((within / name).as_posix())
        below.sort()
        for name in below:
            path = Path(place, name)
            if path.is_symlink():  # would be left out in silence
                faults.append((f"{str(path)!a}:", "a link to a folder; put the folder itself there"))
            else:
                folders.add((within / name).as_posix())
        for name in inside:
            file = (within / name).as_posix()
            if archive.hidden(name):
                hidden.add(file)
                continue
            files[file] = reader(folder / file)
            if len(files) % TOLD == 0:
                say(f"{folder}: {len(files):,} files so far, at {place!a}", err=True)
        if len(files) > MOST:
            raise MetashotError(
                f"{folder}: more than {MOST:,} files: name the folder that holds the samples alone"
            )
    return dict(sorted(files.items())), folders, hidden


def reader(path: Path) -> Read:
    """What reads a file. It raises a MetashotError where that cannot be read, or is too large."""

    def read() -> bytes:
        try:
            with path.open("rb") as file:
                if (size := os.fstat(file.fileno()).st_size) > archive.LARGEST:
                    reason = f"{size:,} bytes, of at most {archive.LARGEST:,}"
                    raise SampleError(f"{str(path)!a}:", f"cannot be read ({reason})")
                return file.read()
        except OSError as error:
            raise SampleError(f"{str(path)!a}:", f"cannot be read ({error.strerror})") from None

    return read


def unusable(folder: Path, path: Path) -> tuple[str, str] | None:
    """Why a file cannot be packed, before it is opened: where it is, and the reason."""
    where = f"{str(path)!a}:"
    try:
        str(path).encode()
        if path.is_symlink() and not path.resolve(strict=True).is_relative_to(folder.resolve()):
            return where, "a link that leads out of the folder; put the file itself there"
    except UnicodeEncodeError:
        return where, "cannot be read (its name is not UTF-8: rename it)"
    except RuntimeError:  # what Python before 3.13 makes of it
        return where, "cannot be read (a link that leads to itself)"
    except OSError as error:
        return where, f"cannot be read ({error.strerror})"
    if not path.is_file():
        return where, "cannot be read (not a regular file)"
    if "\\" in path.name:
        return where, "a backslash in its name: rename it"
    return None
