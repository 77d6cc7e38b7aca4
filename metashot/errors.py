"""Why something ended before it was done, as one line each."""


class MetashotError(Exception):
    """A mistake the user can mend. The message is one line: what is wrong, where, and how to mend it.

    Stages and the command line print it as ``error: <message>`` and exit with status 1, without a traceback.
    """


def refuse(mistake: str) -> None:
    """Raise a MetashotError: what to tell a mistake where others are not looked for."""
    raise MetashotError(mistake)


class Preempted(BaseException):
    """Stopped from outside, to be run again. The message is one line.

    Stages print it as ``preempted: <message>`` and exit with status 75. Like KeyboardInterrupt it is no
    Exception, so that no library's ``except Exception`` takes it for an error of its own and goes on.
    """


class Outdated(Preempted):
    """What a stage goes by is no longer what it has read: it has to be made again, from what is so now."""
