"""The command line: metashot's commands, and those that run flows. Slow imports are left to the commands."""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from metashot.cli import app, listing, mistakes, show_all
from metashot.errors import MetashotError, line


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
    # Unhandled, it would leave params.yaml as it is. Prefect stops the flow, then sends the signal again
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
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
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # the board says it

    from flows import server
    from metashot.terminal import Terminal

    console, address = Terminal(), server.named()
    console.print(f"Prefect: {_words(address)}")
    if address is None:
        server.use(server.temporary(root))

    import httpx
    from prefect.exceptions import PrefectException

    from flows.board import Board
    from flows.pipeline import made, pipeline
    from metashot import dvc, lineage

    with Board(root, console) as board:
        try:
            state = pipeline(root, targets, jobs, board.tell, remote, return_state=True)
        # Prefect's own: what fails within the flow ends in its state
        except (RuntimeError, httpx.HTTPError, PrefectException) as error:
            raise MetashotError(
                f"Prefect gave up ({' '.join(str(error).split())}): run again, or use `dvc repro`"
            ) from None

    from metashot import compare

    methods = lineage.listed(root, "methods")
    graph = dvc.graph(root)
    groups = made(root, list(dvc.ancestry(graph, targets or list(graph))))
    show_all(root, (compare.compare(lineage.Lock(root), *group, methods) for group in groups))
    if not state.is_completed():
        raise MetashotError(state.message or state.name)
    console.print(line(state.message), soft_wrap=True)


def _words(address: str | None) -> str:
    """Which Prefect server keeps the record."""
    return f"the server at {line(address)}" if address else "a temporary server, for this run only"
