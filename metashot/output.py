"""Output that gets out in any encoding, and ends quietly where nobody takes it."""

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

# How to write what an encoding lacks; anything else becomes its number, such as \u0394
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
    """Make standard output and errors write something for every character, and lead somewhere if closed.

    A file that was opened under the number of a closed output would get what is printed, and what is printed
    to closed errors would be taken for a result.
    """
    for number in STANDARD:
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number free: this one
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    codecs.register_error("metashot", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="metashot")


@contextmanager
def guarded() -> Iterator[None]:
    """Prepare for the block's output; end it where the reader has gone (status 1) or the disk is full.

    Raises:
        SystemExit: Output could not be written.
    """
    prepare()
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # here, where an error can be told; Python flushes at its end
    except OSError as error:
        if error.filename is not None or error.errno not in {*FULL, errno.EPIPE, errno.EIO}:
            raise
        silence(sys.stdout)
        if error.errno != errno.EPIPE:
            say(f"error: standard output: cannot be written ({error.strerror}): free space", err=True)
        raise SystemExit(1) from None


def echo(text: object, err: bool = False, nl: bool = True) -> None:
    """Print for a person or a machine; click's own would write UTF-8 where ASCII is asked for."""
    print(text, end="\n" if nl else "", file=sys.stderr if err else sys.stdout, flush=True)


def say(text: object, err: bool = False) -> None:
    """Print one line of text of any origin, for whoever may read it: work goes on without a reader."""
    stream = sys.stderr if err else sys.stdout
    try:
        print(line(text), file=stream, flush=True)
    except OSError:
        silence(stream)


def silence(stream: TextIO) -> None:
    """Let a stream that nobody takes end in nothing from here on."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, stream.fileno())
    os.close(nothing)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Stand-ins for what cannot be encoded: see `codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    written = (PLAIN.get(mark) or mark.encode("ascii", "backslashreplace").decode() for mark in text)
    return "".join(written), error.end
