"""Registered models served by MLflow, a task for them, and requests to them or to a loaded model."""

import base64
import io
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import requests
from mlflow.exceptions import MlflowException
from PIL import Image
from servers import Server, free_port

GROUP = "glyphs-5w1s"


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    """A picture as the bytes of a file."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


# Different drawings, light on dark with an empty border: 5-way 1-shot, 15 queries of each class
BLOTS = np.pad(np.random.default_rng(0).integers(0, 256, (80, 24, 24), np.uint8), [(0, 0), (2, 2), (2, 2)])
PICTURES = [encoded(Image.fromarray(blot)) for blot in BLOTS]
LABELS = [*"bdace", *[None] * 75]
TASK = list(zip(PICTURES, LABELS, strict=True))
COLUMNS = ("image", "label")


@contextmanager
def serving(root: Path, models: dict[str, str], folder: Path) -> Iterator[dict[str, str]]:
    """Serve models of a repository by MLflow.

    Args:
        root: The repository, whose database MLflow reads.
        models: URI of each model, by a name of its own.
        folder: Working directory and logs of the servers.

    Yields:
        The address of each server, by the model's name.
    """
    bin_folder = str(Path(sys.executable).parent)
    environment = {
        **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        "MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlruns/mlflow.db",
        "PATH": os.pathsep.join([bin_folder, os.environ["PATH"]]),
    }
    servers, addresses = [], {}
    try:
        for name, uri in models.items():
            port = str(free_port())
            command = ["mlflow", "models", "serve", "--model-uri", uri]
            command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", port]
            addresses[name] = f"http://127.0.0.1:{port}"
            log = folder / f"{name}.log"
            server = Server(command, f"{addresses[name]}/ping", log, cwd=folder, env=environment)
            server.start()
            servers.append(server)
        for server in servers:
            server.wait()
        yield addresses
    finally:
        for server in servers:
            server.stop(signal.SIGTERM)


def ask(model: mlflow.pyfunc.PyFuncModel | str, rows: list, columns=COLUMNS) -> list[dict] | str:
    """Predict rows with a model, or the server at an address; return the answers, or the error message."""
    if isinstance(model, str):
        as_json = [[base64.b64encode(x).decode() if isinstance(x, bytes) else x for x in row] for row in rows]
        return post(model, {"dataframe_split": {"columns": list(columns), "data": as_json}})
    try:
        return model.predict(pd.DataFrame(rows, columns=list(columns))).to_dict("records")
    except MlflowException as error:
        return str(error)


def post(address: str, body: dict | bytes, kind: str = "application/json") -> list[dict] | str:
    """Post a request to a server; return the predictions, or the error message of a status 400."""
    data = json.dumps(body) if isinstance(body, dict) else body
    answer = requests.post(f"{address}/invocations", data, headers={"Content-Type": kind}, timeout=300)
    if answer.ok:
        return answer.json()["predictions"]
    assert answer.status_code == 400
    assert "stack_trace" not in answer.json()
    assert "Traceback" not in answer.text
    return answer.json()["message"]
