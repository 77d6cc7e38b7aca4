"""The stages of dvc.yaml, one thin module each: read params and inputs, call metashot, write outputs.

They are run at the top of the repository as ``python -m stages.<stage> <arguments>``.
"""

import csv
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from metashot import params
from metashot.errors import MetashotError

T = TypeVar("T")

PARAMS = Path("params.yaml")


def read_params(key: str, type_: type[T]) -> T:
    """Section ``key`` of params.yaml, as in `metashot.params.read`."""
    return params.read(PARAMS, key, type_)


def run(main: Callable[..., None]) -> None:
    """Call ``main`` with the command line's arguments; a user's mistake ends as one line and status 1."""
    try:
        main(*sys.argv[1:])
    except MetashotError as error:
        sys.exit(f"error: {error}")


@contextmanager
def replacing(directory: Path) -> Iterator[Path]:
    """A new folder that takes the place of ``directory`` once it is complete, and vanishes if it never is."""
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(directory, ignore_errors=True)
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """A path to write to; the file takes the place of ``path`` once it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file."""
    with replacing_file(path) as partial, partial.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
