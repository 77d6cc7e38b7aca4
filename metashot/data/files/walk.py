"""Files below a folder on disk: a listing, a reader for each, and the reason why one cannot be used."""

import os
from pathlib import Path

from metashot.data.files import Files, Read, archive
from metashot.errors import MetashotError, SampleError
from metashot.output import say

REPORTED = 100_000  # files between two reports of progress
MOST = 20_000_000  # files; more are a whole disk, not a data set


def walk(folder: Path, faults: list[tuple[str, str]]) -> tuple[Files, set[str], set[str]]:
    """List files, folders and hidden entries below a folder, by their paths in it.

    Hidden folders are not entered: they are not part of the data, and may not be readable.

    Args:
        folder: Where to start.
        faults: Gets place and reason of each folder that cannot be read, or is a link.

    Raises MetashotError for the root of the file system, and for more than `MOST` files.
    """
    if folder.resolve() == Path(folder.resolve().anchor):
        raise MetashotError(f"{folder}: the whole file system: name the folder that holds the samples")

    def note(error: OSError) -> None:
        faults.append((f"{str(error.filename)!a}:", f"cannot be read ({error.strerror})"))

    files: Files = {}
    folders, hidden = set(), set()
    for place, subfolders, names in os.walk(folder, onerror=note):
        within = Path(place).relative_to(folder)
        for name in [name for name in subfolders if archive.hidden(name)]:
            subfolders.remove(name)
            hidden.add((within / name).as_posix())
        subfolders.sort()
        for name in subfolders:
            path = Path(place, name)
            if path.is_symlink():  # os.walk would silently skip it
                faults.append((f"{str(path)!a}:", "a link to a folder; put the folder itself there"))
            else:
                folders.add((within / name).as_posix())
        for name in names:
            file = (within / name).as_posix()
            if archive.hidden(name):
                hidden.add(file)
                continue
            files[file] = reader(folder / file)
            if len(files) % REPORTED == 0:
                say(f"{folder}: {len(files):,} files so far, at {place!a}", err=True)
        if len(files) > MOST:
            raise MetashotError(
                f"{folder}: more than {MOST:,} files: name the folder that holds the samples alone"
            )
    return dict(sorted(files.items())), folders, hidden


def reader(path: Path) -> Read:
    """A function that reads a file; it raises a SampleError if that fails or the file is too large."""

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
    """Place of a file below a folder, and the reason why it cannot be packed; None if it can.

    The file is not opened.
    """
    where = f"{str(path)!a}:"
    try:
        str(path).encode()
        if path.is_symlink() and not path.resolve(strict=True).is_relative_to(folder.resolve()):
            return where, "a link that leads out of the folder; put the file itself there"
    except UnicodeEncodeError:
        return where, "cannot be read (its name is not UTF-8: rename it)"
    except RuntimeError:  # Python before 3.13
        return where, "cannot be read (a link that leads to itself)"
    except OSError as error:
        return where, f"cannot be read ({error.strerror})"
    if not path.is_file():
        return where, "cannot be read (not a regular file)"
    if "\\" in path.name:
        return where, "a backslash in its name: rename it"
    return None
