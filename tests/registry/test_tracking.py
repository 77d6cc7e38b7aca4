"""The way to MLflow: its address, a repository that moves, one publisher at a time on a server."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest
import requests
import synthetic
from project import wait_until
from shown import client_of, snapshot

from metashot.registry import publish, tracking, versions

GROUP = "glyphs-5w1s"


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_relative_database_paths_belong_to_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    assert tracking.tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///elsewhere.db")
    assert tracking.tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/elsewhere.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert tracking.tracking_uri(tmp_path) == "http://tracking:5000"


def test_a_repository_that_moved_shows_its_files_from_the_new_place(tmp_path):
    before = synthetic.make(tmp_path / "before", {"matching": 0.9})
    synthetic.give_database(before)
    publish.publish_all(before)
    seen, after = snapshot(before), tmp_path / "a new place"
    (tmp_path / "before").rename(after)
    assert publish.publish_all(after)[0].added == 0
    assert snapshot(after) == seen
    client = client_of(after)
    version = versions.resolve(client, GROUP)
    assert version.folder.is_relative_to(after)
    assert json.loads((version.folder / "MLmodel").read_text())["model_id"] == version.model.model_id
    assert version.lineage.method == "matching"
    assert version.model.artifact_location == version.entry.source


def test_the_ui_of_a_repository_that_moved_serves_its_files(tmp_path):
    before = synthetic.make(tmp_path / "before", {"matching": 0.9})
    synthetic.give_database(before)
    publish.publish_all(before)
    (run,) = (r.info.run_id for r in client_of(before).search_runs(["1"]) if r.info.run_name == "matching")
    after = tmp_path / "after"
    before.rename(after)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", "from metashot.cli import app; app()", "ui", "--port", port]
    environment = {**os.environ, "PYTHONPATH": str(synthetic.ROOT)}
    with (tmp_path / "log").open("w") as log:
        # from a folder inside it, as a person may
        options = {"cwd": after / "models", "env": environment, "stdout": log, "stderr": log}
        server = subprocess.Popen(command, start_new_session=True, **options)
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert server.poll() is None, (tmp_path / "log").read_text()
        try:
            return requests.get(f"{address}/health", timeout=10).ok
        except requests.ConnectionError:
            return False

    try:
        wait_until(answers)
        got = requests.get(f"{address}/get-artifact", {"path": "lineage.json", "run_uuid": run}, timeout=30)
        assert got.json()["result"] == versions.resolve(client_of(after), GROUP).entry.tags["metashot.result"]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
