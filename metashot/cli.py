"""The command line. Whatever is slow to import is imported by the command that needs it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from metashot.errors import MetashotError

app = typer.Typer(
    help="Few-shot models: trained, compared and registered. DVC decides what to make, MLflow shows it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def run(
    data: Annotated[list[str] | None, typer.Option(help="Only this data set; may be repeated.")] = None,
    setting: Annotated[str | None, typer.Option(help="Only this N-way K-shot setting.")] = None,
) -> None:
    """Make everything that is out of date, then print the comparison.

    A data set or setting that params.yaml describes but does not list yet is added to its list.
    """
    with _mistakes():
        from metashot import lineage

        root = lineage.find_root(Path.cwd())
        for name in data or []:
            _list(root, "datasets", name)
        if setting:
            _list(root, "settings", setting)
        datasets = data or lineage.listed(root, "datasets")
        settings = [setting] if setting else lineage.listed(root, "settings")
        targets = [f"register@{d}-{s}" for d in datasets for s in settings]
        _dvc(root, "repro", *(targets if data or setting else []))
        for d in datasets:
            for s in settings:
                _show(root, d, s)


@app.command()
def compare(dataset: str, setting: str) -> None:
    """Print the methods of a data set and setting side by side."""
    with _mistakes():
        from metashot import lineage

        _show(lineage.find_root(Path.cwd()), dataset, setting)


@app.command()
def publish() -> None:
    """Make MLflow agree with dvc.lock; what is there already is left alone."""
    with _mistakes():
        from metashot import lineage, tracking

        for published in tracking.publish(lineage.find_root(Path.cwd())):
            typer.echo(published)


@app.command()
def ui(port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 5000) -> None:
    """Open the MLflow UI on this machine."""
    with _mistakes():
        from metashot import lineage, tracking

        uri = tracking.tracking_uri(lineage.find_root(Path.cwd()))
        if not uri.startswith(tracking.SQLITE):
            typer.echo(f"MLflow runs at {uri}")
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
def _mistakes() -> Iterator[None]:
    """End a user's mistake as one line and status 1."""
    try:
        yield
    except MetashotError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


def _list(root: Path, key: str, name: str) -> None:
    """Add a data set or setting that params.yaml describes to the list of those it asks for."""
    from ruamel.yaml import YAML

    path, section = root / "params.yaml", {"datasets": "data", "settings": "setting"}[key]
    yaml = YAML()  # keeps comments and order
    params = yaml.load(path.read_text(encoding="utf-8"))
    if name in params[key]:
        return
    if name not in params[section]:
        known = ", ".join(params[section])
        raise MetashotError(f"params.yaml has no {section}.{name} (it has {known}): describe it there first")
    params[key].append(name)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        yaml.dump(params, file)
    partial.replace(path)
    typer.echo(f"added {name} to {key} in params.yaml")


def _dvc(root: Path, *arguments: str) -> None:
    """Run DVC as this interpreter's, waiting where another DVC holds the lock."""
    here = str(Path(sys.executable).parent)
    path = os.pathsep.join([here, os.environ.get("PATH", os.defpath)])
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments],
        cwd=root,
        env={**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"},
        check=False,
    )
    if done.returncode:
        raise MetashotError(f"dvc {' '.join(arguments)} failed (status {done.returncode}); see above")


def _show(root: Path, dataset: str, setting: str) -> None:
    from rich.console import Console

    from metashot import compare as comparing
    from metashot import lineage, tracking

    lock = lineage.Lock(root)
    methods = lineage.listed(root, "methods")
    comparison = comparing.compare(lock, dataset, setting, methods)
    seconds = {
        cell.method: comparing.train_seconds(lock, cell) for cell in lock.cells(dataset, setting, methods)
    }
    console = Console()
    console.print(comparing.table(comparison, seconds, tracking.versions(root, comparison)))
    plot = root / "reports" / f"{comparison.group}.png"
    if plot.exists():
        console.print(f"plot: {plot.relative_to(root)}", highlight=False)
