"""Class folders, in a folder or a zip file: samples by class, and mistakes in their layout."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from metashot.data import label
from metashot.data.files import Files, Read, class_names, local, split_lists
from metashot.errors import MetashotError, counted
from metashot.section import Section

LAYOUT = "<class>/<file> or <superclass>/<class>/<file>"


@dataclass(frozen=True, kw_only=True)
class Raw(Section):
    """Section ``raw`` of a data set in class folders.

    Attributes:
        path: Folder or zip file with ``<class>/<file>`` or ``<superclass>/<class>/<file>``; relative to the
            repository, or absolute.
        splits: Folder with one list for each split, ``train``, ``val`` and ``test``, as ``.txt`` (a class on
            each line), ``.json`` (a list of classes, of pairs of superclass and class, or of superclasses)
            or ``.csv`` (columns filename and label); empty if there are none. See `split_lists.arrange`.
        md5: Digest of the files, written by `metashot refresh`; empty before the first time.
        label: For classes that are in file names instead of folders: a regular expression, searched in each
            name, whose group ``label`` is the class, such as ``^(?P<label>[0-9]+)_`` for
            ``7_jackson_32.wav``.
    """

    path: str
    splits: str
    md5: str
    label: str = ""

    def __post_init__(self) -> None:
        try:
            groups = re.compile(self.label).groupindex
        except re.error as error:
            raise ValueError(f"label: {self.label!r} is not a regular expression ({error})") from None
        if self.label and "label" not in groups:
            raise ValueError(f"label: {self.label!r} has no group `label`: write (?P<label>...)")


@dataclass(frozen=True)
class Contents:
    """Contents of a data set of local files.

    Attributes:
        samples: Reader of each sample, sorted by path: ``[<superclass>/]<class>/<file>``, or as
            `split_lists.arrange` returns it.
        ignored: Number of files of other kinds, by suffix.
        unlisted: Number of samples that no list of splits names.
        mistakes: Reasons why the data cannot be used, one line each.
    """

    samples: Mapping[str, Read]
    ignored: Mapping[str, int]
    unlisted: int
    mistakes: Sequence[str]


def contents(raw: Raw, root: Path, suffixes: Collection[str]) -> Contents:
    """Samples of a folder or zip file, by class.

    Raises MetashotError when nothing is at the path, and for a zip file, a file name or lists of splits that
    cannot be used at all.
    """
    found = local.find(raw.path, root, suffixes)
    samples, mistakes = found.samples, found.mistakes
    if raw.label:
        samples = _by_label(samples, raw)
    tops = {path.partition("/")[0] for path in samples}
    if len(tops) == 1 and all(path.count("/") == 3 for path in samples):  # one folder around everything
        samples = {path.partition("/")[2]: read for path, read in samples.items()}
    unlisted = 0
    if raw.splits:
        samples, unlisted = split_lists.arrange(samples, root / raw.splits, raw.path)
    else:
        samples, misplaced = _at_one_depth(samples, raw.path)
        mistakes += misplaced
        if misplaced and not samples:
            return Contents({}, found.ignored, 0, mistakes)
        if not raw.label:  # folders are the classes
            mistakes += local.empty_folders(raw.path, found)
    mistakes += class_names.ambiguous(raw.path, {path.rpartition("/")[0] for path in samples})
    samples = {_normalised(path): read for path, read in samples.items()}
    classes = {path.rpartition("/")[0] for path in samples}
    if len(classes) < 2:
        formats = ", ".join(sorted(suffix.removeprefix(".") for suffix in suffixes))
        mistakes.append(
            f"{raw.path}: {len(classes)} class folders with samples ({LAYOUT}; {formats}): "
            "an episode needs at least two"
        )
    return Contents(dict(sorted(samples.items())), found.ignored, unlisted, mistakes)


def samples(raw: Raw, root: Path, suffixes: Collection[str]) -> Iterator[tuple[str, Read]]:
    """Path and reader of every sample, sorted by path.

    Raises MetashotError as `contents` does, and for each of its ``mistakes``.
    """
    found = contents(raw, root, suffixes)
    local.report_ignored(raw.path, found.ignored)
    split_lists.report_unlisted(raw.path, raw.splits, found.unlisted)
    local.refuse(found.mistakes)
    yield from found.samples.items()


def _by_label(files: Files, raw: Raw) -> Files:
    """Files as ``<class>/<file>``, with the class that the pattern finds in the file name."""
    labelled: Files = {}
    paths: dict[str, str] = {}
    unmatched, clashing = [], []
    for path, read in files.items():
        name = PurePosixPath(path).name
        match = re.search(raw.label, name)
        class_ = label(match["label"] or "") if match else ""
        if not class_ or class_.startswith("."):  # a leading dot means hidden
            unmatched.append(repr(path))
        elif (first := paths.setdefault(name, path)) != path:
            clashing.append(f"{first!r} and {path!r}")
        labelled[f"{class_}/{name}"] = read
    if unmatched:
        raise MetashotError(
            f"{raw.path}: {counted(unmatched, 'files')}: no class in the name by raw.label, {raw.label!r}"
        )
    if clashing:
        raise MetashotError(
            f"{raw.path}: {counted(clashing, 'pairs of files')} have one name: rename one of them"
        )
    return labelled


def _at_one_depth(files: Files, shown: str) -> tuple[Files, list[str]]:
    """Files at the most frequent depth of class folders, and a line about those at each other depth."""
    depths = Counter(depth for path in files if (depth := path.count("/")) in (1, 2))
    usual = depths.most_common(1)[0][0] if depths else 1
    misplaced: dict[int, list[str]] = defaultdict(list)
    for path in files:
        if (depth := path.count("/")) != usual:
            misplaced[depth].append(repr(path))
    mistakes = []
    for depth, paths in sorted(misplaced.items()):
        mend = f"the layout has to be {LAYOUT}"
        if depth == 0 and not depths:
            mend = (
                "lay them out as <class>/<file>; or, if their names contain the class, give the pattern, as "
                "--label '^(?P<label>[^_]+)_' for 'cat_01.png' (raw.label in params.yaml); or provide lists "
                "of files (--splits)"
            )
        elif depth > 2 or len(misplaced) > 1:
            mend += ", or lists of splits have to name them (--splits)"
        mistakes.append(f"{shown}: {counted(paths, 'files')}: not at the depth of the others; {mend}")
    return {path: read for path, read in files.items() if path.count("/") == usual}, mistakes


def _normalised(path: str) -> str:
    """The path of a sample with class and superclass normalised by `label`."""
    *above, name = path.split("/")
    return "/".join([*map(label, above), name])
