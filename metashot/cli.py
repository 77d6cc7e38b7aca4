"""The command line. Whatever is slow to import is imported by the command that needs it."""

import os
import subprocess
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
def run(
    data: Annotated[list[str] | None, typer.Option(help="Only this data set; may be repeated.")] = None,
    setting: Annotated[str | None, typer.Option(help="Only this N-way K-shot setting.")] = None,
) -> None:
    """Make everything that is out of date, then print the comparison.

    A data set or setting that params.yaml describes but does not list yet is added to its list; if the run
    fails, the list is put back as it was.
    """
    with _mistakes():
        from metashot import lineage, params

        root = lineage.find_root(Path.cwd())
        params.check(root / "params.yaml")
        wanted = [("datasets", name) for name in data or []] + ([("settings", setting)] if setting else [])
        with _listing(root / "params.yaml", wanted):
            datasets = list(dict.fromkeys(data or lineage.listed(root, "datasets")))
            settings = [setting] if setting else lineage.listed(root, "settings")
            methods = lineage.listed(root, "methods")
            groups = [(d, s) for d in datasets for s in settings]
            targets = [f"register@{d}-{s}" for d, s in groups] if data or setting else []
            status = _dvc(root, "repro", *targets)
            if status:  # what is made is shown all the same: maybe only MLflow is down
                groups = [group for group in groups if _made(root, *group, methods)]
            _report(root, groups, methods)
            if status:
                command = " ".join(["dvc repro", *targets])
                raise MetashotError(f"{command} failed (status {status}); see above")


@app.command()
def compare(dataset: str, setting: str) -> None:
    """Print the methods of a data set and setting side by side."""
    with _mistakes():
        from metashot import compare as comparing
        from metashot import lineage, tracking

        root = lineage.find_root(Path.cwd())
        methods = lineage.listed(root, "methods")
        comparison = comparing.compare(lineage.Lock(root), dataset, setting, methods)
        versions: Mapping[str, int] = {}
        with _warnings():
            versions = tracking.versions(root, comparison)
        _show(root, comparison, versions)


@app.command()
def publish() -> None:
    """Make MLflow agree with dvc.lock; what is there already is left alone."""
    with _mistakes():
        from metashot import lineage, tracking

        root = lineage.find_root(Path.cwd())
        groups = lineage.finished(lineage.Lock(root))
        for published in tracking.publish(root, groups, lineage.listed(root, "methods")):
            typer.echo(published)


@app.command()
def ui(port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 5000) -> None:
    """Open the MLflow UI on this machine."""
    with _mistakes():
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
def _mistakes() -> Iterator[None]:
    """End a user's mistake as one line and status 1."""
    try:
        yield
    except MetashotError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


@contextmanager
def _warnings() -> Iterator[None]:
    """Tell of MLflow's trouble in one line and go on: what DVC made does not depend on it."""
    try:
        yield
    except MetashotError as error:
        typer.echo(f"warning: {error}", err=True)


@contextmanager
def _listing(path: Path, wanted: Sequence[tuple[str, str]]) -> Iterator[None]:
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


def _dvc(root: Path, *arguments: str) -> int:
    """Run DVC as this interpreter's, waiting where another DVC holds the lock; return its exit status."""
    here = str(Path(sys.executable).parent)
    path = os.pathsep.join([here, os.environ.get("PATH", os.defpath)])
    return subprocess.run(
        [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments],
        cwd=root,
        env={**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"},
        check=False,
    ).returncode


def _made(root: Path, dataset: str, setting: str, methods: Sequence[str]) -> bool:
    """Whether every method is trained and evaluated as params.yaml and the code now say."""
    cells = [f"{stage}@{dataset}-{setting}-{m}" for m in methods for stage in ("train", "evaluate")]
    return not _dvc(root, "status", "--quiet", "--with-deps", *cells)


def _report(root: Path, groups: Sequence[tuple[str, str]], methods: Sequence[str]) -> None:
    """Print the comparisons, MLflow made to agree with them if it can be reached."""
    if not groups:
        return
    from metashot import compare as comparing
    from metashot import lineage, tracking

    lock = lineage.Lock(root)
    comparisons = [comparing.compare(lock, *group, methods) for group in groups]
    published = []
    with _warnings():
        published = tracking.publish(root, groups, methods)
    versions = {done.group: done.versions for done in published}
    for comparison in comparisons:
        _show(root, comparison, versions.get(comparison.group, {}))
    for done in published:
        typer.echo(done)


def _show(root: Path, comparison: "Comparison", versions: Mapping[str, int]) -> None:
    """Print one comparison."""
    from rich.console import Console

    from metashot import compare as comparing
    from metashot import lineage

    console, seconds = Console(), comparing.train_seconds(lineage.Lock(root), comparison)
    console.print(comparing.table(comparison, seconds, versions))
    plot = root / "reports" / f"{comparison.group}.png"
    if plot.exists():
        console.print(f"plot: {plot.relative_to(root)}", highlight=False)
