"""Folders of class folders, and zip files of them: what is in them, its digest, and how it is divided.

``params.yaml`` pins their content by its digest, so a version of the data is a version of that file. Every
later stage works on the copy that DVC keeps. `metashot refresh` pins new content.
"""

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, Protocol

from tqdm import tqdm

from metashot import files
from metashot.data import Item, Split, label
from metashot.data.files import archive, split_lists, walk
from metashot.errors import MetashotError, grouped, some
from metashot.output import say
from metashot.section import Section

SUFFIXES = 10  # of files of other kinds, which are named
LAYOUT = "<class>/<file> or <superclass>/<class>/<file>"


@dataclass(frozen=True, kw_only=True)
class Raw(Section):
    """Section ``raw`` of a data set that is a folder.

    Attributes:
        path: Folder or zip file of `<class>/<file>` or `<superclass>/<class>/<file>`; relative to the
            repository, or absolute.
        splits: Folder with the lists of what is in each split, ``train``, ``val`` and ``test``, as ``.txt``
            (a class on each line), ``.json`` (a list of classes, of pairs of superclass and class, or of
            superclasses) or ``.csv`` (columns filename and label); empty without. See `split_lists.arrange`.
        md5: Digest of the files, written by `metashot refresh`; empty before the first time.
        label: Where file names say the class and folders do not: a regular expression, looked for in each
            name, whose group ``label`` is the class, as ``^(?P<label>[0-9]+)_`` in ``7_jackson_32.wav``.
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


@dataclass(frozen=True, kw_only=True)
class Shares(Section):
    """How a folder is divided without lists.

    Attributes:
        of: ``classes``: every class is in one split, and a model is tested on classes that it has not seen.
            ``samples``: every class is in all three, for data with too few classes; a model is tested on new
            samples of the classes that it was trained on, and every result says so.
        seed: Of the draw.
        val: Share for validation.
        test: Share for the test; the rest is for training.
    """

    of: Literal["classes", "samples"]
    seed: int
    val: float
    test: float

    def __post_init__(self) -> None:
        if not (self.val > 0 and self.test > 0 and self.val + self.test < 1):
            raise ValueError(f"val: {self.val} and test: {self.test} do not leave a share for every split")


Division = Shares | Literal["listed"]


@dataclass(frozen=True, kw_only=True)
class Prepare(Section):
    """How samples are divided: the keys of ``prepare`` that every source of local files has.

    Attributes:
        repeated: What becomes of a sample that is in two splits: ``refuse`` everything, or ``remove`` it
            from training or validation.
        split: How the samples are divided, or ``listed`` where the files themselves say so.
    """

    repeated: Literal["refuse", "remove"]
    split: Division

    @property
    def disjoint(self) -> bool:
        """See `sources.Prepare`."""
        return self.split == "listed" or self.split.of == "classes"


@dataclass(frozen=True)
class Folder:
    """The functions of a source that is a folder, or zip file, of samples in files of their own.

    Attributes:
        suffixes: Of the names that samples have.
        packed: The name of the folder of zips that `download` leaves.
    """

    suffixes: Collection[str]
    packed: str

    def digest(self, raw: Raw, root: Path) -> str:
        """Digest of the samples as they are now: DVC's of a folder that holds them and nothing else.

        Raises MetashotError for what `download` refuses, but for another digest.
        """
        return digest(samples(raw, root, self.suffixes))

    def download(self, raw: Raw, directory: Path) -> None:
        """Pack the samples into zips as `[<split>/]<superclass>/<class>/<name>`; same samples, same bytes.

        Raises MetashotError when there is no such folder, when its digest is not ``raw.md5``, when classes
        lie at different depths, are empty or have names that look the same, when there are fewer than two,
        when a file name says no class, and when the lists of splits name what is not there.
        """

        def member(name: str) -> str:
            return name if raw.splits or name.count("/") == 2 else f"{split_lists.ALL}/{name}"

        pack(samples(raw, Path(), self.suffixes), raw, directory / self.packed, member)

    def items(self, prepare: Prepare, directory: Path) -> Iterable[Item]:
        """The samples that `download` packed, divided."""
        folder, division = directory / self.packed, prepare.split

        def divided(members: list[Item]) -> Sequence[Item]:
            listed = bool(members[0].key.split)
            if listed != (division == "listed"):
                have, want = ("lists", "`listed`") if listed else ("no lists", "shares")
                raise MetashotError(f"{folder}: raw.splits names {have}, so prepare.split has to be {want}")
            return divide(members, division) if isinstance(division, Shares) else members

        return archive.Packed(folder, self.suffixes, divided)


class Pinned(Protocol):
    """Where local files are, and what they are."""

    @property
    def path(self) -> str:
        """See `Raw`."""

    @property
    def md5(self) -> str:
        """See `Raw`."""


class Divided(Pinned, Protocol):
    """Local files that lists divide."""

    @property
    def splits(self) -> str:
        """See `Raw`."""


@dataclass(frozen=True)
class Contents:
    """What a folder holds.

    Attributes:
        samples: Content of each by its path, sorted: `[<superclass>/]<class>/<file>`, or as
            `split_lists.arrange` puts it.
        others: How many files are passed by, by suffix.
        left_out: How many samples no list of splits names.
        mistakes: What keeps it from being used, a line each.
    """

    samples: Mapping[str, split_lists.Read]
    others: Mapping[str, int]
    left_out: int
    mistakes: Sequence[str]


def passed_by(others: Mapping[str, int]) -> str:
    """Files of other kinds, counted by suffix, in words; of many suffixes the most frequent ones."""
    usual = sorted(Counter(others).most_common(SUFFIXES))
    kinds = [f"{count:,} {suffix}" for suffix, count in usual]
    if len(others) > len(usual):
        kinds.append(f"{len(others) - len(usual):,} other suffixes")
    return f"{sum(others.values()):,} files of other kinds ({', '.join(kinds)})"


def digest(found: Iterable[tuple[str, split_lists.Read]]) -> str:
    """Digest of files, by their names: DVC's of a folder that holds them and nothing else."""
    return files.folder_md5({name: _md5(read()) for name, read in found})


def pack(
    found: Iterable[tuple[str, split_lists.Read]],
    raw: Pinned,
    target: Path,
    member: Callable[[str], str] = str,
) -> None:
    """Pack files into a folder of zips; same files, same bytes.

    Args:
        found: Names and contents.
        raw: What params.yaml says of them.
        target: The folder.
        member: What a name is called in its zip.

    Raises MetashotError when their digest is not ``raw.md5``.
    """
    md5s = {}

    def contents() -> Iterator[tuple[str, bytes]]:
        for name, read in tqdm(found, "packing", unit=" files", leave=False, disable=None):
            content = read()
            md5s[name] = _md5(content)  # of what is packed: the folder may change meanwhile
            yield member(name), content

    with files.replacing(target) as partial:
        archive.pack(contents(), partial)
        if files.folder_md5(md5s) != raw.md5:
            raise MetashotError(
                f"{raw.path}: not the files that params.yaml pins (raw.md5: {raw.md5 or 'none yet'}); "
                "run `metashot refresh` to pin those that are there"
            )


def divide(found: Iterable[Item], shares: Shares) -> list[Item]:
    """Give each item its split, drawn from names alone.

    A class stays in its split whatever else comes and goes: no model is tested on what it was trained on
    before the folder grew. The shares of classes hold on average; those of a class's samples as far as they
    can be divided.
    """
    if shares.of == "classes":
        return [_in(item, split_of(shares, item.key.path)) for item in found]
    classes: dict[str, list[Item]] = defaultdict(list)
    for item in found:
        classes[item.key.path].append(item)
    divided = []
    for path, members in classes.items():
        members.sort(key=lambda item: _place(shares, f"{path}/{item.key.name}"))
        n_test, n_val = (max(2, round(share * len(members))) for share in (shares.test, shares.val))
        if len(members) < n_test + n_val + 2:
            raise MetashotError(
                f"class {path} has {len(members)} samples: at least 2 have to be in each split; add some, "
                "or lower val and test"
            )
        for rank, item in enumerate(members):
            split: Split = "test" if rank < n_test else "val" if rank < n_test + n_val else "train"
            divided.append(_in(item, split))
    return divided


def split_of(shares: Shares, path: str) -> Split:
    """Split of the class `<superclass>/<class>`, drawn from its name alone."""
    place = _place(shares, path)
    if place < shares.test:
        return "test"
    return "val" if place < shares.test + shares.val else "train"


def _place(shares: Shares, name: str) -> float:
    """Of a name, even in [0, 1)."""
    digested = hashlib.sha256(f"{shares.seed}/{name}".encode()).digest()
    return float(Fraction(int.from_bytes(digested[:6]), 2**48))


def _in(item: Item, split: Split) -> Item:
    return item._replace(key=item.key._replace(split=split))


def contents(raw: Raw, root: Path, suffixes: Collection[str]) -> Contents:
    """What a folder or a zip file holds.

    Raises MetashotError where there is none, or a zip or lists of splits cannot be used at all.
    """
    walked = _gathered(raw, root, suffixes)
    found, mistakes = walked.samples, walked.mistakes
    if raw.label:
        found = _by_name(found, raw)
    tops = {name.partition("/")[0] for name in found}
    if len(tops) == 1 and all(name.count("/") == 3 for name in found):  # one folder around everything
        found = {name.partition("/")[2]: read for name, read in found.items()}
    left_out = 0
    if raw.splits:
        found, left_out = split_lists.arrange(found, root / raw.splits, raw.path)
    else:
        found, elsewhere = _at_one_depth(found, raw.path)
        mistakes += elsewhere
        if elsewhere and not found:
            return Contents({}, walked.others, 0, mistakes)
        if not raw.label:  # folders are the classes
            mistakes += _empty(raw.path, walked)
    mistakes += indistinct(raw.path, {name.rpartition("/")[0] for name in found})
    found = {_spelled(name): read for name, read in found.items()}
    classes = {name.rpartition("/")[0] for name in found}
    if len(classes) < 2:
        kinds = ", ".join(sorted(suffix.removeprefix(".") for suffix in suffixes))
        mistakes.append(
            f"{raw.path}: {len(classes)} class folders with samples ({LAYOUT}; {kinds}): "
            "an episode needs at least two"
        )
    return Contents(dict(sorted(found.items())), walked.others, left_out, mistakes)


def samples(raw: Raw, root: Path, suffixes: Collection[str]) -> Iterator[tuple[str, split_lists.Read]]:
    """Path and content of every sample, sorted by path; mistakes of layout are refused."""
    found = contents(raw, root, suffixes)
    _say_passed_by(raw, found.others)
    _say_left_out(raw, found.left_out)
    refuse(found.mistakes)
    yield from found.samples.items()


def local(raw: Pinned, root: Path, suffixes: Collection[str]) -> split_lists.Found:
    """A file that is named like a sample, or those in a folder or a zip that are, by their path in it.

    Raises MetashotError when there is none of these, and for what cannot be packed: links that lead out of
    the folder, folders without samples, unsafe or damaged zips.
    """
    walked = _gathered(raw, root, suffixes)
    _say_passed_by(raw, walked.others)
    refuse([*walked.mistakes, *_empty(raw.path, walked)])
    return walked.samples


def unlabelled(path: str, suffixes: Collection[str]) -> split_lists.Found:
    """The samples in a folder or zip file at whatever depth, by their path in it.

    Raises MetashotError when there is no such folder or zip, and for what `local` refuses but for folders
    without samples.
    """
    raw = Raw(path=path, splits="", md5="")
    walked = _gathered(raw, Path(), suffixes)
    _say_passed_by(raw, walked.others)
    refuse(walked.mistakes)
    return walked.samples


def by_suffix(raw: Pinned, root: Path) -> Counter[str]:
    """How many files of each suffix a folder or zip file holds, but for hidden ones."""
    return _gathered(raw, root, ()).others


def listed(found: split_lists.Found, raw: Divided, root: Path) -> split_lists.Found:
    """The files that the lists of splits name, where they say; tells how many they leave out."""
    arranged, left_out = split_lists.arrange(found, root / raw.splits, raw.path)
    _say_left_out(raw, left_out)
    return dict(sorted(arranged.items()))


class _Walked(NamedTuple):
    """Files of a folder or zip."""

    samples: split_lists.Found
    """By their path in it."""
    others: Counter[str]
    """How many other files of each suffix."""
    files: Collection[str]
    """Paths of all but hidden ones."""
    folders: Collection[str]
    mistakes: list[str]


def _gathered(raw: Pinned, root: Path, suffixes: Collection[str]) -> _Walked:
    origin = root / raw.path
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
        raise MetashotError(f"raw.path: {raw.path}: no such folder or zip file")
    others = Counter({"hidden": len(hidden)} if hidden else {})
    found: split_lists.Found = {}
    for name, read in files.items():
        if not archive.named(name, suffixes):
            others[PurePosixPath(name).suffix.lower() or "without suffix"] += 1
        elif fault := walk.unusable(origin, origin / name) if origin.is_dir() else None:
            faults.append(fault)
        else:
            found[name] = read
    return _Walked(found, others, files, folders, grouped(faults, "paths"))


def refuse(mistakes: Sequence[str]) -> None:
    """Raise a MetashotError for mistakes, if there are any: the first, and how many more."""
    if mistakes:
        first, *more = mistakes
        raise MetashotError(f"{first} (and {len(more)} more: `metashot init` lists them)" if more else first)


def _say_passed_by(raw: Pinned, others: Mapping[str, int]) -> None:
    if others:
        say(f"{raw.path}: passes by {passed_by(others)}", err=True)


def _say_left_out(raw: Divided, count: int) -> None:
    if count:
        say(f"{raw.path}: leaves out {count:,} files that no list in {raw.splits} names", err=True)


def _by_name(found: split_lists.Found, raw: Raw) -> split_lists.Found:
    """The files as `<class>/<file>`, with the class that the file's name says."""
    by_name: split_lists.Found = {}
    known: dict[str, str] = {}
    unnamed, twice = [], []
    for name, read in found.items():
        file = PurePosixPath(name).name
        match = re.search(raw.label, file)
        class_ = label(match["label"] or "") if match else ""
        if not class_ or class_.startswith("."):  # what starts with a dot is hidden
            unnamed.append(repr(name))
        elif (first := known.setdefault(file, name)) != name:
            twice.append(f"{first!r} and {name!r}")
        by_name[f"{class_}/{file}"] = read
    if unnamed:
        raise MetashotError(
            f"{raw.path}: {_files(unnamed)}: no class in the name by raw.label, {raw.label!r}"
        )
    if twice:
        raise MetashotError(
            f"{raw.path}: {_files(twice, 'pairs of files')} have one name: rename one of them"
        )
    return by_name


def _at_one_depth(found: split_lists.Found, shown: str) -> tuple[split_lists.Found, list[str]]:
    """The files that lie in class folders as most do, and what is wrong with the others."""
    depths = Counter(depth for name in found if (depth := name.count("/")) in (1, 2))
    usual = depths.most_common(1)[0][0] if depths else 1
    elsewhere: dict[int, list[str]] = defaultdict(list)
    for name in found:
        if (depth := name.count("/")) != usual:
            elsewhere[depth].append(repr(name))
    mistakes = []
    for depth, names in sorted(elsewhere.items()):
        mend = f"all have to lie in {LAYOUT}"
        if depth == 0 and not depths:
            mend = (
                "lay them out as <class>/<file>; or, where their names say the class, give the pattern, as "
                "--label '^(?P<label>[^_]+)_' for 'cat_01.png' (raw.label in params.yaml); or name lists of "
                "files (--splits)"
            )
        elif depth > 2 or len(elsewhere) > 1:
            mend += ", or be named by lists of splits (--splits)"
        mistakes.append(f"{shown}: {_files(names)}: not at the depth of the others; {mend}")
    return {name: read for name, read in found.items() if name.count("/") == usual}, mistakes


def _spelled(name: str) -> str:
    """The path of a sample with its class and superclass as `label` spells them."""
    *above, file = name.split("/")
    return "/".join([*map(label, above), file])


def _files(names: Sequence[str], noun: str = "files") -> str:
    return names[0] if len(names) == 1 else f"{len(names):,} {noun} ({some(names)})"


def _empty(shown: str, walked: _Walked) -> list[str]:
    """Folders without a sample, the topmost of each; none where there is no sample at all."""
    there = {PurePosixPath(folder) for folder in walked.folders}
    there.update(parent for name in walked.files for parent in PurePosixPath(name).parents)
    full = {parent for name in walked.samples for parent in PurePosixPath(name).parents}
    empty = there - full
    if not full or not (topmost := [repr(str(f)) for f in sorted(empty) if f.parent not in empty]):
        return []
    if len(topmost) == 1:
        return [f"{shown}: the folder {topmost[0]} has no sample: fill or remove it"]
    return [f"{shown}: {len(topmost):,} folders have no sample ({some(topmost)}): fill or remove them"]


def indistinct(shown: str, classes: Iterable[str]) -> Iterator[str]:
    """Names of classes that a person cannot tell apart, that break lines, or are not names.

    A line for each reason.
    """
    known: dict[str, str] = {}
    unprintable, unnamed, alike = [], [], []
    for class_ in sorted(classes):
        if not all(map(label, class_.split("/"))):
            unnamed.append(repr(class_))
        elif not label(class_).isprintable():
            unprintable.append(repr(class_))
        same = known.setdefault(" ".join(unicodedata.normalize("NFC", class_).casefold().split()), class_)
        if same != class_:
            alike.append(f"{same!a} and {class_!a}")
    if unnamed:
        yield f"{shown}: {_files(unnamed, 'classes')}: a class whose name is white space alone: rename it"
    if len(unprintable) == 1:
        yield f"{shown}: the class {unprintable[0]} has unprintable characters: rename it"
    elif unprintable:
        yield f"{shown}: {_files(unprintable, 'classes')} have unprintable characters: rename them"
    if alike:
        pairs = f"classes {alike[0]}" if len(alike) == 1 else f"classes in {_files(alike, 'pairs')}"
        yield (
            f"{shown}: the {pairs} differ in nothing but case, white space or encoding: join or rename them"
        )


def _md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()
