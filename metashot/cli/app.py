"""What all commands share: the application, errors as one line, and common options."""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from metashot import output
from metashot.errors import MetashotError
from metashot.output import echo, say
from metashot.project import find_root

Model = Annotated[
    str, typer.Argument(help="MODEL (its champion), MODEL@ALIAS or MODEL/VERSION.", show_default=False)
]
Label = Annotated[
    str,
    typer.Option(
        help="If file names give the class: a regular expression with a group named `label` that matches it.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class App(typer.Typer):
    """The command line application; its output is written in any encoding."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Run the command in the arguments."""
        with output.guarded():
            return super().__call__(*args, **options)


app = App(
    help="Train, compare and register few-shot models. DVC decides what must run, MLflow shows the results.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a function as a command whose errors end as one line and status 1."""

    @functools.wraps(function)
    def wrapped(*args: Any, **options: Any) -> None:
        try:
            function(*args, **options)
        except MetashotError as error:
            say(f"error: {error}", err=True)
            raise typer.Exit(1) from None

    app.command()(wrapped)
    return wrapped


def tracked_root() -> Path:
    """Return the repository, or the working directory if MLFLOW_TRACKING_URI is set."""
    return Path.cwd() if os.environ.get("MLFLOW_TRACKING_URI") else find_root(Path.cwd())


def say_json(value: Any) -> None:
    """Print a value as JSON."""
    from metashot.terminal import as_json

    echo(as_json(value))


@contextmanager
def warnings() -> Iterator[None]:
    """Print an error as a one-line warning and continue: DVC's results do not depend on MLflow."""
    try:
        yield
    except MetashotError as error:
        say(f"warning: {error}", err=True)


def write(path: Path, picture: bytes) -> None:
    """Write a picture to a file.

    Raises:
        MetashotError: The file cannot be written.
    """
    from metashot.files import replacing

    try:
        with replacing(path) as partial:
            partial.write_bytes(picture)
    except OSError as error:
        raise MetashotError(f"{path}: cannot be written ({error.strerror}): name another file") from None
