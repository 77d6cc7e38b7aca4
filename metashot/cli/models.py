"""Commands on registered models."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from metashot.cli.app import Json, Label, Model, command, say_json, tracked_root, write
from metashot.errors import MetashotError
from metashot.output import echo, say
from metashot.project import find_root


@command
def publish() -> None:
    """Make MLflow agree with git's history and DVC's files; what is there already is left alone."""
    from metashot.registry import publish

    for papers in publish.publish_all(find_root(Path.cwd())):
        say(papers)


@command
def trace(model: Model, as_json: Json = False) -> None:
    """Show where a registered version came from: data, parameters, code, packages, episodes, publisher."""
    from metashot.audit import trace
    from metashot.cli import render
    from metashot.registry import tracking, versions
    from metashot.terminal import Terminal

    with tracking.connect(tracked_root()) as client:
        traced = trace.trace(versions.resolve(client, model))
    if as_json:
        say_json(traced.written)
    else:
        Terminal().print(render.trace(traced))


@command
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
    from dataclasses import asdict

    from metashot.cli import render
    from metashot.registry import predict, tracking, versions
    from metashot.terminal import Terminal

    with tracking.connect(root := tracked_root()) as client:
        version = versions.resolve(client, model)
        kind = predict.taken(version)
        if picture and kind.noun != "picture":
            raise MetashotError(f"--picture: draws pictures, and {version.name} takes {kind.noun} files")
        shown = predict.labelled(support, kind, label)
        asked = predict.unlabelled(wanted, kind)
        answers = predict.predict(root, version, shown, asked)
    if picture:
        write(picture, predict.picture(shown, asked, answers))
    if as_json:
        say_json([asdict(answer) for answer in answers])
    else:
        Terminal().print(render.answers(answers))


@command
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
    from dataclasses import asdict

    from metashot.audit import audit
    from metashot.cli import render
    from metashot.terminal import Terminal

    if (model is None) != everything:
        raise MetashotError("name a registered model, or say --all")
    found = audit.audit(find_root(Path.cwd()), model, fresh=fresh, signers=signers)
    if as_json:
        say_json([{**asdict(one), "verdict": one.verdict} for one in found])
    else:
        Terminal().print(render.audit(found))
    verdicts = {one.verdict for one in found}
    if verdicts != {"verified"}:
        raise typer.Exit(1 if "refuted" in verdicts else 3)


@command
def sign(
    model: Model,
    key: Annotated[Path, typer.Option(help="Private key, PEM, without password.", dir_okay=False)],
) -> None:
    """Sign lineage, code and files of a registered version with a key of yours; audit names the signer."""
    from metashot.audit import audit
    from metashot.registry import signing

    root = find_root(Path.cwd())
    path = signing.sign(root, *audit.signable(root, model), key)
    echo(f"signed in {path.relative_to(root)}: commit it, and your public key as signers/NAME.pem")


@command
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
    from dataclasses import asdict

    from metashot.audit import reproduce
    from metashot.cli import render
    from metashot.registry import tracking, versions
    from metashot.terminal import Terminal

    root = find_root(Path.cwd())
    with tracking.connect(root) as client:
        version = versions.resolve(client, model)
        made = reproduce.reproduce(root, version, tolerance)
    if as_json:
        say_json(asdict(made))
    else:
        Terminal().print(render.reproduction(made))
    if made.verdict == "differs":
        raise typer.Exit(1)


@command
def ui(port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 5000) -> None:
    """Open the MLflow UI on this machine."""
    from metashot.registry import tracking

    root = find_root(Path.cwd())
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
