"""What all commands share: the application, mistakes as one line, and options."""

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
    str, typer.Argument(help="MODEL for its champion, MODEL@ALIAS or MODEL/VERSION.", show_default=False)
]
Label = Annotated[
    str,
    typer.Option(
        help="Where file names say the class, a regular expression with the class as its group `label`.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="For machines.")]


class App(typer.Typer):
    """The commands; what they print gets out in any encoding."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Run the command that the arguments name."""
        with output.guarded():
            return super().__call__(*args, **options)


app = App(
    help="Few-shot models: trained, compared and registered. DVC decides what to make, MLflow shows it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a function a command whose mistakes end as one line and status 1."""

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
    """The repository; or any folder, where MLFLOW_TRACKING_URI names a server."""

    return Path.cwd() if os.environ.get("MLFLOW_TRACKING_URI") else find_root(Path.cwd())


def say_json(value: Any) -> None:
    """Print a value for machines."""
    from metashot.terminal import as_json

    echo(as_json(value))


@contextmanager
def warnings() -> Iterator[None]:
    """Tell of MLflow's trouble in one line and go on: what DVC made does not depend on it."""
    try:
        yield
    except MetashotError as error:
        say(f"warning: {error}", err=True)


def write(path: Path, picture: bytes) -> None:
    """Write a picture where a user wants it."""
    from metashot.files import replacing

    try:
        with replacing(path) as partial:
            partial.write_bytes(picture)
    except OSError as error:
        raise MetashotError(f"{path}: cannot be written ({error.strerror}): name another file") from None
