"""Why something ended before it was done, as one line each."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

SHOWN = 3  # cases of one reason


class MetashotError(Exception):
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


def refuse(mistake: str) -> None:
    """Raise a MetashotError: what to tell a mistake where others are not looked for."""
    raise MetashotError(mistake)


class Preempted(BaseException):
    """Stopped from outside, to be run again. The message is one line.

    Stages print it as ``preempted: <message>`` and exit with status 75. Like KeyboardInterrupt it is no
    Exception, so that no library's ``except Exception`` takes it for an error of its own and goes on.
    """
