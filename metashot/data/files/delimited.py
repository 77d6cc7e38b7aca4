"""Delimited text as spreadsheets and other programs write it: encoding, separator, column names, rows."""

import codecs
import csv
import io
import re
from collections.abc import Iterator
from typing import NamedTuple

from metashot.errors import MetashotError, Mistakes

SEPARATORS = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar"}  # in a tie the first wins
csv.field_size_limit(1 << 30)  # a text may be a book
_HEAD = 1 << 20  # longest line of column names, in characters
_SEPARATOR_LINE = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)  # Excel's


class Header(NamedTuple):
    """The first lines of a delimited text.

    Attributes:
        columns: Column names, stripped.
        separator: One of `SEPARATORS`, or the character in Excel's line ``sep=``.
        start: Number of characters before the first row.
        lines: Number of lines before the first row.
    """

    columns: list[str]
    separator: str
    start: int
    lines: int


def decoded(content: bytes, where: str) -> str:
    """Decode UTF-8, with or without a byte order mark, or UTF-16 with one, as Excel writes it.

    Raises MetashotError for any other encoding.
    """
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        name = "UTF-16, as its first bytes announce" if wide else "UTF-8"
        raise MetashotError(f"{where}: byte {error.start} is not {name}: save the file as UTF-8") from None
    if "\0" in text:
        raise MetashotError(f"{where}: has NUL characters: save the file as UTF-8")
    return text


def header(text: str, where: str) -> Header:
    """Column names of a delimited text, and its separator: the one that gives the most names.

    Raises MetashotError if there are none, or a comment instead.
    """
    declared = _SEPARATOR_LINE.match(text)
    start = declared.end() if declared else 0
    separators = declared[1] if declared else list(SEPARATORS)
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
            lines = reader.line_num + bool(declared)
            best = Header(columns, separator, start + stream.tell(), lines)
    if not any(best.columns):
        raise MetashotError(f"{where}: {problem}")
    if best.columns[0].startswith("#"):
        raise MetashotError(f"{where}: begins with #: remove comments, the first line has to be column names")
    return best


def rows(text: str, where: str, mistakes: Mistakes) -> Iterator[tuple[str, dict[str, str]]]:
    """Place and values of each row of a delimited text, by column; empty rows are skipped.

    A row with more values than columns is added to ``mistakes``, unless the extra ones are empty.

    Raises MetashotError as `header` does, and for unbalanced quotation marks.
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
    """Number of values in a row: more than column names if the first row ends with empty ones."""
    reader = csv.reader(io.StringIO(text[:_HEAD], newline=""), delimiter=head.separator)
    try:
        first = next(filter(None, reader), [])
    except csv.Error:  # reported when rows are read
        first = []
    n_columns = len(head.columns)
    return n_columns if any(first[n_columns:]) else max(n_columns, len(first))


def too_long(mistakes: Mistakes, place: str, separator: str) -> None:
    """Add a row with more values than columns to ``mistakes``."""
    name = SEPARATORS.get(separator, repr(separator))
    mistakes.add(
        f"{place}:", f"more values than columns: quote values that contain a {name}, and name every column"
    )
