"""Registered models behind MLflow's server, and a task for them."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
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
from project import wait_until

GROUP = "glyphs-5w1s"


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
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
    """Addresses of MLflow's servers of models of a repository, each under its name."""
    bin_folder = str(Path(sys.executable).parent)
    environment = {
        **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        "MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlruns/mlflow.db",
        "PATH": os.pathsep.join([bin_folder, os.environ["PATH"]]),
    }
    servers, addresses = [], {}
    try:
        for name, uri in models.items():
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = str(free.getsockname()[1])
            command = ["mlflow", "models", "serve", "--model-uri", uri]
            command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", port]
            with (folder / f"{name}.log").open("w") as log:
                options = {"cwd": folder, "env": environment, "start_new_session": True}
                servers.append(subprocess.Popen(command, stdout=log, stderr=log, **options))
            addresses[name] = f"http://127.0.0.1:{port}"
        for address in addresses.values():
            wait_until(lambda address=address: answers(address, servers, folder))
        yield addresses
    finally:
        for server in servers:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()


def answers(address: str, servers: list[subprocess.Popen], folder: Path) -> bool:
    logs = [log.read_text() for log in folder.glob("*.log")]
    assert all(server.poll() is None for server in servers), "\n".join(logs)
    try:
        return requests.get(f"{address}/ping", timeout=10).ok
    except requests.ConnectionError:
        return False


def ask(model: mlflow.pyfunc.PyFuncModel | str, rows: list, columns=COLUMNS) -> list[dict] | str:
    """The rows of the answer, or the message of the error, of a model or of the server at an address."""
    if isinstance(model, str):
        as_json = [[base64.b64encode(x).decode() if isinstance(x, bytes) else x for x in row] for row in rows]
        return post(model, {"dataframe_split": {"columns": list(columns), "data": as_json}})
    try:
        return model.predict(pd.DataFrame(rows, columns=list(columns))).to_dict("records")
    except MlflowException as error:
        return str(error)


def post(address: str, body: dict | bytes, kind: str = "application/json") -> list[dict] | str:
    data = json.dumps(body) if isinstance(body, dict) else body
    answer = requests.post(f"{address}/invocations", data, headers={"Content-Type": kind}, timeout=60)
    if answer.ok:
        return answer.json()["predictions"]
    assert answer.status_code == 400
    assert "stack_trace" not in answer.json()
    assert "Traceback" not in answer.text
    return answer.json()["message"]
