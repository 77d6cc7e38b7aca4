"""Printing in any encoding, and quietly if nobody reads it."""

import codecs
import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from metashot.errors import line
from metashot.files import FULL

# Replacements for characters that an encoding lacks; others become escapes such as \u0394
PLAIN = {
    "★": "*",
    "†": "+",
    "±": "+-",
    "→": "->",
    "×": "x",  # noqa: RUF001
    "−": "-",  # noqa: RUF001
    "–": "-",  # noqa: RUF001
    "—": "-",
    "…": "...",
    "·": "-",
    "•": "-",
    "≤": "<=",
    "≥": ">=",
    "“": '"',
    "”": '"',
    "’": "'",  # noqa: RUF001
}
STANDARD = (0, 1, 2)  # input, output, errors


def prepare() -> None:
    """Make standard output and error accept every character, and replace closed ones by the null device.

    Otherwise a file that is later opened under the number of a closed stream would receive the output.
    """
    for number in STANDARD:
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number, this one
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    codecs.register_error("metashot", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="metashot")


@contextmanager
def guarded() -> Iterator[None]:
    """Prepare for the output of the block.

    Raises:
        SystemExit: With status 1: output could not be written, because its reader has gone or the disk is
            full.
    """
    prepare()
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # here, where an error can be reported; otherwise Python flushes at exit
    except OSError as error:
        if error.filename is not None or error.errno not in {*FULL, errno.EPIPE, errno.EIO}:
            raise
        silence(sys.stdout)
        if error.errno != errno.EPIPE:
            say(f"error: standard output: cannot be written ({error.strerror}): free space", err=True)
        raise SystemExit(1) from None


def echo(text: object, err: bool = False, nl: bool = True) -> None:
    """Print a result or a message; unlike click's echo, in the encoding of the stream."""
    print(text, end="\n" if nl else "", file=sys.stderr if err else sys.stdout, flush=True)


def say(text: object, err: bool = False) -> None:
    """Print untrusted text as one line; without a reader it is dropped, and work goes on."""
    stream = sys.stderr if err else sys.stdout
    try:
        print(line(text), file=stream, flush=True)
    except OSError:
        silence(stream)


def silence(stream: TextIO) -> None:
    """Redirect a stream that nobody reads to the null device."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Replacements for characters that cannot be encoded: see `codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    plain = (PLAIN.get(char) or char.encode("ascii", "backslashreplace").decode() for char in text)
    return "".join(plain), error.end
