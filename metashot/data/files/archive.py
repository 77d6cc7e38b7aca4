"""Zip archives of samples, read in place: nothing is extracted to disk."""

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
from metashot.data.files import Files, Read
from metashot.errors import MetashotError, SampleError, reason_of

LARGEST = 1 << 30  # bytes of a file or member; more is a mistake, or an attempt to exhaust the memory
DENSEST = 200  # compression ratio of an archive that unpacks to more than `LARGEST` bytes, likewise
# RuntimeError: encrypted or, as its subclass NotImplementedError, an unsupported compression method
_UNREADABLE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError)
LITTER = frozenset(  # files and folders that operating systems and file servers leave behind
    {
        *("__macosx", "icon\r", "network trash folder", "temporary items"),
        *("$recycle.bin", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini"),
        *("lost+found", "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),
    }
)
ZIPPED = 4096  # files in each zip of a folder
OPEN = 4  # zips of a folder whose listings are in memory at once

SplitOf = Callable[[tuple[str, ...], str, str, str], str]  # of the folders above, superclass, class and name


def pack(files: Iterable[tuple[str, bytes]], folder: Path) -> None:
    """Write files to a folder of zips ``0000.zip``, ``0001.zip``, …

    The same files in the same order give the same bytes.
    """
    folder.mkdir()
    for number, part in groupby(enumerate(files), key=lambda numbered: numbered[0] // ZIPPED):
        with zipfile.ZipFile(folder / f"{number:04d}.zip", "w") as packed:
            for _, (name, content) in part:
                packed.writestr(zipfile.ZipInfo(name), content)  # dated 1980-01-01, not today


def zips(folder: Path) -> list[Path]:
    """The zips that `pack` wrote. Raises MetashotError if there are none."""
    if paths := sorted(folder.glob("*.zip")):
        return paths
    raise MetashotError(f"{folder}: no zip archives; run the download stage first")


@dataclass(frozen=True)
class Packed:
    """The samples that `pack` wrote, sorted by name; every iteration yields them in the order of `ordered`.

    Memory holds the listings of `OPEN` zips, the samples of one class, and the zips that each class is in.

    Attributes:
        folder: Folder of zips with members ``[<split>/]<superclass>/<class>/<name>``.
        suffixes: Suffixes of samples.
        divide: Assigns splits to the samples of one class.
    """

    folder: Path
    suffixes: Collection[str]
    divide: Callable[[list[Item]], Sequence[Item]]

    def __iter__(self) -> Iterator[Item]:
        @functools.lru_cache(maxsize=OPEN)
        def classes(path: Path) -> Mapping[tuple[str, str], list[Item]]:
            members = defaultdict(list)
            for item in self._items(path):
                members[item.key.split, item.key.path].append(item)
            return members

        for (split, _), (packed, paths) in sorted(self._places.items()):
            items = list(chain.from_iterable(classes(path)[packed] for path in paths))
            yield from ordered(item for item in self.divide(items) if item.key.split == split)

    @functools.cached_property
    def _places(self) -> dict[tuple[str, str], tuple[tuple[str, str], list[Path]]]:
        """For each split and class: split, if any, and class in the members' names, and the zips."""
        places = {}
        members = ((path, item) for path in zips(self.folder) for item in self._items(path))
        for packed, group in groupby(members, key=lambda member: (member[1].key.split, member[1].key.path)):
            paths, items = zip(*group, strict=True)
            for split in {item.key.split for item in self.divide([*items])}:
                places[split, packed[1]] = packed, sorted({*paths})
        return places

    def _items(self, path: Path) -> Iterator[Item]:
        files = ((name, read) for name, read in contents(path)[0].items() if has_suffix(name, self.suffixes))
        return _items(path, files, lambda above, *_: "".join(above[:1]))


def items(path: Path, suffixes: Collection[str], split_of: SplitOf) -> list[Item]:
    """The samples of a zip with members ``[…/]<superclass>/<class>/<name>``, in the order of `ordered`.

    Args:
        path: The zip.
        suffixes: Suffixes of samples.
        split_of: Returns the split of a sample.

    Raises MetashotError as `members` does, and for a sample without a superclass.
    """
    return ordered(_items(path, members(path, suffixes), split_of))


def _items(path: Path, members: Iterable[tuple[str, Read]], split_of: SplitOf) -> Iterator[Item]:
    for name, read in members:
        parts = name.split("/")
        if len(parts) < 3:
            raise MetashotError(f"{path}: member {name!r} is not in <superclass>/<class>/")
        *above, superclass, class_, file = parts[-5:]
        key = Key(split_of(tuple(above), superclass, class_, file), superclass, class_, file)
        yield Item(key, read, f"{path}: member {name!r}")


def members(path: Path, suffixes: Collection[str]) -> Iterator[tuple[str, Read]]:
    """Name and reader of each sample in a zip, sorted by name. Raises MetashotError as `contents` does."""
    for name, read in contents(path)[0].items():
        if is_sample(name, suffixes):
            yield name, read


def contents(path: Path) -> tuple[Files, set[str]]:
    """Every file of a zip, sorted by path, and the folders that have entries of their own.

    Raises MetashotError, naming archive and member, when the archive is missing, truncated or corrupt, when
    members share a name or overlap, when one would be extracted to a place outside, and when together they
    unpack to more than `LARGEST` bytes and `DENSEST` times the archive. Readers raise SampleError for a
    member that is damaged, encrypted or larger than `LARGEST`.
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
            is_zip = b"PK".startswith(file.read(2))  # an empty file counts as truncated
        raise MetashotError(
            f"{path}: truncated or corrupt zip ({error}); download it again"
            if is_zip
            else f"{path}: not a zip file; only folders and zip files are read: unpack other archives"
        ) from None
    infos = archive.infolist()
    for info in infos:  # all of them, before any is read
        _refuse_unsafe(path, info)
    _refuse_bomb(path, infos)
    lock = threading.Lock()

    def reader(info: zipfile.ZipInfo) -> Read:
        def read() -> bytes:
            try:
                if info.file_size > LARGEST:  # before anything is unpacked
                    raise ValueError(f"{info.file_size:,} bytes, of at most {LARGEST:,}")
                with lock:
                    packed = _packed(archive, info)
                return _unpacked(packed, info)
            except _UNREADABLE as error:
                where = f"{path}: member {info.filename!r}"
                raise SampleError(where, f"cannot be read ({reason_of(error)})") from None

        return read

    files: Files = {}
    folders = set()
    for info in infos:
        name = posixpath.normpath(info.filename)  # without `./` and `//`
        if info.is_dir():
            folders.add(name)
        elif name in files:
            raise MetashotError(f"{path}: member {name!r} occurs twice; pack the zip again")
        else:
            files[name] = reader(info)
    return dict(sorted(files.items())), folders - {"."}


def _packed(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The compressed bytes of a member."""
    stored = copy.copy(info)
    stored.compress_type, stored.file_size = zipfile.ZIP_STORED, info.compress_size
    stored.CRC = None  # type: ignore[assignment]  # the checksum of the uncompressed bytes
    return archive.read(stored)


def _unpacked(packed: bytes, info: zipfile.ZipInfo) -> bytes:
    """The uncompressed bytes of a member, never more than its declared size.

    `zipfile` itself unpacks bzip2 and LZMA without a bound, whatever size a member declares.
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
        raise RuntimeError(f"unsupported compression method {kind}: pack it with Deflate")
    if len(content) != size or zlib.crc32(content) != info.CRC:
        raise zipfile.BadZipFile("damaged: size or checksum differs from the archive's listing")
    return content


def _lzma(packed: bytes, size: int) -> Any:
    """A decompressor for a member whose first 9 bytes are version numbers and LZMA parameters."""
    parameters, dictionary = packed[4], int.from_bytes(packed[5:9], "little")
    positions, literals = divmod(parameters, 45)
    lp, lc = divmod(literals, 9)
    options = {"id": lzma.FILTER_LZMA1, "pb": positions, "lp": lp, "lc": lc}
    # The dictionary is allocated at once, and never needs to be larger than the content
    options["dict_size"] = max(4096, min(dictionary, size))
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[options])


def _refuse_bomb(path: Path, infos: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse a small archive that would fill a disk."""
    size = path.stat().st_size
    if sum(info.compress_size for info in infos) > size:
        raise MetashotError(f"{path}: members overlap; the archive is refused")
    total = sum(info.file_size for info in infos)
    if total > max(LARGEST, DENSEST * size):
        largest = max(infos, key=lambda info: info.file_size)
        raise MetashotError(
            f"{path}: {size:,} bytes that unpack to {total:,}, more than {DENSEST} times as many (member "
            f"{largest.filename!r} to {largest.file_size:,}); the archive is refused"
        )


def has_suffix(path: str, suffixes: Collection[str]) -> bool:
    """Whether a file has one of several suffixes, in any case."""
    return posixpath.splitext(path)[1].lower() in suffixes


def is_sample(path: str, suffixes: Collection[str]) -> bool:
    """Whether a relative path has the suffix of a sample, and is not `hidden`."""
    return has_suffix(path, suffixes) and not hidden(path)


def hidden(path: str) -> str:
    """The topmost part of a relative path that is hidden or `LITTER`, with its parents; empty if none is."""
    parts = path.split("/")
    for depth, part in enumerate(parts, 1):
        if part.startswith(".") or part.lower() in LITTER:
            return "/".join(parts[:depth])
    return ""


def _refuse_unsafe(path: Path, info: zipfile.ZipInfo) -> None:
    name = info.orig_filename  # zipfile has cleaned up `filename`
    link = stat.S_ISLNK(info.external_attr >> 16)
    drive = name[1:2] == ":"
    if link or "\\" in name or "\0" in name or drive or name.startswith("/") or ".." in name.split("/"):
        kind = "a symbolic link" if link else "a name that leads out of the archive"
        raise MetashotError(f"{path}: member {name!r} is {kind}; the archive is refused")
