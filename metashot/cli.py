"""The command line. Whatever is slow to import is imported by the command that needs it."""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metashot import output
from metashot.errors import MetashotError, line
from metashot.output import echo, say

if TYPE_CHECKING:
    from metashot.compare import Comparison
    from metashot.lineage import Lock

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

DESCRIBED = {"datasets": "data", "settings": "setting"}  # the section for what a list in params.yaml names


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


@app.command()
def plan(
    targets: Annotated[list[str] | None, typer.Argument(help="Stages, as `dvc repro` names them.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Say what a run would do: each stage's state, the reason, and the time to expect. Nothing is run."""
    with mistakes():
        from dataclasses import asdict

        from metashot import lineage
        from metashot import plan as planning
        from metashot.terminal import Terminal

        steps = planning.plan(lineage.find_root(Path.cwd()), targets or [])
        if as_json:
            say_json([asdict(step) for step in steps])
        else:
            Terminal().print(planning.table(steps))


@app.command()
def compare(
    dataset: Annotated[
        str | None, typer.Argument(help="All that are made, if none is named; or a version, MODEL/VERSION.")
    ] = None,
    setting: Annotated[
        str | None, typer.Argument(help="All that are made, if none is named; or another version.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines, every pair of methods.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the differences: a PNG file.", dir_okay=False)
    ] = None,
    curves: Annotated[
        Path | None, typer.Option(help="Draw accuracy against minutes: a PNG file.", dir_okay=False)
    ] = None,
) -> None:
    """Print the methods of a data set and setting side by side, and how surely the best leads the others.

    Or hold two registered versions, MODEL/VERSION or MODEL@ALIAS, against each other.
    """
    with mistakes():
        if any(mark in f"{dataset}{setting}" for mark in "/@"):
            if plot or curves or not (dataset and setting):
                raise MetashotError("two versions are compared in words or as JSON: name both")
            _compare_versions(dataset, setting, as_json)
            return
        import json

        from metashot import compare as comparing
        from metashot import lineage

        root = lineage.find_root(Path.cwd())
        lock, methods = lineage.Lock(root), lineage.listed(root, "methods")
        groups = [(dataset, setting)] if dataset and setting else lineage.finished(lock)
        wanted = [(d, s) for d, s in groups if dataset in (None, d) and setting in (None, s)]
        if not wanted:
            made = ", ".join(f"{d} {s}" for d, s in groups)
            raise MetashotError(f"nothing of {dataset} was evaluated (there is: {made}): run `dvc repro`")
        comparisons: Iterable[Comparison] = (comparing.compare(lock, d, s, methods) for d, s in wanted)
        if plot or curves:
            comparisons = list(comparisons)
            _draw(comparisons, lock, plot, curves)
        if as_json:
            say_json([json.loads(comparison.json) for comparison in comparisons])
            return
        show_all(root, comparisons)


@app.command()
def results() -> None:
    """Print what was measured beside what the papers report, as a Markdown page."""
    with mistakes():
        from metashot import lineage, published

        echo(published.page(lineage.find_root(Path.cwd())), nl=False)


@app.command()
def publish() -> None:
    """Make MLflow agree with git's history and DVC's files; what is there already is left alone."""
    with mistakes():
        from metashot import lineage, publishing

        for published in publishing.publish_all(lineage.find_root(Path.cwd())):
            say(published)


@app.command()
def trace(model: Model, as_json: Json = False) -> None:
    """Show where a registered version came from: data, parameters, code, packages, episodes, publisher."""
    with mistakes():
        from metashot import tracing, tracking
        from metashot.terminal import Terminal

        with tracking.connect(_root()) as client:
            traced = tracing.trace(tracking.resolve(client, model))
        if as_json:
            say_json(traced)
        else:
            Terminal().print(tracing.page(traced))


@app.command()
def predict(
    model: Model,
    wanted: Annotated[
        list[Path],
        typer.Argument(help="Files of pictures, sounds or texts, or folders of them.", show_default=False),
    ],
    support: Annotated[
        Path, typer.Option(help="Folder of labelled files, <class>/<file>, or table of labelled texts.")
    ],
    as_json: Json = False,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the answers about pictures: a PNG file.", dir_okay=False)
    ] = None,
    label: Label = "",
) -> None:
    """Let a registered model tell classes apart that a few labelled files show."""
    with mistakes():
        from dataclasses import asdict

        from metashot import predicting, tracking
        from metashot.terminal import Terminal

        with tracking.connect(root := _root()) as client:
            version = tracking.resolve(client, model)
            kind = predicting.taken(version)
            if picture and kind.what != "picture":
                raise MetashotError(f"--picture: draws pictures, and {version.name} takes {kind.what} files")
            shown = predicting.labelled(support, kind, label)
            asked = predicting.unlabelled(wanted, kind)
            answers = predicting.predict(root, version, shown, asked)
        if picture:
            _write(picture, predicting.picture(shown, asked, answers))
        if as_json:
            say_json([asdict(answer) for answer in answers])
        else:
            Terminal().print(predicting.table(answers))


@app.command()
def audit(
    model: Annotated[
        str | None, typer.Argument(help="MODEL for all its versions, MODEL@ALIAS or MODEL/VERSION for one.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every registered model.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what earlier audits computed.")] = False,
    signers: Annotated[
        Path | None, typer.Option(help="Folder of trusted public keys, instead of signers/.", file_okay=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Recompute what MLflow says of registered versions from stored bytes.

    Exits with 1 if a check fails, with 3 if none does but one cannot be made.
    """
    with mistakes():
        from dataclasses import asdict

        from metashot import auditing, lineage
        from metashot.terminal import Terminal

        if (model is None) != everything:
            raise MetashotError("name a registered model, or say --all")
        found = auditing.audit(lineage.find_root(Path.cwd()), model, fresh=fresh, signers=signers)
        if as_json:
            say_json([{**asdict(one), "verdict": one.verdict} for one in found])
        else:
            Terminal().print(auditing.table(found))
        verdicts = {one.verdict for one in found}
        if verdicts != {"verified"}:
            raise typer.Exit(1 if "refuted" in verdicts else 3)


@app.command()
def sign(
    model: Model,
    key: Annotated[Path, typer.Option(help="Private key, PEM, without password.", dir_okay=False)],
) -> None:
    """Sign lineage, code and files of a registered version with a key of yours; audit names the signer."""
    with mistakes():
        from metashot import auditing, lineage, signing

        root = lineage.find_root(Path.cwd())
        path = signing.sign(root, *auditing.signable(root, model), key)
        echo(f"signed in {path.relative_to(root)}: commit it, and your public key as signers/NAME.pem")


@app.command()
def reproduce(
    model: Model,
    tolerance: Annotated[
        float, typer.Option(min=0, max=1, help="Of the accuracy, on another device or with other packages.")
    ] = 0.01,
    as_json: Json = False,
) -> None:
    """Make a registered version again from its raw files, by what is on record, and compare.

    Exits with 1 if it is neither bit-equal nor, on another device, within the tolerance.
    """
    with mistakes():
        from dataclasses import asdict

        from metashot import lineage, reproducing, tracking
        from metashot.terminal import Terminal

        root = lineage.find_root(Path.cwd())
        with tracking.connect(root) as client:
            version = tracking.resolve(client, model)
            made = reproducing.reproduce(root, version, tolerance)
        if as_json:
            say_json(asdict(made))
        else:
            Terminal().print(reproducing.table(made))
        if made.verdict == "differs":
            raise typer.Exit(1)


@app.command()
def adopt(dataset: str, setting: str) -> None:
    """Make the champion the incumbent, which the next training has to beat."""
    with mistakes():
        from metashot import champions, lineage

        row = champions.adopt(lineage.find_root(Path.cwd()), dataset, setting)
        if row is None:
            echo("nothing to adopt: there is no champion, or it is the incumbent already")
        else:
            echo(f"{row.name} is the incumbent of {dataset}-{setting} now: commit champions/ to git")


@app.command()
def rollback(
    dataset: str,
    setting: str,
    reason: Annotated[str, typer.Option(help="Why: kept in git, and in every later decision.")],
) -> None:
    """Bar the champion for good and put the incumbent, or the next best model, in its place."""
    with mistakes():
        from metashot import champions, lineage

        root = lineage.find_root(Path.cwd())
        comparison = champions.rollback(root, dataset, setting, reason)
        show_all(root, [comparison])
        echo(f"recorded in champions/{comparison.group}.json: commit it with dvc.lock to git")


@app.command()
def refresh() -> None:
    """Pin the present content of local files in params.yaml; the next run takes it up."""
    with mistakes():
        from metashot import lineage
        from metashot.data import source

        root = lineage.find_root(Path.cwd())
        for dataset in lineage.listed(root, "datasets"):
            new = source.refresh(root, dataset)
            if new is None:
                echo(f"{dataset}: pinned by code and parameters, nothing to refresh")
            else:
                echo(f"{dataset}: {'new content pinned in params.yaml' if new else 'unchanged'}")


@app.command()
def init(
    folder: Annotated[
        Path,
        typer.Argument(help="Folder of class folders, a zip file of one, or a table.", show_default=False),
    ],
    name: Annotated[str | None, typer.Option(help="Of the data set; by default the folder's.")] = None,
    splits: Annotated[
        Path | None, typer.Option(help="Folder with lists of what is in each split.", file_okay=False)
    ] = None,
    label: Label = "",
) -> None:
    """Look at data of your own, and describe them in params.yaml; the last line says how to train on them.

    Exits with 1, and writes nothing, where something in them would stop the run.
    """
    with mistakes():
        from metashot import lineage, proposing
        from metashot.data import folders
        from metashot.terminal import Terminal

        try:
            root = lineage.find_root(Path.cwd())
        except MetashotError:
            raise MetashotError(
                f"no project in {Path.cwd()} or above it: clone metashot's repository with git, and run "
                "`metashot init` in the clone"
            ) from None

        def from_root(path: Path | None) -> str:
            return "" if path is None else str(path) if path.is_absolute() else os.path.relpath(path, root)

        try:
            raw = folders.Raw(path=from_root(folder), splits=from_root(splits), md5="", label=label)
        except ValueError as error:
            raise MetashotError(f"--{error}") from None
        proposal = proposing.init(root, raw, name or proposing.name_of(folder))
        Terminal().print(proposing.page(proposal), soft_wrap=True)
        for warning in proposing.warnings(proposal):
            say(f"warning: {warning}", err=True)
        if proposal.mistakes:
            for mistake in proposal.mistakes:
                say(f"error: {mistake}", err=True)
            say("params.yaml is as it was: mend the data and run again", err=True)
            raise typer.Exit(1)
        proposing.write(root, proposal)
        what = "added to" if proposal.described else "of"
        echo(f"data.{proposal.name} is in params.yaml, with the setting {proposal.setting} {what} it")
        echo(f"next: metashot run --data {proposal.name} --setting {proposal.setting}")


@app.command()
def ui(port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 5000) -> None:
    """Open the MLflow UI on this machine."""
    with mistakes():
        from metashot import lineage, tracking

        root = lineage.find_root(Path.cwd())
        uri = tracking.tracking_uri(root)
        if not uri.startswith(tracking.SQLITE):
            say(f"MLflow runs at {uri}")
            return
        with tracking.connect(root):
            tracking.follow_move(Path(uri.removeprefix(tracking.SQLITE)))
        # Without the workflow it opens on traces of language models
        address = f"http://127.0.0.1:{port}/#/experiments?workflowType=machine_learning"
        echo(f"MLflow UI at {address} (stop with Ctrl-C)")
        options = ["--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        # No background jobs: they serve MLflow's tracing of language models.
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        os.execve(sys.executable, [sys.executable, "-m", "mlflow", "server", *options], environment)


def _root() -> Path:
    """The repository; or any folder, where MLFLOW_TRACKING_URI names a server."""
    from metashot import lineage

    return Path.cwd() if os.environ.get("MLFLOW_TRACKING_URI") else lineage.find_root(Path.cwd())


def say_json(value: Any) -> None:
    """Print a value for machines."""
    from metashot.terminal import as_json

    echo(as_json(value))


@contextmanager
def mistakes() -> Iterator[None]:
    """End a user's mistake as one line and status 1."""
    try:
        yield
    except MetashotError as error:
        say(f"error: {error}", err=True)
        raise typer.Exit(1) from None


@contextmanager
def warnings() -> Iterator[None]:
    """Tell of MLflow's trouble in one line and go on: what DVC made does not depend on it."""
    try:
        yield
    except MetashotError as error:
        say(f"warning: {error}", err=True)


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
        echo(f"added {name} to {key} in params.yaml")
    try:
        params.check(path)
        yield
    except BaseException:
        if path.read_bytes() == after:  # nobody has edited it since
            write(before)
            echo("put params.yaml back as it was", err=True)
        raise


def _compare_versions(one: str, other: str, as_json: bool) -> None:
    """Print how two registered versions did on the same episodes, and show it in MLflow."""
    from dataclasses import asdict

    from metashot import cards, carried, history, lineage, publishing, tracking
    from metashot import compare as comparing

    root = lineage.find_root(Path.cwd())
    with tracking.connect(root) as client:
        versions = [tracking.resolve(client, wanted) for wanted in (one, other)]
        locks = history.everywhere(root)
        sources = [history.find(locks, v.entry.name, v.entry.tags.get(carried.RESULT, "")) for v in versions]
        difference = comparing.pair(*sources)
        first, second = versions
        if as_json:
            say_json({"first": first.name, "second": second.name, **asdict(difference)})
        else:
            echo(cards.versus(line(first.name), line(second.name), difference))
        with warnings():
            publishing.publish_pair(root, first, second, difference)


def _draw(
    comparisons: Sequence["Comparison"], lock: "Lock", differences: Path | None, curves: Path | None
) -> None:
    """Write the pictures of the one comparison: its differences, and accuracy against minutes of training."""
    from metashot import compare, plots  # matplotlib is slow to import

    if len(comparisons) != 1:
        raise MetashotError(
            f"a picture is of one comparison, not {len(comparisons)}: name a data set and a setting"
        )
    (comparison,) = comparisons
    if differences:
        _write(differences, plots.differences_plot(comparison))
    if curves:
        _write(curves, plots.minutes_plot(comparison.group, compare.curves(lock, comparison)))


def _write(path: Path, picture: bytes) -> None:
    """Write a picture where a user wants it."""
    from metashot.files import replacing

    try:
        with replacing(path) as partial:
            partial.write_bytes(picture)
    except OSError as error:
        raise MetashotError(f"{path}: cannot be written ({error.strerror}): name another file") from None


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


def show_all(root: Path, comparisons: Iterable["Comparison"]) -> None:
    """Print comparisons, with the versions that are registered for as long as MLflow answers."""
    from metashot import tracking  # slow, and large, to import

    answers = True
    for comparison in comparisons:
        versions: Mapping[str, int] = {}
        if answers:
            answers = False
            with warnings():
                versions = tracking.versions(root, comparison)
                answers = True
                if missing := [row.name for row in comparison.rows if row.name not in versions]:
                    raise MetashotError(
                        f"MLflow does not show {', '.join(missing)} of {comparison.group} as they are now: "
                        "run `metashot publish`"
                    )
        show(root, comparison, versions)


def show(root: Path, comparison: "Comparison", versions: Mapping[str, int]) -> None:
    """Print one comparison."""
    from metashot import compare as comparing
    from metashot import lineage
    from metashot.terminal import Terminal

    console, seconds = Terminal(), comparing.train_seconds(lineage.Lock(root), comparison)
    console.print(comparing.table(comparison, seconds, versions))
    if comparison.pairs:
        console.print(comparing.pairs_table(comparison))
    plot = root / "reports" / f"{comparison.group}.png"
    if plot.exists():
        console.print(f"plot: {plot.relative_to(root)}")
