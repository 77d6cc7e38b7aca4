"""The stages of dvc.yaml, one thin module each: read params and inputs, call metashot, write outputs.

They are run at the top of the repository as ``python -m stages.<stage> <arguments>``.
"""

import csv
import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from metashot import params
from metashot.errors import MetashotError
from metashot.files import replacing

PARAMS = Path("params.yaml")


def read_params(key: str, type_: Any) -> Any:
    """Section ``key`` of params.yaml, as in `metashot.params.read`."""
    return params.read(PARAMS, key, type_)


def run(main: Callable[..., None]) -> None:
    """Call ``main`` with the command line's arguments; a user's mistake ends as one line and status 1."""
    names = list(inspect.signature(main).parameters)
    if len(sys.argv) - 1 != len(names):
        stage = Path(sys.argv[0]).stem
        sys.exit(f"error: usage: python -m stages.{stage} {' '.join(names).upper()}".rstrip())
    try:
        main(*sys.argv[1:])
    except MetashotError as error:
        sys.exit(f"error: {error}")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file."""
    with replacing(path) as partial, partial.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
