"""Exceptions whose messages are one safe line each, and the wording of mistakes in many samples."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

HIDDEN = "***"  # replaces parts of an address that may be a password

_ADDRESS = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*://)(?P<rest>\S*)")
_AUTHORITY = re.compile(r"(?:.*@)?(?:\[[0-9A-Fa-f:.]+\]|[^:\[\]]*)(?::\d*)?")
_CLOSING = re.compile(r"[]'\")}>,.;:!]*$")  # punctuation after an address
_QUERY = re.compile(r"\?[\w.%-]+=\S*")  # of an address without host, as in errors of requests
_SETTING = re.compile(  # in a connection string, a configuration file or JSON
    r"(?i)\b((?:\w*[-_])?"
    r"(?:password|passwd|pwd|token|secret|credentials?|auth[-_]string|signature|api[-_]?key|access[-_]?key))"
    r"""(["']?\s*=\s*|["']\s*:\s*)(?:"[^"]*"|'[^']*'|[^\s;&,'")]+)"""
)
_JOINERS = "\u200c\u200d"  # invisible, but needed to spell words of some languages
SHOWN = 3  # examples in a message
NOUNS = "tables", "columns", "rows", "series"  # what `Mistakes` counts


def without_credentials(text: str) -> str:
    """Return a text in which addresses have nothing but scheme, host, port and path.

    Users, passwords, queries and fragments are removed, even if a password contains a slash, ``@``, ``#``,
    ``?`` or ``%``. If the host cannot be determined, only the scheme is left. Passwords that contain spaces
    cannot be recognised in a text: addresses with such passwords have to be refused beforehand.
    """
    text = _ADDRESS.sub(_plain, text)
    return _SETTING.sub(rf"\1\2{HIDDEN}", _QUERY.sub("", text))


def printable(text: str) -> str:
    """Return a text as one line without characters that control a terminal.

    Control characters, line breaks, direction marks and other invisible characters are escaped as in Python,
    such as ``\\x1b``.
    """
    if text.isprintable():
        return text
    return "".join(repr(char)[1:-1] if _is_control(char) else char for char in text)


def line(text: object) -> str:
    """Return a text as one line that is safe to show to anyone: `printable`, and `without_credentials`."""
    return printable(without_credentials(str(text)))


class OneLine(BaseException):
    """An exception whose message is one safe line (see `line`), whatever text it is built from."""

    def __init__(self, message: object = "") -> None:
        super().__init__(line(message))


class MetashotError(OneLine, Exception):
    """A mistake that the user can mend. The message is one line: what is wrong, where, and how to mend it.

    Stages and the command line print it as ``error: <message>`` and exit with status 1, without a traceback.
    """


class SampleError(MetashotError):
    """A mistake in one of many samples. The message is its place and the reason.

    Attributes:
        where: A place: ``images: 'a/0.png'``.
        reason: What follows it: ``cannot be read (Permission denied)``.
    """

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where} {reason}")
        self.where, self.reason = where, reason


def some(cases: Sequence[str]) -> str:
    """The first three of several cases."""
    return f"{', '.join(cases[:SHOWN])}{', …' if len(cases) > SHOWN else ''}"


def counted(cases: Sequence[str], noun: str) -> str:
    """A single case by itself, or the number of several with the first three: ``5 files (a, b, c, …)``."""
    return cases[0] if len(cases) == 1 else f"{len(cases):,} {noun} ({some(cases)})"


def reason_of(error: BaseException, limit: int = 300) -> str:
    """The message of an exception on one line, cut to a length; the name of its type if it has none."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


def short(value: object) -> str:
    """The ``repr`` of a value, cut to 60 characters."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:59]}…"


def grouped(mistakes: Iterable[tuple[str, str]], noun: str = "samples") -> list[str]:
    """One line for each reason, with the number of places and the first three.

    Reasons that differ only in their numbers are one reason.

    Args:
        mistakes: Places and reasons, as in `SampleError`.
        noun: What is in these places.
    """
    places: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for where, reason in mistakes:
        places[re.sub(r"\d[\d.,]*", "0", reason)].append((where, reason))
    lines = []
    for group in places.values():
        where, reason = group[0]
        cases = some([where.rstrip(":") for where, _ in group])
        several = f"{len(group):,} {noun} ({cases}): {reason.removeprefix('is ')}"
        lines.append(several if len(group) > 1 else f"{where} {reason}")
    return lines


class ColumnError(SampleError):
    """A mistake in the values of a column."""


class Mistakes:
    """A collection of mistakes in tables, reported together; see `grouped`."""

    def __init__(self) -> None:
        self._cases: dict[str, list[tuple[str, str]]] = {noun: [] for noun in NOUNS}

    def __len__(self) -> int:
        return sum(map(len, self._cases.values()))

    def add(self, where: str, reason: str, noun: str = "rows") -> None:
        """Add a mistake.

        Args:
            where: A place, with details that concern this case alone.
            reason: The reason, in words that similar cases share.
            noun: What is in the place: one of `NOUNS`.
        """
        self._cases[noun].append((where, reason))

    def add_line(self, line: str | MetashotError) -> None:
        """Add a mistake in a whole table, ``<table>: <reason>``, or in a column (`ColumnError`)."""
        if isinstance(line, ColumnError):
            self.add(line.where, line.reason, "columns")
            return
        where, _, reason = str(line).partition(": ")
        self.add(f"{where}:", reason, "tables")

    @property
    def lines(self) -> list[str]:
        """One line for each reason."""
        return [line for noun, cases in self._cases.items() for line in grouped(cases, noun)]

    def refuse(self) -> None:
        """Raise a MetashotError with all lines joined to one, if there are any."""
        if len(self):
            raise MetashotError("; ".join(self.lines))


def refuse(mistake: str) -> None:
    """Raise a MetashotError; a callback for callers that stop at the first mistake."""
    raise MetashotError(mistake)


class Preempted(OneLine):
    """Stopped from outside, to be run again. The message is one line.

    Stages print it as ``preempted: <message>`` and exit with status 75. Like KeyboardInterrupt it is not an
    Exception, so that no library's ``except Exception`` swallows it.
    """


class Outdated(Preempted):
    """The inputs of a stage changed while it ran: it has to run again, from the present ones."""


def _is_control(char: str) -> bool:
    """Whether a character may control a terminal instead of being shown."""
    return unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") and char not in _JOINERS


def _plain(address: re.Match[str]) -> str:
    """An address without credentials."""
    scheme, rest = address["scheme"], address["rest"]
    closing = _CLOSING.search(rest)[0]  # type: ignore[index]  # it matches the empty string
    rest = rest.removesuffix(closing)
    if rest.startswith("/"):  # a file, which has neither user nor host
        return f"{scheme}{rest.partition('?')[0]}{closing}"
    before, at, after = rest.rpartition("@")
    if at and _AUTHORITY.fullmatch(re.split(r"[/?#;]", before)[0]) and re.search(r"[?#;]", before):
        return f"{scheme}{HIDDEN}{closing}"  # a password that contains ? or #, or a query with @
    return f"{scheme}{re.split(r'[?#;]', after)[0]}{closing}"
