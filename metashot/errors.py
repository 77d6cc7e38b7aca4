"""What a user can get wrong, as one line each."""


class MetashotError(Exception):
    """A mistake the user can mend. The message is one line: what is wrong, where, and how to mend it.

    Stages and the command line print it as ``error: <message>`` and exit with status 1, without a traceback.
    """
