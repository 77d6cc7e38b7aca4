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
    """Bring MLflow up to date with git's history and DVC's files; what it has already is left alone."""
    from metashot.registry import publish

    for papers in publish.publish_all(find_root(Path.cwd())):
        say(papers)


@command
def trace(model: Model, as_json: Json = False) -> None:
    """Show where a registered version comes from: data, parameters, code, packages, episodes, publisher."""
    from metashot.audit import trace
    from metashot.cli import render
    from metashot.registry import tracking, versions
    from metashot.terminal import Terminal

    with tracking.connect(tracked_root()) as client:
        provenance = trace.trace(versions.resolve(client, model))
    if as_json:
        say_json(provenance.written)
    else:
        Terminal().print(render.trace(provenance))


@command
def predict(
    model: Model,
    files: Annotated[
        list[Path],
        typer.Argument(help="Files to classify, or folders of them.", show_default=False),
    ],
    support: Annotated[
        Path, typer.Option(help="Labelled examples: a folder <class>/<file>, or a table of labelled texts.")
    ],
    as_json: Json = False,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the predictions for pictures to a PNG file.", dir_okay=False)
    ] = None,
    label: Label = "",
) -> None:
    """Classify files with a registered model, given a few labelled examples."""
    from dataclasses import asdict

    from metashot.cli import render
    from metashot.registry import predict, tracking, versions
    from metashot.terminal import Terminal

    with tracking.connect(root := tracked_root()) as client:
        version = versions.resolve(client, model)
        kind = predict.taken(version)
        if picture and kind.noun != "picture":
            raise MetashotError(f"--picture: draws pictures, and {version.name} takes {kind.noun} files")
        examples = predict.labelled(support, kind, label)
        queries = predict.unlabelled(files, kind)
        answers = predict.predict(root, version, examples, queries)
    if picture:
        write(picture, predict.picture(examples, queries, answers))
    if as_json:
        say_json([asdict(answer) for answer in answers])
    else:
        Terminal().print(render.answers(answers))


@command
def audit(
    model: Annotated[
        str | None, typer.Argument(help="MODEL (all its versions), MODEL@ALIAS or MODEL/VERSION.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Audit every registered model.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Ignore the cached results of earlier audits.")
    ] = False,
    signers: Annotated[
        Path | None, typer.Option(help="Folder of trusted public keys, instead of signers/.", file_okay=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Verify registered versions: recompute what MLflow records of them from the stored files.

    Exits with status 1 if a check fails, and with 3 if none fails but one cannot be made.
    """
    from dataclasses import asdict

    from metashot.audit import audit
    from metashot.cli import render
    from metashot.terminal import Terminal

    if (model is None) != everything:
        raise MetashotError("name a registered model, or use --all")
    reports = audit.audit(find_root(Path.cwd()), model, fresh=fresh, signers=signers)
    if as_json:
        say_json([{**asdict(report), "verdict": report.verdict} for report in reports])
    else:
        Terminal().print(render.audit(reports))
    verdicts = {report.verdict for report in reports}
    if verdicts != {"verified"}:
        raise typer.Exit(1 if "refuted" in verdicts else 3)


@command
def sign(
    model: Model,
    key: Annotated[Path, typer.Option(help="Private key: a PEM file without password.", dir_okay=False)],
) -> None:
    """Sign the lineage, code and files of a registered version with your key; audit shows the signer."""
    from metashot.audit import audit
    from metashot.registry import signing

    root = find_root(Path.cwd())
    path = signing.sign(root, *audit.signable(root, model), key)
    echo(f"signed in {path.relative_to(root)}: commit it, and your public key as signers/NAME.pem")


@command
def reproduce(
    model: Model,
    tolerance: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Allowed difference in accuracy on another device or other packages."
        ),
    ] = 0.01,
    as_json: Json = False,
) -> None:
    """Train and evaluate a registered version again from its raw files, as recorded, and compare.

    Exits with status 1 if it is neither bit-equal nor, on another device, within the tolerance.
    """
    from dataclasses import asdict

    from metashot.audit import reproduce
    from metashot.cli import render
    from metashot.registry import tracking, versions
    from metashot.terminal import Terminal

    root = find_root(Path.cwd())
    with tracking.connect(root) as client:
        version = versions.resolve(client, model)
        reproduction = reproduce.reproduce(root, version, tolerance)
    if as_json:
        say_json(asdict(reproduction))
    else:
        Terminal().print(render.reproduction(reproduction))
    if reproduction.verdict == "differs":
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
    # Without this workflow MLflow opens on traces of language models
    address = f"http://127.0.0.1:{port}/#/experiments?workflowType=machine_learning"
    echo(f"MLflow UI at {address} (stop with Ctrl-C)")
    options = ["--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # Its background jobs serve the tracing of language models
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    os.execve(sys.executable, [sys.executable, "-m", "mlflow", "server", *options], environment)
