"""Where data come from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from metashot.data import store
from metashot.lineage.stored import Count, Flag, Md5, Name, Stored


@dataclass(frozen=True, kw_only=True)
class DataFacts(Stored):
    """What a data file says about its samples.

    Attributes:
        source: Where they come from.
        licence: Under which terms.
        citation: How to cite them.
        synthetic: Whether a program made them up.
        classes: Whether the splits have classes of their own, or share them.
        removed: Samples left out because they were in two splits.
        kind: Of the samples.
    """

    source: str
    licence: str
    citation: str
    synthetic: Flag
    classes: Literal["disjoint", "shared"] | None = None
    removed: Count | None = None
    kind: Name

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read it from a data file. Raises MetashotError where it is not one."""
        return cls.of(store.about(path), str(path))

    @property
    def known_classes(self) -> bool:
        """Whether test samples are of classes that were trained on."""
        return self.classes == "shared"

    def marked(self, name: str) -> str:
        """A name with the caveats that every result has to state: ``flowers (known classes)``."""
        return marked(name, synthetic=self.synthetic, known_classes=self.known_classes)


@dataclass(frozen=True, kw_only=True)
class Origin(DataFacts):
    """The same, with the md5 of each raw file by its path."""

    files: Mapping[str, Md5]


def marked(name: str, *, synthetic: bool, known_classes: bool) -> str:
    """Return the name of a data set with its marks."""
    marks = {"synthetic data": synthetic, "known classes": known_classes}
    shown = ", ".join(mark for mark, applies in marks.items() if applies)
    return f"{name} ({shown})" if shown else name
