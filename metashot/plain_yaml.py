"""Plain YAML as in params.yaml and dvc.lock: mappings, lists, strings, numbers, checked before construction.

A few bytes of YAML can expand to billions of values (aliases of aliases), crash the interpreter (nested
brackets, in libyaml's composer) or keep it busy for minutes (a number of a million digits). A file is
therefore checked event by event first, which takes time and memory in proportion to its size.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
)

from metashot.errors import MetashotError, reason_of, short

SIZE = 1_000_000  # bytes of a file that people write
VALUES = 50_000  # values in it, with aliases expanded
MADE = 64  # factor by which files that DVC writes may exceed both
DEPTH = 30  # of nested mappings and lists
KEY = 200  # characters of a key
DIGITS = 100  # of a number
INTEGER = 2**63  # bound of the absolute value of an integer

_NUMBER = re.compile(r"[-+]?(0[xob])?[0-9a-fA-F_.:]+")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_CONFLICT = re.compile(r"^(?:<{7}|={7}|>{7}|\|{7})(?=\s|$)", re.MULTILINE)  # conflict markers of git


def read(path: Path, times: int = 1) -> str:
    """Read the text of a file, including a byte order mark.

    Args:
        path: The file.
        times: Its largest size, as a multiple of `SIZE`.

    Raises:
        MetashotError: It is missing, too large or not UTF-8.
    """
    try:
        if path.exists() and not path.is_file():
            raise MetashotError(f"{path}: not a file: put one in its place")
        with path.open("rb") as file:
            content = file.read(times * SIZE + 1)
    except FileNotFoundError:
        raise MetashotError(f"{path}: no such file: run in the project's top folder") from None
    except OSError as error:
        raise MetashotError(f"{path}: cannot be read ({error.strerror})") from None
    if len(content) > times * SIZE:
        raise MetashotError(f"{path}: larger than {times * SIZE:,} bytes: shorten it")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise MetashotError(
            f"{path}: not YAML: byte {error.start + 1} is not UTF-8: save it as UTF-8"
        ) from None


def load(text: str, where: str, mend: str = "", times: int = 1) -> Any:
    """Parse YAML the way DVC does. Callers must not change the value, which is cached.

    Args:
        text: The YAML.
        where: Name of the file, for messages.
        mend: How to mend it, for mistakes that do not suggest it.
        times: The largest number of values, as a multiple of `VALUES`.

    Raises:
        MetashotError: It has conflict markers, is not YAML, is too large or nested too deeply, or contains
            anything but mappings with strings as keys, lists, strings, numbers, booleans and null; the
            message names the key.
    """
    check_merged(text, where, mend)
    try:
        return _load(text.removeprefix("\ufeff"), times * VALUES)
    except MetashotError as error:
        raise MetashotError(f"{where}: {error}{f': {mend}' if mend else ''}") from None


def check_merged(text: str, where: str, mend: str = "") -> None:
    """Raise a MetashotError for a text with git's conflict markers."""
    if marker := _CONFLICT.search(text):
        line = 1 + text.count("\n", 0, marker.start())
        advice = mend or "keep what is right, and delete git's markers"
        raise MetashotError(f"{where}: merge conflict (line {line} has git's marker {marker[0]}): {advice}")


@lru_cache(maxsize=8)  # a file is read again for each of its sections
def _load(text: str, limit: int) -> Any:
    try:
        _check_events(text, limit)
    except (YAMLError, UnicodeEncodeError) as error:  # the latter for lone surrogates
        raise MetashotError(f"not YAML: {_problem(error)}") from None
    try:
        value = YAML(typ="safe").load(text)
    except (YAMLError, ValueError) as error:  # ValueError: the 13th month
        raise MetashotError(f"not YAML: {_problem(error)}") from None
    for key, part in _values("", value):
        if isinstance(part, float) and not math.isfinite(part):
            raise MetashotError(f"{key}: must be a finite number (it is {part})")
        if isinstance(part, int) and abs(part) >= INTEGER:
            raise MetashotError(f"{key}: must be between -2**63 and 2**63 (it is {short(part)})")
        if isinstance(part, str) and (control := _CONTROL.search(part)):
            raise MetashotError(f"{key}: has the control character {control[0]!a}: delete it")
        if not isinstance(part, str | int | float | None):
            raise MetashotError(f"{key}: a {type(part).__name__} is not allowed: put it in quotes")
    return value


@dataclass
class _Frame:
    """A mapping or list that is being read.

    Attributes:
        path: Its path in the file.
        anchor: Its anchor, if it has one.
        keys: Line of each key so far of a mapping; None for a list.
        key: Key of the next value; None if a key comes next.
        values: Number of values in it so far, nested ones included.
        items: Number of its own values so far.
    """

    path: str
    anchor: str | None = None
    keys: dict[str, int] | None = None
    key: str | None = None
    values: int = 1
    items: int = field(default=0)

    @property
    def next(self) -> str:
        """Path of the next value."""
        name = str(self.items) if self.keys is None else self.key or ""
        return f"{self.path}.{name}" if self.path else name


def _check_events(text: str, limit: int) -> None:
    """Raise a MetashotError, or YAML's own error, for a document that must not be constructed."""
    frames = [_Frame("", keys={}, key="")]  # around the document
    sizes: dict[str, int] = {}  # number of values that an anchor stands for
    for event in YAML(typ="safe").parse(text):
        top = frames[-1]
        line = event.start_mark.line + 1 if event.start_mark else 0
        where = f"{top.next or 'the file'} (line {line})"
        values = 0
        if isinstance(event, NodeEvent) and top.keys is not None and top.key is None:
            if not isinstance(event, ScalarEvent):
                raise MetashotError(f"{top.path or 'the file'} (line {line}): a key must be a string")
            if len(event.value) > KEY or not event.value.isprintable():
                raise MetashotError(
                    f"{top.path or 'the file'} (line {line}): the key {short(event.value)} is longer than "
                    f"{KEY} characters, or has unprintable ones: rename it"
                )
            if before := top.keys.get(event.value):
                top.key = event.value
                raise MetashotError(f"{top.next}: written twice (lines {before} and {line}): delete one")
            top.keys[event.value], top.key = line, event.value
            top.values += 1
            continue
        if isinstance(event, AliasEvent):
            if event.anchor not in sizes:
                raise MetashotError(f"{where}: nothing before the alias *{event.anchor} has that name")
            values = sizes[event.anchor]
        elif isinstance(event, ScalarEvent | CollectionStartEvent):
            if event.tag is not None:
                raise MetashotError(f"{where}: tags such as {short(event.tag)} are not taken: delete it")
            if isinstance(event, ScalarEvent):
                values = 1
                if event.implicit[0] and len(event.value) > DIGITS and _NUMBER.fullmatch(event.value):
                    raise MetashotError(f"{where}: a number of {len(event.value):,} digits is too long")
                if event.anchor:
                    sizes[event.anchor] = 1
            else:
                keys: dict[str, int] | None = {} if isinstance(event, MappingStartEvent) else None
                frames.append(_Frame(top.next, event.anchor, keys))
                if len(frames) > DEPTH:
                    raise MetashotError(f"line {line}: more than {DEPTH} nested mappings and lists")
                continue
        elif isinstance(event, CollectionEndEvent):
            done = frames.pop()
            top, values = frames[-1], done.values
            if done.anchor:
                sizes[done.anchor] = values
        else:  # of the document
            continue
        top.values += values
        top.items += 1
        top.key = None if len(frames) > 1 else ""
        if sum(frame.values for frame in frames) > limit:
            raise MetashotError(f"line {line}: expands to more than {limit:,} values: shorten it")


def _values(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Path and value of every value that is neither a mapping nor a list."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise MetashotError(
                    f"{path or 'the file'}: the key {short(key)} is not a string: put it in quotes"
                )
            yield from _values(f"{path}.{key}" if path else key, inner)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _values(f"{path}.{number}" if path else str(number), inner)
    else:
        yield path, value


def _problem(error: Exception) -> str:
    """The message of YAML's own error, in one line."""
    if isinstance(error, MarkedYAMLError) and error.problem:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        problem = line + " ".join(str(error.problem).split())
        hint = ": indent with spaces, and quote strings with special characters"
        return problem + hint if "cannot start any token" in problem else problem
    return reason_of(error)
