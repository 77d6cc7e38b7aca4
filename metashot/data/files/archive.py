"""Zip archives of samples, read where they lie: nothing is extracted to disk."""

import bz2
import copy
import functools
import lzma
import posixpath
import stat
import threading
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from metashot.data import Item, Key, ordered
from metashot.errors import MetashotError, SampleError

LARGEST = 1 << 30  # bytes of a file or member; more is a mistake, or made to exhaust the memory
DENSEST = 200  # times the size of a zip of more than `LARGEST` bytes when it is unpacked, likewise
# RuntimeError: it is encrypted or, as one of its subclasses, compressed in a way that is not read
_UNREADABLE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError)
LITTER = frozenset(  # names of what systems and file servers put beside people's files
    {
        *("__macosx", "icon\r", "network trash folder", "temporary items"),
        *("$recycle.bin", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini"),
        *("lost+found", "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),
    }
)
ZIPPED = 4096  # files in each zip of a folder
OPEN = 4  # zips of a folder whose names are in memory together


def pack(files: Iterable[tuple[str, bytes]], folder: Path) -> None:
    """Make a folder of zips ``0000.zip``, ``0001.zip``, …: same files in the same order, same bytes."""
    folder.mkdir()
    for number, part in groupby(enumerate(files), key=lambda numbered: numbered[0] // ZIPPED):
        with zipfile.ZipFile(folder / f"{number:04d}.zip", "w") as packed:
            for _, (name, content) in part:
                packed.writestr(zipfile.ZipInfo(name), content)  # dated 1980-01-01, not today


def zips(folder: Path) -> list[Path]:
    """The zips that `pack` made. Raises MetashotError where there are none."""
    if found := sorted(folder.glob("*.zip")):
        return found
    raise MetashotError(f"{folder}: no zip archives; run the download stage first")


@dataclass(frozen=True)
class Packed:
    """The samples that `pack` put into a folder, sorted by name: whenever they are iterated, as `ordered`.

    In memory are the names in `OPEN` zips and in one class, and which zips each class is in.

    Attributes:
        folder: Of zips with members `[<split>/]<superclass>/<class>/<name>`.
        suffixes: Of the names that samples have.
        divide: Gives the samples of a class their splits.
    """

    folder: Path
    suffixes: Collection[str]
    divide: Callable[[list[Item]], Sequence[Item]]

    def __iter__(self) -> Iterator[Item]:
        @functools.lru_cache(maxsize=OPEN)
        def classes(path: Path) -> Mapping[tuple[str, str], list[Item]]:
            found = defaultdict(list)
            for item in self._items(path):
                found[item.key.split, item.key.path].append(item)
            return found

        for (split, _), (place, paths) in sorted(self._places.items()):
            members = list(chain.from_iterable(classes(path)[place] for path in paths))
            yield from ordered(item for item in self.divide(members) if item.key.split == split)

    @functools.cached_property
    def _places(self) -> dict[tuple[str, str], tuple[tuple[str, str], list[Path]]]:
        """By split and class: the split, if any, and the class that members' names say, and the zips."""
        places = {}
        everything = ((path, item) for path in zips(self.folder) for item in self._items(path))
        for place, found in groupby(everything, key=lambda one: (one[1].key.split, one[1].key.path)):
            paths, members = zip(*found, strict=True)
            for split in {item.key.split for item in self.divide([*members])}:
                places[split, place[1]] = place, sorted({*paths})
        return places

    def _items(self, path: Path) -> Iterator[Item]:
        packed = ((name, read) for name, read in contents(path)[0].items() if named(name, self.suffixes))
        return _items(path, packed, lambda place, *_: "".join(place[:1]))


def items(
    path: Path, suffixes: Collection[str], split_of: Callable[[tuple[str, ...], str, str, str], str]
) -> list[Item]:
    """The samples of a zip with members `[…/]<superclass>/<class>/<name>`, as `ordered` puts them.

    Args:
        path: The zip.
        suffixes: Of the names that samples have.
        split_of: The split, given what comes before the superclass, superclass, class and name.

    Raises MetashotError for what `members` refuses, and for a sample that lies in no superclass.
    """
    return ordered(_items(path, members(path, suffixes), split_of))


def _items(
    path: Path,
    members: Iterable[tuple[str, Callable[[], bytes]]],
    split_of: Callable[[tuple[str, ...], str, str, str], str],
) -> Iterator[Item]:
    for name, read in members:
        parts = name.split("/")
        if len(parts) < 3:
            raise MetashotError(f"{path}: member {name!r} is not in <superclass>/<class>/")
        *before, superclass, class_, file = parts[-5:]
        key = Key(split_of(tuple(before), superclass, class_, file), superclass, class_, file)
        yield Item(key, read, f"{path}: member {name!r}")


def members(path: Path, suffixes: Collection[str]) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield name and content of the files of a zip that are named like samples, sorted by name.

    Raises MetashotError for what `contents` refuses.
    """
    for name, read in contents(path)[0].items():
        if is_sample(name, suffixes):
            yield name, read


def contents(path: Path) -> tuple[dict[str, Callable[[], bytes]], set[str]]:
    """Every file of a zip, sorted by its path, and the folders that are members of their own.

    Raises MetashotError, naming archive and member, when the archive is missing, truncated or corrupt, when
    two members have one name or lie upon each other, when any would lead out of a directory it is extracted
    to, and when all together would be more than `LARGEST` bytes and `DENSEST` times the archive. Reading a
    member that is damaged, encrypted, or of more than `LARGEST` bytes raises one too.
    """
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise MetashotError(f"{path}: no such archive; run the download stage first") from None
    except OSError as error:
        raise MetashotError(f"{path}: cannot be read ({error.strerror})") from None
    except NotImplementedError as error:
        raise MetashotError(f"{path}: a zip of a later format ({error}): pack it in an earlier one") from None
    except (zipfile.BadZipFile, ValueError) as error:
        with path.open("rb") as file:
            begun = b"PK".startswith(file.read(2))  # an empty file is cut off too
        raise MetashotError(
            f"{path}: truncated or corrupt zip ({error}); download it again"
            if begun
            else f"{path}: not a zip file; a folder or a zip file is read: unpack what is packed otherwise"
        ) from None
    infos = archive.infolist()
    for info in infos:  # all of them before the first sample is believed
        _refuse_unsafe(path, info)
    _refuse_bomb(path, infos)
    lock = threading.Lock()

    def reader(info: zipfile.ZipInfo) -> Callable[[], bytes]:
        def read() -> bytes:
            try:
                if info.file_size > LARGEST:  # known before anything is unpacked
                    raise ValueError(f"{info.file_size:,} bytes, of at most {LARGEST:,}")
                with lock:
                    packed = _packed(archive, info)
                return _unpacked(packed, info)
            except _UNREADABLE as error:
                reason = " ".join(str(error).split())
                raise SampleError(f"{path}: member {info.filename!r}", f"cannot be read ({reason})") from None

        return read

    files: dict[str, Callable[[], bytes]] = {}
    folders = set()
    for info in infos:
        name = posixpath.normpath(info.filename)  # without `./` and `//`
        if info.is_dir():
            folders.add(name)
        elif name in files:
            raise MetashotError(f"{path}: member {name!r} is there twice; pack the zip again")
        else:
            files[name] = reader(info)
    return dict(sorted(files.items())), folders - {"."}


def _packed(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A member as it lies in the archive."""
    stored = copy.copy(info)
    stored.compress_type, stored.file_size = zipfile.ZIP_STORED, info.compress_size
    stored.CRC = None  # type: ignore[assignment]  # it is of what this unpacks to
    return archive.read(stored)


def _unpacked(packed: bytes, info: zipfile.ZipInfo) -> bytes:
    """The content of a member: as many bytes as it says, never more.

    `zipfile` itself unpacks bzip2 and LZMA without a bound, whatever size a member says that it has.
    """
    size, kind = info.file_size, info.compress_type
    content: bytes
    if kind == zipfile.ZIP_STORED:
        content = packed
    elif kind == zipfile.ZIP_DEFLATED:
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, size + 1)
    elif kind == zipfile.ZIP_BZIP2:
        content = bz2.BZ2Decompressor().decompress(packed, size + 1)
    elif kind == zipfile.ZIP_LZMA:
        content = _lzma(packed, size).decompress(packed[9:], size + 1)
    else:
        raise RuntimeError(f"compressed in a way that is not read, method {kind}: pack it with Deflate")
    if len(content) != size or zlib.crc32(content) != info.CRC:
        raise zipfile.BadZipFile("it is damaged: not the bytes that the archive says")
    return content


def _lzma(packed: bytes, size: int) -> Any:
    """A decompressor for a member, whose first 9 bytes are versions, and LZMA's parameters."""
    parameters, dictionary = packed[4], int.from_bytes(packed[5:9], "little")
    positions, literals = divmod(parameters, 45)
    lp, lc = divmod(literals, 9)
    options = {"id": lzma.FILTER_LZMA1, "pb": positions, "lp": lp, "lc": lc}
    # No more of a dictionary than there is to look back to: it is allocated at once
    options["dict_size"] = max(4096, min(dictionary, size))
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[options])


def _refuse_bomb(path: Path, infos: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse an archive of a few bytes that would fill a disk."""
    size = path.stat().st_size
    if sum(info.compress_size for info in infos) > size:
        raise MetashotError(f"{path}: members lie upon each other; the archive is refused")
    total = sum(info.file_size for info in infos)
    if total > max(LARGEST, DENSEST * size):
        largest = max(infos, key=lambda info: info.file_size)
        raise MetashotError(
            f"{path}: {size:,} bytes that unpack to {total:,}, more than {DENSEST} times as many (member "
            f"{largest.filename!r} to {largest.file_size:,}); the archive is refused"
        )


def named(path: str, suffixes: Collection[str]) -> bool:
    """Whether a file has the suffix of a sample."""
    return posixpath.splitext(path)[1].lower() in suffixes


def is_sample(path: str, suffixes: Collection[str]) -> bool:
    """Whether a relative path is named like a sample, and not `hidden`."""
    return named(path, suffixes) and not hidden(path)


def hidden(path: str) -> str:
    """The topmost part of a relative path that is hidden or a system's own; empty where there is none."""
    parts = path.split("/")
    for depth, part in enumerate(parts, 1):
        if part.startswith(".") or part.lower() in LITTER:
            return "/".join(parts[:depth])
    return ""


def _refuse_unsafe(path: Path, info: zipfile.ZipInfo) -> None:
    name = info.orig_filename  # `filename` has been cleaned up by zipfile already
    link = stat.S_ISLNK(info.external_attr >> 16)
    drive = name[1:2] == ":"
    if link or "\\" in name or "\0" in name or drive or name.startswith("/") or ".." in name.split("/"):
        kind = "a symbolic link" if link else "a name that leads out of the archive"
        raise MetashotError(f"{path}: member {name!r} is {kind}; the archive is refused")
