"""The command line: metashot's commands, and those that run flows. Slow imports are left to the commands."""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from metashot.cli import app, listing, mistakes, show, warnings
from metashot.errors import MetashotError


@app.command()
def run(
    stages: Annotated[
        list[str] | None, typer.Argument(help="Only these stages and what they stand on, as DVC names them.")
    ] = None,
    data: Annotated[list[str] | None, typer.Option(help="Only this data set; may be repeated.")] = None,
    setting: Annotated[str | None, typer.Option(help="Only this N-way K-shot setting.")] = None,
    method: Annotated[str | None, typer.Option(help="Only this method: train and evaluate it.")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Stages at the same time; by default what cores or GPUs allow.")
    ] = None,
    remote: Annotated[
        bool, typer.Option("--remote", help="Have workers make the stages that ask for a work pool.")
    ] = False,
) -> None:
    """Make everything that is out of date, side by side, then print the comparison.

    A data set or setting that params.yaml describes but does not list yet is added to its list; if the run
    fails, the list is put back as it was.
    """
    with mistakes():
        from metashot import dvc, lineage, params

        root = lineage.find_root(Path.cwd())
        params.check(root / "params.yaml")
        dvc.wait_for_run(root)
        wanted = [("datasets", name) for name in data or []] + ([("settings", setting)] if setting else [])
        with listing(root / "params.yaml", wanted):
            datasets = list(dict.fromkeys(data or lineage.listed(root, "datasets")))
            settings = [setting] if setting else lineage.listed(root, "settings")
            groups = [(d, s) for d in datasets for s in settings]
            targets = list(stages or [])
            if method:
                targets += [f"evaluate@{d}-{s}-{method}" for d, s in groups]
            elif data or setting:
                targets += [f"register@{d}-{s}" for d, s in groups]
            _pipeline(root, targets, jobs, remote)


def _pipeline(root: Path, targets: list[str], jobs: int | None, remote: bool) -> None:
    """Run the flow and show what is made.

    Raises:
        MetashotError: A stage failed; what the others made is shown all the same.
    """
    # Prefect stops the flow, then sends the signal again: unhandled, it leaves the temporary server behind
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # the board says it

    from rich.console import Console

    from flows.board import Board
    from flows.pipeline import made, pipeline
    from metashot import dvc, lineage

    console = Console()
    console.print(f"Prefect: {_server()}", highlight=False)
    with Board(root, console) as board:
        try:
            state = pipeline(root, targets, jobs, board.tell, remote, return_state=True)
        except RuntimeError as error:  # Prefect's own: what fails within the flow ends in its state
            raise MetashotError(
                f"Prefect gave up ({' '.join(str(error).split())}): run again, or use `dvc repro`"
            ) from error

    from metashot import compare, tracking  # slow, and large, to import

    methods = lineage.listed(root, "methods")
    graph = dvc.graph(root)
    for dataset, setting in made(root, list(dvc.ancestry(graph, targets or list(graph)))):
        comparison = compare.compare(lineage.Lock(root), dataset, setting, methods)
        versions: dict[str, int] = {}
        with warnings():
            versions = tracking.versions(root, comparison)
        show(root, comparison, versions)
    if not state.is_completed():
        raise MetashotError(state.message or state.name)
    console.print(state.message, highlight=False, markup=False, soft_wrap=True)


def _server() -> str:
    """Which Prefect server keeps the record.

    Raises:
        MetashotError: One is named, and does not answer.
    """
    import requests
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    if not url:
        return "a temporary server, for this run only"
    try:
        requests.get(f"{url}/health", timeout=10).raise_for_status()
    except requests.RequestException as error:
        raise MetashotError(
            f"Prefect at {url} does not answer ({type(error).__name__}): start it, or unset PREFECT_API_URL; "
            "`dvc repro` needs no server"
        ) from None
    return f"the server at {url}"
