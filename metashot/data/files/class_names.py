"""Names of classes that people could confuse."""

import unicodedata
from collections.abc import Iterable, Iterator

from metashot.data import label
from metashot.errors import counted


def ambiguous(shown: str, classes: Iterable[str]) -> Iterator[str]:
    """Class names that cannot be told apart, are not printable, or are blank: one line for each reason.

    Args:
        shown: What to call the data set.
        classes: ``[[<split>/]<superclass>/]<class>``.
    """
    first: dict[str, str] = {}
    unprintable, blank, alike = [], [], []
    for class_ in sorted(classes):
        if not all(map(label, class_.split("/"))):
            blank.append(repr(class_))
        elif not label(class_).isprintable():
            unprintable.append(repr(class_))
        folded = " ".join(unicodedata.normalize("NFC", class_).casefold().split())
        if (same := first.setdefault(folded, class_)) != class_:
            alike.append(f"{same!a} and {class_!a}")
    if blank:
        yield f"{shown}: {counted(blank, 'classes')}: a class name of white space alone: rename it"
    if len(unprintable) == 1:
        yield f"{shown}: the class {unprintable[0]} has unprintable characters: rename it"
    elif unprintable:
        yield f"{shown}: {counted(unprintable, 'classes')} have unprintable characters: rename them"
    if alike:
        pairs = f"classes {alike[0]}" if len(alike) == 1 else f"classes in {counted(alike, 'pairs')}"
        yield (
            f"{shown}: the {pairs} differ in nothing but case, white space or encoding: join or rename them"
        )
