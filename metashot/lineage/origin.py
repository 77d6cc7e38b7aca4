"""Where data come from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from metashot.data import store
from metashot.lineage.stored import Count, Flag, Md5, Name, Output, Stored


@dataclass(frozen=True, kw_only=True)
class EncoderFacts(Stored):
    """What a data file says about the pretrained encoder that made its vectors.

    Attributes:
        name: What it is called.
        md5: Digest of its files; None where they are not here, as with a table of vectors.
        trained_on: The data that it was trained on; empty where nobody says.
        seen: Which classes of the data it may have seen; empty where nobody says.
    """

    name: str
    md5: Output | None = None
    trained_on: str
    seen: str

    @property
    def mark(self) -> str:
        """The caveat that every result has to state."""
        trained_on = self.trained_on or "data that nobody states"
        return f"pretrained encoder: {self.name}, trained on {trained_on}; {self.shown_classes}"

    @property
    def shown_classes(self) -> str:
        """Which classes of the data it may have seen."""
        return self.seen or "may have seen classes of these data"


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
        encoder: The pretrained encoder that made them; None where there was none.
    """

    source: str
    licence: str
    citation: str
    synthetic: Flag
    classes: Literal["disjoint", "shared"] | None = None
    removed: Count | None = None
    kind: Name
    encoder: EncoderFacts | None = None

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
        return marked(name, self.synthetic, self.known_classes, self.encoder.mark if self.encoder else "")


@dataclass(frozen=True, kw_only=True)
class Origin(DataFacts):
    """The same, with the md5 of each raw file by its path."""

    files: Mapping[str, Md5]


def marked(name: str, synthetic: bool, known_classes: bool, encoder: str) -> str:
    """Return the name of a data set with its marks, `EncoderFacts.mark` as the last."""
    marks = {"synthetic data": synthetic, "known classes": known_classes, encoder: bool(encoder)}
    shown = ", ".join(mark for mark, applies in marks.items() if applies)
    return f"{name} ({shown})" if shown else name
