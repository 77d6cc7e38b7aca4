"""What sources of the user's own files share: the functions of a source of class folders, and `ABOUT`."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from metashot.data import About, Item
from metashot.data.files import archive, division, folders, pinned, split_lists
from metashot.errors import MetashotError


def about(source: str) -> About:
    """`Source.ABOUT` of data that belong to the user."""
    return About(source=source, licence="as its owner says", citation="", synthetic=False)


@dataclass(frozen=True)
class FolderSource:
    """The functions of a `Source` whose samples are files in class folders.

    Attributes:
        suffixes: Suffixes of samples.
        packed: Name of the folder of zips that `download` writes.
    """

    suffixes: Collection[str]
    packed: str

    def digest(self, raw: folders.Raw, root: Path) -> str:
        """Digest of the samples as they are now: the one DVC gives a folder that holds exactly these.

        Raises MetashotError for whatever `download` refuses, except another digest.
        """
        return pinned.digest(folders.samples(raw, root, self.suffixes))

    def download(self, raw: folders.Raw, directory: Path) -> None:
        """Pack the samples into zips as ``[<split>/]<superclass>/<class>/<name>``.

        The same samples give the same bytes.

        Raises MetashotError when the folder is missing or its digest is not ``raw.md5``, when classes lie at
        different depths, are empty, ambiguous or fewer than two, when a file name contains no class, and when
        lists of splits name something that is missing.
        """

        def member(path: str) -> str:
            return path if raw.splits or path.count("/") == 2 else f"{split_lists.ALL}/{path}"

        pinned.pack(folders.samples(raw, Path(), self.suffixes), raw, directory / self.packed, member)

    def items(self, prepare: division.Prepare, directory: Path) -> Iterable[Item]:
        """The samples that `download` packed, divided into splits."""
        folder, split = directory / self.packed, prepare.split

        def divide(members: list[Item]) -> Sequence[Item]:
            listed = bool(members[0].key.split)
            if listed != (split == "listed"):
                actual, needed = ("lists", "`listed`") if listed else ("no lists", "shares")
                raise MetashotError(
                    f"{folder}: raw.splits names {actual}, so prepare.split has to be {needed}"
                )
            return division.divide(members, split) if isinstance(split, division.Shares) else members

        return archive.Packed(folder, self.suffixes, divide)
