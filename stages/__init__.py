"""The stages of dvc.yaml, one thin module each: read params and inputs, call metashot, write outputs.

DVC runs them in the top folder of the repository as ``python -m stages.<stage> <arguments>``.
"""

import csv
import inspect
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from metashot.project import code  # noqa: F401 - before all others: it takes their digests

# isort: split
from metashot.config import params
from metashot.errors import MetashotError, Preempted
from metashot.files import replacing
from metashot.output import prepare, say
from metashot.project.attempts import Attempt
from metashot.project.declared import unchanged

PARAMS = Path("params.yaml")
_MEMORY = re.compile("out of memory|allocate memory")  # in torch's messages


def read_params(key: str, type_: Any) -> Any:
    """Return section ``key`` of params.yaml; see `metashot.config.params.read`."""
    return params.read(PARAMS, key, type_)


def run(main: Callable[..., None]) -> None:
    """Call ``main`` with the arguments of the command line, and this ``attempt`` if it has that parameter.

    The outcome is recorded in the stage's status (`metashot.project.attempts`). A mistake of the user, or a
    lack of memory, ends as one line and status 1; SIGTERM, SIGINT, or inputs that changed meanwhile, as one
    line and status 75 (EX_TEMPFAIL).
    """
    prepare()
    parameters = dict(inspect.signature(main).parameters)
    takes_attempt = parameters.pop("attempt", None)
    stage, arguments = Path(sys.argv[0]).stem, sys.argv[1:]
    if len(arguments) != len(parameters) or any("/" in argument for argument in arguments):
        sys.exit(f"error: usage: python -m stages.{stage} {' '.join(parameters).upper()}".rstrip())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        address = "@".join(filter(None, [stage, "-".join(arguments)]))
        with Attempt(Path(), address) as attempt, unchanged(stage, arguments):
            main(*arguments, **({"attempt": attempt} if takes_attempt else {}))
    except MetashotError as error:
        say(f"error: {error}", err=True)
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not _MEMORY.search(str(error)):
            raise
        reason = " ".join(str(error).split()) or "none is left"
        say(f"error: out of memory: make network, samples or episodes smaller ({reason[:200]})", err=True)
        sys.exit(1)
    except Preempted as stopped:
        say(f"preempted: {stopped}", err=True)
        sys.exit(os.EX_TEMPFAIL)


def _stop(number: int, _: object) -> None:
    raise Preempted(f"stopped by {signal.Signals(number).name}: run again")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file."""
    with replacing(path) as partial, partial.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
