"""Publishing to a real MLflow server: two at once, one that dies, and the server that goes away."""

import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import synthetic
from mlflow import MlflowClient
from project import wait_until
from shown import snapshot

from metashot import untrusted
from metashot.errors import MetashotError
from metashot.registry import publish, tracking, versions

pytestmark = pytest.mark.slow


class Server:
    """An MLflow server on loopback, which can be killed and started again on its database.

    Args:
        folder: For database and files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = str(free.getsockname()[1])
        self.address = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", self.port]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "files")]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "log").open("a") as log:
            options = {"cwd": self.folder, "env": environment, "stdout": log, "stderr": log}
            self.process = subprocess.Popen(command, start_new_session=True, **options)
        wait_until(self.answers)

    def answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            return requests.get(f"{self.address}/health", timeout=10).ok
        except requests.ConnectionError:
            return False

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    (server.folder / "mlflow.db").write_bytes(synthetic.database())
    server.start()
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def at_server(server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)


def told(root: Path, ds: str) -> Path:
    """Two results of one method in two commits, of a data set that no other test publishes."""
    synthetic.make(root, {"matching": 0.9}, ds=ds)
    synthetic.version(root)
    synthetic.commit(root, "first")
    synthetic.train(root, "matching", 0.95, ds=ds)
    synthetic.judge(root, ds)
    synthetic.commit(root, "again")
    return root


def undisturbed(root: Path, target: Path, group: str, monkeypatch: pytest.MonkeyPatch) -> dict:
    """What the repository looks like in a database of its own, published at once."""
    shutil.copytree(root, target)
    synthetic.give_database(target)
    with monkeypatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI")
        publish.publish_all(target)
    return snapshot(target, group)


def publish_to(address: str, root: Path) -> None:
    """In a process of a fork server, whose environment may be that of an earlier test."""
    os.environ["MLFLOW_TRACKING_URI"] = address
    publish.publish_all(root)


def test_two_clones_at_once_make_everything_once(server, tmp_path, monkeypatch):
    root = told(tmp_path / "one", "glyphs")
    shutil.copytree(root, tmp_path / "two")
    expected = undisturbed(root, tmp_path / "undisturbed", "glyphs-5w1s", monkeypatch)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["metashot.publishing"])  # imported once, not twice
    clones = tmp_path / "one", tmp_path / "two"
    publishers = [context.Process(target=publish_to, args=(server.address, clone)) for clone in clones]
    for publisher in publishers:
        publisher.start()
    for publisher in publishers:
        publisher.join(timeout=120)
    assert [publisher.exitcode for publisher in publishers] == [0, 0]
    assert snapshot(server.address, "glyphs-5w1s") == expected
    assert len(expected["versions"]) == 2
    assert len(expected["runs"]) == 4  # and two comparisons


def test_files_are_fetched_from_a_server_whole_and_not_in_any_number(tmp_path, monkeypatch):
    root = told(tmp_path / "repository", "omniglotfetched")
    publish.publish_all(root)

    def version(client: MlflowClient) -> versions.Registered:
        return versions.resolve(client, "omniglotfetched-5w1s/1")

    with tracking.connect(root) as client:
        fetched = version(client)
        assert fetched.lineage.dataset == "omniglotfetched"
        weights = root / "models/omniglotfetched-5w1s/matching/model.json"
        assert (fetched.folder / "artifacts/model.json").read_bytes() == weights.read_bytes()
        assert (fetched.folder / "registered_model_meta").exists()
        monkeypatch.setattr(untrusted, "ENTRIES", 5)
        with pytest.raises(MetashotError, match="holds more than 5 files"):
            _ = version(client).folder
        monkeypatch.setattr(versions, "DOWNLOAD", 100)
        with pytest.raises(MetashotError, match="files or 100 bytes"):
            _ = version(client).lineage


HOLDER = """
import sys, time
from pathlib import Path
from metashot.registry import tracking, versions
tracking.BEAT = 0.2
with tracking.publishing(Path(sys.argv[1])):
    Path(sys.argv[2]).touch()
    time.sleep(600)
"""


def test_a_publisher_is_waited_for_while_it_lives_and_replaced_when_it_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "DEAD", 3.0)
    held, entered = tmp_path / "held", threading.Event()
    environment = {**os.environ, "PYTHONPATH": str(synthetic.ROOT)}
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path), str(held)], env=environment)

    def wait() -> None:
        with tracking.publishing(tmp_path):
            entered.set()

    waiter = threading.Thread(target=wait)
    try:
        wait_until(held.exists)
        waiter.start()
        time.sleep(6)
        assert not entered.is_set()
    finally:
        holder.kill()
        holder.wait()
    assert entered.wait(60)
    waiter.join()
    with tracking.publishing(tmp_path) as client:  # it was given back
        names = [model.name for model in client.search_registered_models()]
    assert [name for name in names if name.startswith(tracking.LEASE)] == [tracking.LEASE]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "times"),
    [("create_run", 2), ("log_model_artifacts", 1), ("create_model_version", 1), ("set_tag", 4)],
)
def test_a_server_killed_midway_and_back_again_is_completed(server, tmp_path, monkeypatch, step, times):
    monkeypatch.setattr(tracking, "DEAD", 2.0)
    monkeypatch.setattr(tracking, "BEAT", 0.5)
    ds = f"omniglot{step.replace('_', '')}"
    root = told(tmp_path / "repository", ds)
    expected = undisturbed(root, tmp_path / "undisturbed", f"{ds}-5w1s", monkeypatch)
    done, calls = getattr(publish.MlflowClient, step), []

    def kills(*args, **kwargs):
        made = done(*args, **kwargs)
        calls.append(step)
        if len(calls) == times:
            server.kill()
        return made

    with monkeypatch.context() as patch:
        patch.setattr(publish.MlflowClient, step, kills)
        with pytest.raises(MetashotError, match=r"MLflow at .* failed; run `metashot publish`"):
            publish.publish_all(root)
    server.start()
    publish.publish_all(root)
    assert snapshot(server.address, f"{ds}-5w1s") == expected
