"""Delimited text as people have it: its encoding, separator, column names and rows."""

import codecs
import csv
import io
import re
from collections.abc import Iterator
from typing import NamedTuple

from metashot.errors import MetashotError, Mistakes

SEPARATORS = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar"}  # the first of equals counts
csv.field_size_limit(1 << 30)  # a text may be a book
_HEAD = 1 << 20  # characters in which the line with the column names ends
_SEPARATOR_LINE = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)  # what Excel understands


class Header(NamedTuple):
    """What a delimited text begins with.

    Attributes:
        columns: Names, without spaces around them.
        separator: A character of `SEPARATORS`, or the one that Excel's line ``sep=`` names.
        start: Characters before the first row.
        lines: Lines before the first row.
    """

    columns: list[str]
    separator: str
    start: int
    lines: int


def decoded(content: bytes, where: str) -> str:
    """The text of a table in UTF-8, with or without a mark, or in UTF-16 with one, as Excel writes it.

    Raises MetashotError for another encoding.
    """
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        name = "UTF-16, which its first bytes announce" if wide else "UTF-8"
        raise MetashotError(f"{where}: byte {error.start} is not {name}: save the file as UTF-8") from None
    if "\0" in text:
        raise MetashotError(f"{where}: has NUL characters: save the file as UTF-8")
    return text


def header(text: str, where: str) -> Header:
    """The column names of a delimited text, and the separator: the one by which there are the most names.

    Raises MetashotError where there are none, or a comment instead.
    """
    named = _SEPARATOR_LINE.match(text)
    start = named.end() if named else 0
    separators = named[1] if named else list(SEPARATORS)
    best, problem = Header([], ",", 0, 0), "has no column names: its first line has to hold them"
    for separator in separators:
        stream = io.StringIO(text[start : start + _HEAD], newline="")
        reader = csv.reader(stream, delimiter=separator, strict=True)
        try:
            columns = [name.strip() for name in next(filter(None, reader), [])]
        except csv.Error as error:
            problem = f"line 1: cannot be read ({error}): separate column names by commas or tabs"
            continue
        if len(columns) > len(best.columns):
            lines = reader.line_num + bool(named)
            best = Header(columns, separator, start + stream.tell(), lines)
    if not any(best.columns):
        raise MetashotError(f"{where}: {problem}")
    if best.columns[0].startswith("#"):
        raise MetashotError(f"{where}: begins with #: remove comments, its first line has to be column names")
    return best


def rows(text: str, where: str, mistakes: Mistakes) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a delimited text: where each is, and its values by column; empty ones are left out.

    A row with more values than there are columns is a mistake, unless they are empty.

    Raises MetashotError as `header` does, and for quotation marks that do not match.
    """
    head = header(text, where)
    reader = csv.reader(io.StringIO(text[head.start :], newline=""), delimiter=head.separator, strict=True)
    while True:
        line = head.lines + reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise MetashotError(
                f"{where}: line {line}: cannot be read ({error}): close quotation marks, and double those "
                "within a value"
            ) from None
        place = f"{where}: line {head.lines + reader.line_num}"
        if any(row[len(head.columns) :]):
            too_long(mistakes, place, head.separator)
        elif any(row):
            yield place, dict(zip(head.columns, row, strict=False))


def width(text: str, head: Header) -> int:
    """Values in a row: more than names of columns, where the first row has empty ones at its end."""
    reader = csv.reader(io.StringIO(text[:_HEAD], newline=""), delimiter=head.separator)
    try:
        first = next(filter(None, reader), [])
    except csv.Error:  # which is told when rows are read
        first = []
    names = len(head.columns)
    return names if any(first[names:]) else max(names, len(first))


def too_long(mistakes: Mistakes, place: str, separator: str) -> None:
    """Take up a row with more values than there are columns."""
    what = f"a {SEPARATORS.get(separator, repr(separator))}"
    mistakes.add(
        f"{place}:", f"more values than columns: put quotes around what has {what}, and name every column"
    )
