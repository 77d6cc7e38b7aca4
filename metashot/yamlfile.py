"""YAML files that others write, merge or damage: read within bounds, mistakes as one line each."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent

from metashot.errors import MetashotError

MARK = re.compile(r"^(?:<{7}|={7}|>{7}|\|{7})(?=\s|$)", re.MULTILINE)  # of a merge conflict, as git writes it
LONGEST = 64 << 20  # bytes of a file
DEEPEST = 50  # collections in each other: the parser itself ends the process at some 10,000
MEND = "keep what is right, take out the rest, or restore it with git"
ADDED = 100_000  # values that aliases may stand for


def read(path: Path, mend: str = MEND) -> Any:
    """Return the content of a YAML file, as `load`.

    Raises:
        MetashotError: It is missing, not a file, not UTF-8, or as `load`.
    """
    if not path.is_file():
        raise MetashotError(f"{path}: {'not a file' if path.exists() else 'no such file'}: {mend}")
    if path.stat().st_size > LONGEST:
        raise MetashotError(f"{path}: larger than {LONGEST >> 20} MiB: {mend}")
    try:
        return load(path.read_text(encoding="utf-8"), str(path), mend)
    except UnicodeDecodeError as error:
        raise MetashotError(f"{path}: not UTF-8 (byte {error.start}): {mend}") from None


def load(text: str, where: str, mend: str = MEND) -> Any:
    """Return what a text in YAML says, numbers as DVC reads them: 1e-05 is one.

    Args:
        text: The text.
        where: Its name, for messages.
        mend: How to mend it, for messages.

    Raises:
        MetashotError: It holds the marks of a merge conflict, is not YAML, nested too deep, or aliases make
            it many times as large as it is.
    """
    check_merged(text, where, mend)
    yaml = YAML(typ="safe")
    try:
        _check(yaml, text)
        return YAML(typ="safe").load(text)
    except (YAMLError, ValueError, TypeError, ArithmeticError, LookupError) as error:
        raise MetashotError(f"{where}: not YAML ({_line(error)}): {mend}") from None


def check_merged(text: str, where: str, mend: str = MEND) -> None:
    """Raise a MetashotError for a text in which git has left a merge to a person."""
    if mark := MARK.search(text):
        line = text.count("\n", 0, mark.start()) + 1
        raise MetashotError(f"{where}: merge conflict (line {line} has git's mark {mark[0]}): {mend}")


def _check(yaml: YAML, text: str) -> None:
    """Raise ValueError for what would take the process down, or memory without end, once it is built."""
    sizes = [0]  # values in each open collection, aliases as what they stand for
    names: list[str | None] = []  # anchors of these collections
    named: Counter[str] = Counter()  # values below an anchor; 1 for a scalar
    added = 0
    for event in yaml.parse(text):
        if isinstance(event, CollectionStartEvent):
            names.append(event.anchor)
            sizes.append(1)
            if len(names) > DEEPEST:
                raise ValueError(f"more than {DEEPEST} collections in each other")
        elif isinstance(event, CollectionEndEvent):
            size, name = sizes.pop(), names.pop()
            sizes[-1] += size
            if name:
                named[name] = size
        elif isinstance(event, ScalarEvent):
            sizes[-1] += 1
            if event.anchor:
                named[event.anchor] = 1
        elif isinstance(event, AliasEvent):
            if event.anchor in names:
                raise ValueError(f"{event.anchor} holds itself")
            sizes[-1] += named[event.anchor]
            added += named[event.anchor]
            if added > ADDED:
                raise ValueError(f"its aliases stand for more than {ADDED:,} values")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
