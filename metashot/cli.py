"""The command line. Whatever is slow to import is imported by the command that needs it."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metashot.errors import MetashotError

if TYPE_CHECKING:
    from metashot.compare import Comparison

DESCRIBED = {"datasets": "data", "settings": "setting"}  # the section for what a list in params.yaml names

app = typer.Typer(
    help="Few-shot models: trained, compared and registered. DVC decides what to make, MLflow shows it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def plan(
    targets: Annotated[list[str] | None, typer.Argument(help="Stages, as `dvc repro` names them.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Say what a run would do: each stage's state, the reason, and the time to expect. Nothing is run."""
    with mistakes():
        import json
        from dataclasses import asdict

        from rich.console import Console

        from metashot import lineage
        from metashot import plan as planning

        steps = planning.plan(lineage.find_root(Path.cwd()), targets or [])
        if as_json:
            typer.echo(json.dumps([asdict(step) for step in steps], indent=2))
        else:
            Console().print(planning.table(steps))


@app.command()
def compare(
    dataset: Annotated[str | None, typer.Argument(help="All that are made, if none is named.")] = None,
    setting: Annotated[str | None, typer.Argument(help="All that are made, if none is named.")] = None,
) -> None:
    """Print the methods of a data set and setting side by side."""
    with mistakes():
        from metashot import compare as comparing
        from metashot import lineage, tracking

        root = lineage.find_root(Path.cwd())
        lock, methods = lineage.Lock(root), lineage.listed(root, "methods")
        groups = [(dataset, setting)] if dataset and setting else lineage.finished(lock)
        for d, s in groups:
            if dataset in (None, d) and setting in (None, s):
                comparison = comparing.compare(lock, d, s, methods)
                versions: Mapping[str, int] = {}
                with warnings():
                    versions = tracking.versions(root, comparison)
                show(root, comparison, versions)


@app.command()
def publish() -> None:
    """Make MLflow agree with dvc.lock; what is there already is left alone."""
    with mistakes():
        from metashot import lineage, tracking

        root = lineage.find_root(Path.cwd())
        groups = lineage.finished(lineage.Lock(root))
        for published in tracking.publish(root, groups, lineage.listed(root, "methods")):
            typer.echo(published)


@app.command()
def adopt(dataset: str, setting: str) -> None:
    """Make the champion the incumbent, which the next training has to beat."""
    with mistakes():
        from metashot import champions, lineage

        row = champions.adopt(lineage.find_root(Path.cwd()), dataset, setting)
        if row is None:
            typer.echo("nothing to adopt: there is no champion, or it is the incumbent already")
        else:
            typer.echo(f"{row.name} is the incumbent of {dataset}-{setting} now: commit champions/ to git")


@app.command()
def rollback(
    dataset: str,
    setting: str,
    reason: Annotated[str, typer.Option(help="Why: kept in git, and in every later decision.")],
) -> None:
    """Bar the champion for good and put the incumbent, or the next best model, in its place."""
    with mistakes():
        from metashot import champions, lineage, tracking

        root = lineage.find_root(Path.cwd())
        comparison = champions.rollback(root, dataset, setting, reason)
        versions: Mapping[str, int] = {}
        with warnings():
            versions = tracking.versions(root, comparison)
        show(root, comparison, versions)
        typer.echo(f"recorded in champions/{comparison.group}.json: commit it with dvc.lock to git")


@app.command()
def refresh() -> None:
    """Pin the present content of image folders in params.yaml; the next run takes it up."""
    with mistakes():
        from metashot import lineage
        from metashot.data import source

        root = lineage.find_root(Path.cwd())
        for dataset in lineage.listed(root, "datasets"):
            if not source.is_local(dataset):
                typer.echo(f"{dataset}: pinned by code and parameters, nothing to refresh")
            elif source.refresh(root, dataset):
                typer.echo(f"{dataset}: new content pinned in params.yaml")
            else:
                typer.echo(f"{dataset}: unchanged")


@app.command()
def ui(port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 5000) -> None:
    """Open the MLflow UI on this machine."""
    with mistakes():
        from metashot import lineage, tracking

        uri = tracking.tracking_uri(lineage.find_root(Path.cwd()))
        if not uri.startswith(tracking.SQLITE):
            typer.echo(f"MLflow runs at {tracking.without_credentials(uri)}")
            return
        if not Path(uri.removeprefix(tracking.SQLITE)).exists():
            raise MetashotError("nothing is published yet: run `metashot run` or `metashot publish`")
        # Without the workflow it opens on traces of language models
        address = f"http://127.0.0.1:{port}/#/experiments?workflowType=machine_learning"
        typer.echo(f"MLflow UI at {address} (stop with Ctrl-C)")
        options = ["--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        # No background jobs: they serve MLflow's tracing of language models.
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        os.execve(sys.executable, [sys.executable, "-m", "mlflow", "server", *options], environment)


@contextmanager
def mistakes() -> Iterator[None]:
    """End a user's mistake as one line and status 1."""
    try:
        yield
    except MetashotError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


@contextmanager
def warnings() -> Iterator[None]:
    """Tell of MLflow's trouble in one line and go on: what DVC made does not depend on it."""
    try:
        yield
    except MetashotError as error:
        typer.echo(f"warning: {error}", err=True)


@contextmanager
def listing(path: Path, wanted: Sequence[tuple[str, str]]) -> Iterator[None]:
    """Add names to the lists of params.yaml that lack them; put it back as it was if the block fails."""
    from metashot import params
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
        typer.echo(f"added {name} to {key} in params.yaml")
    try:
        params.check(path)
        yield
    except BaseException:
        if path.read_bytes() == after:  # nobody has edited it since
            write(before)
            typer.echo("put params.yaml back as it was", err=True)
        raise


def _listed(text: str, key: str, name: str) -> str:
    """The text of params.yaml with a name added to a list, every other character as it was."""
    from ruamel.yaml import YAML

    section = DESCRIBED[key]
    nodes = {node.value: value for node, value in YAML().compose(text).value}
    described = [node.value for node, _ in nodes[section].value]
    if name not in described:
        known = ", ".join(described)
        raise MetashotError(f"params.yaml has no {section}.{name} (it has {known}): describe it there first")
    names = nodes[key]
    end = names.value[-1].end_mark.index
    if names.flow_style:
        return f"{text[:end]}, {name}{text[end:]}"
    end += len(text[end:].partition("\n")[0])  # behind the last item's comment
    return f"{text[:end]}\n{' ' * names.start_mark.column}- {name}{text[end:]}"


def show(root: Path, comparison: "Comparison", versions: Mapping[str, int]) -> None:
    """Print one comparison."""
    from rich.console import Console

    from metashot import compare as comparing
    from metashot import lineage

    console, seconds = Console(), comparing.train_seconds(lineage.Lock(root), comparison)
    console.print(comparing.table(comparison, seconds, versions))
    plot = root / "reports" / f"{comparison.group}.png"
    if plot.exists():
        console.print(f"plot: {plot.relative_to(root)}", highlight=False)
