"""Why something ended before it was done, as one line each, whatever text went into it."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

HIDDEN = "***"  # stands where an address cannot be shown without what may be a password

_ADDRESS = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*://)(?P<rest>\S*)")
_AUTHORITY = re.compile(r"(?:.*@)?(?:\[[0-9A-Fa-f:.]+\]|[^:\[\]]*)(?::\d*)?")
_CLOSING = re.compile(r"[]'\")}>,.;:!]*$")  # what a sentence puts behind an address
_QUERY = re.compile(r"\?[\w.%-]+=\S*")  # of an address without its host, as in requests' errors
_SETTING = re.compile(  # as in a connection string, a file of settings, JSON
    r"(?i)\b((?:\w*[-_])?"
    r"(?:password|passwd|pwd|token|secret|credentials?|auth[-_]string|signature|api[-_]?key|access[-_]?key))"
    r"""(["']?\s*=\s*|["']\s*:\s*)(?:"[^"]*"|'[^']*'|[^\s;&,'")]+)"""
)
_JOINERS = "\u200c\u200d"  # invisible, but part of how words of some languages are written
SHOWN = 3  # cases of one reason
NOUNS = "tables", "columns", "rows", "series"  # what mistakes are counted of


def without_credentials(text: str) -> str:
    """Return a text with no more of each address in it than scheme, host, port and path.

    Users, passwords, queries and fragments are taken out, also where a password holds a slash, ``@``, ``#``,
    ``?`` or ``%``. Where it cannot be told what is the host, nothing but the scheme is left. Passwords with
    spaces in them cannot be seen in a text: whoever knows an address refuses these.
    """
    text = _ADDRESS.sub(_plain, text)
    return _SETTING.sub(rf"\1\2{HIDDEN}", _QUERY.sub("", text))


def printable(text: str) -> str:
    """Return a text as one line that does to a terminal what it shows: nothing else.

    Control characters, line breaks, marks that turn the direction of writing and other invisible characters
    are shown as Python writes them in a string, such as ``\\x1b``.
    """
    if text.isprintable():
        return text
    return "".join(repr(char)[1:-1] if _acts(char) else char for char in text)


def line(text: object) -> str:
    """Return a text as one line that may be shown to anybody: `printable`, and `without_credentials`."""
    return printable(without_credentials(str(text)))


class OneLine(BaseException):
    """An exception whose message is one line that may be shown to anybody, whatever text went into it."""

    def __init__(self, message: object = "") -> None:
        super().__init__(line(message))


class MetashotError(OneLine, Exception):
    """A mistake the user can mend. The message is one line: what is wrong, where, and how to mend it.

    Stages and the command line print it as ``error: <message>`` and exit with status 1, without a traceback.
    """


class SampleError(MetashotError):
    """What is wrong with one sample of many. The message is where it is, and the reason.

    Attributes:
        where: A place, as ``images: 'a/0.png'``.
        reason: What follows it, as ``cannot be read (Permission denied)``.
    """

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where} {reason}")
        self.where, self.reason = where, reason


def some(cases: Sequence[str]) -> str:
    """The first three of many cases."""
    return f"{', '.join(cases[:SHOWN])}{', …' if len(cases) > SHOWN else ''}"


def short(value: object) -> str:
    """A value in a message: as Python writes it, cut where it is long."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:59]}…"


def grouped(mistakes: Iterable[tuple[str, str]], noun: str = "samples") -> list[str]:
    """A line for each reason, however many places it holds for; reasons that differ in numbers alone are one.

    Args:
        mistakes: Places and reasons, as `SampleError` has them.
        noun: What is in these places.
    """
    places: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for where, reason in mistakes:
        places[re.sub(r"\d[\d.,]*", "0", reason)].append((where, reason))
    lines = []
    for alike in places.values():
        where, reason = alike[0]
        wheres = some([where.rstrip(":") for where, _ in alike])
        many = f"{len(alike):,} {noun} ({wheres}): {reason.removeprefix('is ')}"
        lines.append(many if len(alike) > 1 else f"{where} {reason}")
    return lines


class ColumnError(SampleError):
    """What is wrong with the values of a column."""


class Mistakes:
    """Mistakes in tables, a line for each reason, with a count and the first three cases."""

    def __init__(self) -> None:
        self._cases: dict[str, list[tuple[str, str]]] = {noun: [] for noun in NOUNS}

    def __len__(self) -> int:
        return sum(map(len, self._cases.values()))

    def add(self, where: str, reason: str, noun: str = "rows") -> None:
        """Take up a mistake: a place, with what is particular to it, and what it shares with others."""
        self._cases[noun].append((where, reason))

    def add_line(self, line: str | MetashotError) -> None:
        """Take up what is wrong with a table as a whole, or with a column of it (`ColumnError`)."""
        if isinstance(line, ColumnError):
            self.add(line.where, line.reason, "columns")
            return
        where, _, reason = str(line).partition(": ")
        self.add(f"{where}:", reason, "tables")

    @property
    def lines(self) -> list[str]:
        """What is told."""
        return [line for noun, cases in self._cases.items() for line in grouped(cases, noun)]

    def refuse(self) -> None:
        """Raise a MetashotError with all lines, joined to one, if there are any."""
        if len(self):
            raise MetashotError("; ".join(self.lines))


def refuse(mistake: str) -> None:
    """Raise a MetashotError: what to tell a mistake where others are not looked for."""
    raise MetashotError(mistake)


class Preempted(OneLine):
    """Stopped from outside, to be run again. The message is one line.

    Stages print it as ``preempted: <message>`` and exit with status 75. Like KeyboardInterrupt it is not an
    Exception, so that no library's ``except Exception`` takes it for an error of its own and goes on.
    """


class Outdated(Preempted):
    """What a stage goes by is no longer what it has read: it has to be made again, from what is so now."""


def _acts(char: str) -> bool:
    """Whether a terminal may do something else with a character than to show it."""
    return unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") and char not in _JOINERS


def _plain(address: re.Match[str]) -> str:
    """An address without what may be secret in it."""
    scheme, rest = address["scheme"], address["rest"]
    closing = _CLOSING.search(rest)[0]  # type: ignore[index]  # it matches the empty string
    rest = rest.removesuffix(closing)
    if rest.startswith("/"):  # a file's, which has neither user nor host
        return f"{scheme}{rest.partition('?')[0]}{closing}"
    before, mark, after = rest.rpartition("@")
    if mark and _AUTHORITY.fullmatch(re.split(r"[/?#;]", before)[0]) and re.search(r"[?#;]", before):
        return f"{scheme}{HIDDEN}{closing}"  # a password with ? or # in it, or a query with @
    return f"{scheme}{re.split(r'[?#;]', after)[0]}{closing}"
