"""Commands that run the pipeline, or show what a run would do."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from metashot.cli.app import Json, command, say_json
from metashot.cli.results import show_all
from metashot.errors import MetashotError, line
from metashot.output import echo
from metashot.project import find_root

SECTIONS = {"datasets": "data", "settings": "setting"}  # the section that describes the names in a list


@command
def plan(
    targets: Annotated[list[str] | None, typer.Argument(help="Stages, as `dvc repro` names them.")] = None,
    as_json: Json = False,
) -> None:
    """Show what a run would do: each stage's state, the reason, and the expected time. Nothing is run."""
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
        list[str] | None,
        typer.Argument(help="Only these stages and those that they need, as DVC names them."),
    ] = None,
    data: Annotated[list[str] | None, typer.Option(help="Only this data set; can be repeated.")] = None,
    setting: Annotated[str | None, typer.Option(help="Only this N-way K-shot setting.")] = None,
    method: Annotated[str | None, typer.Option(help="Only train and evaluate this method.")] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Stages to run in parallel; by default as many as cores or GPUs allow."),
    ] = None,
    remote: Annotated[
        bool, typer.Option("--remote", help="Let workers run the stages that name a work pool.")
    ] = False,
) -> None:
    """Make everything that is out of date, in parallel, then print the comparison.

    A data set or setting that params.yaml describes but does not list is added to its list; if the run fails,
    it is removed again.
    """
    # Restores params.yaml on SIGTERM: Prefect stops the flow, then sends the signal again
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    from metashot.config import check
    from metashot.lineage import lockfile
    from metashot.project import locks

    root = find_root(Path.cwd())
    check.check(root / "params.yaml")
    locks.wait_for_run(root)
    names = [("datasets", name) for name in data or []] + ([("settings", setting)] if setting else [])
    with listing(root / "params.yaml", names):
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
    """Run the flow and print the comparisons.

    Raises:
        MetashotError: A stage failed; the results of the others are printed nevertheless.
    """
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # the board shows it all

    from flows import server
    from metashot.terminal import Terminal

    console, address = Terminal(), server.named()
    name = f"the server at {line(address)}" if address else "a temporary server, for this run only"
    console.print(f"Prefect: {name}")
    if address is None:
        server.use(server.temporary(root))

    from flows.board import Board
    from flows.pipeline import made, run
    from metashot.lineage import lockfile
    from metashot.project import dvc

    with Board(root, console) as board:
        state = run(root, targets, jobs, board.update, remote)

    from metashot.results import compare

    methods = lockfile.listed(root, "methods")
    graph = dvc.graph(root)
    groups = made(root, list(dvc.ancestry(graph, targets or list(graph))))
    show_all(root, (compare.compare(lockfile.Lock(root), *group, methods) for group in groups))
    if not state.is_completed():
        raise MetashotError(state.message or state.name)
    console.print(line(state.message), soft_wrap=True)


@contextmanager
def listing(path: Path, names: Sequence[tuple[str, str]]) -> Iterator[None]:
    """Add names to lists of params.yaml for the block, and keep them unless it fails.

    Args:
        path: params.yaml.
        names: Key of a list (``datasets``) and a name that it must hold.

    Raises:
        MetashotError: params.yaml does not describe one of the names.
    """
    from metashot.config import check, params
    from metashot.files import replacing

    def write(content: bytes) -> None:
        with replacing(path) as partial:
            partial.write_bytes(content)

    missing = [(key, name) for key, name in dict.fromkeys(names) if name not in params.read(path, key, list)]
    if not missing:
        yield
        return
    before = after = path.read_bytes()
    for key, name in missing:
        after = _append(after.decode(), key, name).encode()
    write(after)
    for key, name in missing:
        echo(f"added {name} to {key} in params.yaml")
    try:
        check.check(path)
        yield
    except BaseException:
        if path.read_bytes() == after:  # nobody has edited it since
            write(before)
            echo("restored params.yaml", err=True)
        raise


def _append(text: str, key: str, name: str) -> str:
    """Return the text of params.yaml with a name appended to a list, every other character kept."""
    from ruamel.yaml import YAML

    mark = "\ufeff" if text.startswith("\ufeff") else ""
    text = text.removeprefix(mark)
    section = SECTIONS[key]
    nodes = {node.value: value for node, value in YAML().compose(text).value}
    described = [node.value for node, _ in nodes[section].value]
    if name not in described:
        known = ", ".join(described)
        raise MetashotError(f"params.yaml has no {section}.{name} (it has {known}): describe it there first")
    names = nodes[key]
    end = names.value[-1].end_mark.index
    if names.flow_style:
        return f"{mark}{text[:end]}, {name}{text[end:]}"
    end += len(text[end:].partition("\n")[0])  # past the comment on the last item
    return f"{mark}{text[:end]}\n{' ' * names.start_mark.column}- {name}{text[end:]}"
