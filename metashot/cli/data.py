"""Commands on your own data."""

import os
from pathlib import Path
from typing import Annotated

import typer

from metashot.cli.app import Label, command
from metashot.errors import MetashotError
from metashot.output import echo, say
from metashot.project import find_root


@command
def init(
    folder: Annotated[
        Path,
        typer.Argument(
            help="A folder with one folder for each class, a zip file of such a folder, or a table.",
            show_default=False,
        ),
    ],
    name: Annotated[str | None, typer.Option(help="Name of the data set; by default the folder's.")] = None,
    splits: Annotated[
        Path | None,
        typer.Option(help="Folder with a list of classes or files for each split.", file_okay=False),
    ] = None,
    label: Label = "",
) -> None:
    """Inspect your own data and add it to params.yaml; the last line shows how to train on it.

    Exits with status 1, and writes nothing, if something in the data would make a run fail.
    """
    from metashot.cli import render
    from metashot.data.files import folders
    from metashot.onboard import propose
    from metashot.terminal import Terminal

    try:
        root = find_root(Path.cwd())
    except MetashotError:
        raise MetashotError(
            f"no project in {Path.cwd()} or above it: clone metashot's repository with git and run "
            "`metashot init` in the clone"
        ) from None

    def from_root(path: Path | None) -> str:
        return "" if path is None else str(path) if path.is_absolute() else os.path.relpath(path, root)

    try:
        raw = folders.Raw(path=from_root(folder), splits=from_root(splits), md5="", label=label)
    except ValueError as error:
        raise MetashotError(f"--{error}") from None
    proposal = propose.init(root, raw, name or propose.name_of(folder))
    Terminal().print(render.proposal(proposal), soft_wrap=True)
    for warning in propose.warnings(proposal):
        say(f"warning: {warning}", err=True)
    if proposal.mistakes:
        for mistake in proposal.mistakes:
            say(f"error: {mistake}", err=True)
        say("params.yaml was not changed: fix the data and run again", err=True)
        raise typer.Exit(1)
    propose.write(root, proposal)
    setting = f"the setting {proposal.setting}{' added to it' if proposal.new_setting else ''}"
    echo(f"data.{proposal.name} is in params.yaml, with {setting}")
    echo(f"next: metashot run --data {proposal.name} --setting {proposal.setting}")


@command
def refresh() -> None:
    """Pin the current content of local files in params.yaml; the next run uses it."""
    from metashot.config import pin
    from metashot.lineage import lockfile

    root = find_root(Path.cwd())
    for dataset in lockfile.listed(root, "datasets"):
        new = pin.refresh(root, dataset)
        if new is None:
            echo(f"{dataset}: pinned by code and parameters, nothing to refresh")
        else:
            echo(f"{dataset}: {'new content pinned in params.yaml' if new else 'unchanged'}")
