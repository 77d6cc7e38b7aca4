"""The files that a path in params.yaml stands for: one file, those below a folder, or those in a zip file."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from metashot.data.files import Files, archive, walk
from metashot.errors import MetashotError, grouped, some
from metashot.output import say

SUFFIXES = 10  # named in a message about ignored files


class LocalFiles(NamedTuple):
    """Files of a folder or zip file."""

    samples: Files
    """Those with the suffix of a sample."""
    ignored: Counter[str]
    """Number of other files, by suffix."""
    paths: Collection[str]
    """Paths of all files that are not hidden."""
    folders: Collection[str]
    """Paths of all folders that are not hidden."""
    mistakes: list[str]
    """Files that cannot be used, one line for each reason."""


def find(path: str, root: Path, suffixes: Collection[str]) -> LocalFiles:
    """List the files at a path.

    Args:
        path: A folder, a zip file or a single file with one of ``suffixes``; relative to ``root``, or
            absolute.
        root: The repository.
        suffixes: Suffixes of samples, in lower case, with their dot.

    Raises MetashotError when nothing is at the path, and for an unsafe or damaged zip file.
    """
    origin = root / path
    faults: list[tuple[str, str]] = []
    if origin.is_dir():
        files, folders, hidden = walk.walk(origin, faults)
    elif origin.is_file() and archive.is_sample(origin.name, suffixes):
        files, folders, hidden = {origin.name: walk.reader(origin)}, set(), set()
    elif origin.is_file():
        members, folders = archive.contents(origin)
        hidden = {top for name in members if (top := archive.hidden(name))}
        files = {name: read for name, read in members.items() if not archive.hidden(name)}
        folders = {name for name in folders if not archive.hidden(name)}
    else:
        raise MetashotError(f"raw.path: {path}: no such folder or zip file")
    ignored = Counter({"hidden": len(hidden)} if hidden else {})
    samples: Files = {}
    for name, read in files.items():
        if not archive.has_suffix(name, suffixes):
            ignored[PurePosixPath(name).suffix.lower() or "without suffix"] += 1
        elif fault := walk.unusable(origin, origin / name) if origin.is_dir() else None:
            faults.append(fault)
        else:
            samples[name] = read
    return LocalFiles(samples, ignored, files, folders, grouped(faults, "paths"))


def samples(path: str, root: Path, suffixes: Collection[str], *, allow_empty_folders: bool = False) -> Files:
    """The samples at a path, at any depth; reports how many other files are ignored.

    Raises MetashotError as `find` does, for files that cannot be packed, such as links that lead out of the
    folder, and, unless they are allowed, for folders without samples.
    """
    found = find(path, root, suffixes)
    report_ignored(path, found.ignored)
    refuse([*found.mistakes, *([] if allow_empty_folders else empty_folders(path, found))])
    return found.samples


def count_suffixes(path: str, root: Path) -> Counter[str]:
    """Number of files of each suffix at a path; hidden files count under ``hidden``."""
    return find(path, root, ()).ignored


def empty_folders(shown: str, found: LocalFiles) -> list[str]:
    """A line about folders without samples, naming the topmost ones; none if there are no samples at all."""
    folders = {PurePosixPath(folder) for folder in found.folders}
    folders.update(parent for name in found.paths for parent in PurePosixPath(name).parents)
    full = {parent for name in found.samples for parent in PurePosixPath(name).parents}
    empty = folders - full
    if not full or not (topmost := [repr(str(f)) for f in sorted(empty) if f.parent not in empty]):
        return []
    if len(topmost) == 1:
        return [f"{shown}: the folder {topmost[0]} has no sample: fill or remove it"]
    return [f"{shown}: {len(topmost):,} folders have no sample ({some(topmost)}): fill or remove them"]


def describe_ignored(ignored: Mapping[str, int]) -> str:
    """Number of other files in words, with the most frequent suffixes."""
    frequent = sorted(Counter(ignored).most_common(SUFFIXES))
    counts = [f"{count:,} {suffix}" for suffix, count in frequent]
    if len(ignored) > len(frequent):
        counts.append(f"{len(ignored) - len(frequent):,} other suffixes")
    return f"{sum(ignored.values()):,} files of other kinds ({', '.join(counts)})"


def report_ignored(path: str, ignored: Mapping[str, int]) -> None:
    """Print how many files are ignored, if any."""
    if ignored:
        say(f"{path}: ignores {describe_ignored(ignored)}", err=True)


def refuse(mistakes: Sequence[str]) -> None:
    """Raise a MetashotError with the first of several mistakes, and the number of the others."""
    if mistakes:
        first, *more = mistakes
        raise MetashotError(f"{first} (and {len(more)} more: `metashot init` lists them)" if more else first)
