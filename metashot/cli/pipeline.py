"""Commands that run the pipeline, or say what a run would do."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from metashot.cli.app import command, say_json
from metashot.cli.results import show_all
from metashot.errors import MetashotError, line
from metashot.output import echo
from metashot.project import find_root

DESCRIBED = {"datasets": "data", "settings": "setting"}  # the section for what a list in params.yaml names


@command
def plan(
    targets: Annotated[list[str] | None, typer.Argument(help="Stages, as `dvc repro` names them.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Say what a run would do: each stage's state, the reason, and the time to expect. Nothing is run."""
    from dataclasses import asdict

    from flows import plan as planning
    from metashot.cli import render
    from metashot.terminal import Terminal

    steps = planning.plan(find_root(Path.cwd()), targets or [])
    if as_json:
        say_json([asdict(step) for step in steps])
    else:
        Terminal().print(render.plan(steps))


@command
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
    from metashot.config import check
    from metashot.lineage import lockfile
    from metashot.project import dvc

    root = find_root(Path.cwd())
    check.check(root / "params.yaml")
    dvc.wait_for_run(root)
    wanted = [("datasets", name) for name in data or []] + ([("settings", setting)] if setting else [])
    with listing(root / "params.yaml", wanted):
        datasets = list(dict.fromkeys(data or lockfile.listed(root, "datasets")))
        settings = [setting] if setting else lockfile.listed(root, "settings")
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

    from flows.board import Board
    from flows.pipeline import made, run
    from metashot.lineage import lockfile
    from metashot.project import dvc

    with Board(root, console) as board:
        state = run(root, targets, jobs, board.tell, remote)

    from metashot.results import compare

    methods = lockfile.listed(root, "methods")
    graph = dvc.graph(root)
    groups = made(root, list(dvc.ancestry(graph, targets or list(graph))))
    show_all(root, (compare.compare(lockfile.Lock(root), *group, methods) for group in groups))
    if not state.is_completed():
        raise MetashotError(state.message or state.name)
    console.print(line(state.message), soft_wrap=True)


def _words(address: str | None) -> str:
    """Which Prefect server keeps the record."""
    return f"the server at {line(address)}" if address else "a temporary server, for this run only"


@contextmanager
def listing(path: Path, wanted: Sequence[tuple[str, str]]) -> Iterator[None]:
    """Add names to the lists of params.yaml that lack them; put it back as it was if the block fails."""
    from metashot.config import check, params
    from metashot.files import replacing

    def write(content: bytes) -> None:
        with replacing(path) as partial:
            partial.write_bytes(content)

    missing = [(key, name) for key, name in dict.fromkeys(wanted) if name not in params.read(path, key, list)]
    if not missing:
        yield
        return
    before = after = path.read_bytes()
    for key, name in missing:
        after = _listed(after.decode(), key, name).encode()
    write(after)
    for key, name in missing:
        echo(f"added {name} to {key} in params.yaml")
    try:
        check.check(path)
        yield
    except BaseException:
        if path.read_bytes() == after:  # nobody has edited it since
            write(before)
            echo("put params.yaml back as it was", err=True)
        raise


def _listed(text: str, key: str, name: str) -> str:
    """The text of params.yaml with a name added to a list, every other character as it was."""
    from ruamel.yaml import YAML

    mark = "\ufeff" if text.startswith("\ufeff") else ""
    text = text.removeprefix(mark)
    section = DESCRIBED[key]
    nodes = {node.value: value for node, value in YAML().compose(text).value}
    described = [node.value for node, _ in nodes[section].value]
    if name not in described:
        known = ", ".join(described)
        raise MetashotError(f"params.yaml has no {section}.{name} (it has {known}): describe it there first")
    names = nodes[key]
    end = names.value[-1].end_mark.index
    if names.flow_style:
        return f"{mark}{text[:end]}, {name}{text[end:]}"
    end += len(text[end:].partition("\n")[0])  # behind the last item's comment
    return f"{mark}{text[:end]}\n{' ' * names.start_mark.column}- {name}{text[end:]}"
