"""Zip archives of samples, read where they lie: nothing is extracted to disk."""

import functools
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

from metashot.data import Key
from metashot.data.source import Item, ordered
from metashot.errors import MetashotError

# RuntimeError: it is encrypted or, as one of its subclasses, compressed in a way zipfile does not know
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError)
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
        return _items(path, self.suffixes, lambda place, *_: "".join(place[:1]))


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
    return ordered(_items(path, suffixes, split_of))


def _items(
    path: Path, suffixes: Collection[str], split_of: Callable[[tuple[str, ...], str, str, str], str]
) -> Iterator[Item]:
    for name, read in members(path, suffixes):
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
    two members have one name, and when any would lead out of a directory it is extracted to. Reading a
    damaged or encrypted member raises one too.
    """
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise MetashotError(f"{path}: no such archive; run the download stage first") from None
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise MetashotError(f"{path}: truncated or corrupt zip ({error}); download it again") from None
    infos = archive.infolist()
    for info in infos:  # all of them before the first sample is believed
        _refuse_unsafe(path, info)
    lock = threading.Lock()

    def reader(info: zipfile.ZipInfo) -> Callable[[], bytes]:
        def read() -> bytes:
            try:
                with lock:
                    return archive.read(info)
            except _UNREADABLE as error:
                reason = " ".join(str(error).split())
                raise MetashotError(f"{path}: member {info.filename!r} cannot be read ({reason})") from None

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


def is_sample(path: str, suffixes: Collection[str]) -> bool:
    """Whether a relative path is named like a sample."""
    return posixpath.splitext(path)[1].lower() in suffixes and not hidden(path)


def hidden(path: str) -> bool:
    """Whether a relative path is hidden, or one that macOS adds to a zip."""
    return path.startswith(".") or "/." in path or "__MACOSX" in path.split("/")


def _refuse_unsafe(path: Path, info: zipfile.ZipInfo) -> None:
    name = info.orig_filename  # `filename` has been cleaned up by zipfile already
    link = stat.S_ISLNK(info.external_attr >> 16)
    drive = name[1:2] == ":"
    if link or "\\" in name or "\0" in name or drive or name.startswith("/") or ".." in name.split("/"):
        kind = "a symbolic link" if link else "a name that leads out of the archive"
        raise MetashotError(f"{path}: member {name!r} is {kind}; the archive is refused")
