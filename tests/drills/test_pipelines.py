"""Flows that are killed, stopped, doubled, locked out or left by their server, as real processes.

After each drill the training has the weights of an undisturbed one, and nothing was trained twice.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from project import Project, wait_until

from metashot.files import md5
from metashot.lineage.lockfile import Lock
from metashot.project.attempts import read_status

STEPS = 150  # long enough to be disturbed, on any machine
TARGET = "train@glyphs-5w1s-maml"

pytestmark = pytest.mark.slow


class Drill:
    """A project whose one training is about to be made, by a flow."""

    def __init__(self, project: Project, expected: str) -> None:
        self.project, self.root, self.expected = project, project.root, expected
        self.model = project.root / "models/glyphs-5w1s/maml/model.safetensors"
        self.log = project.root / "flow.log"

    def start(self, **environment: str) -> subprocess.Popen[str]:
        """`metashot run` on the training, in a process group of its own."""
        command = ["metashot", "run", TARGET]
        with self.log.open("a") as log:
            return subprocess.Popen(
                command,
                cwd=self.root,
                env={**self.project.environment, **environment},
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def step(self) -> int:
        """How far the training is; -1 where none runs."""
        status = read_status(self.root, TARGET)
        return int(status.progress.get("step", 0)) if status and status.state == "running" else -1

    def half_way(self) -> None:
        wait_until(lambda: self.step() >= STEPS // 2)

    def finished(self) -> bool:
        """Whether the training is in dvc.lock, with the weights of an undisturbed one."""
        entry = Lock(self.root).entries.get(TARGET)
        return entry is not None and self.model.exists() and md5(self.model) == self.expected

    def attempts(self) -> int:
        """How often the training was started."""
        logs = (self.root / ".metashot/logs" / TARGET).glob("*.log")
        return sum("Running stage" in log.read_text() for log in logs)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, drawn: Project) -> Project:
    project = Project(tmp_path_factory.mktemp("project"), drawn)
    with project.params() as params:
        params["methods"] = ["maml"]
        params["data"]["glyphs"]["budget"]["maml"] = STEPS
    project.repro(TARGET)
    return project


@pytest.fixture(scope="module")
def undisturbed(project: Project) -> str:
    return md5(project.root / "models/glyphs-5w1s/maml/model.safetensors")


@pytest.fixture
def drill(project: Project, undisturbed: str) -> Iterator[Drill]:
    """The training is forgotten: its outputs, DVC's memory of it, checkpoints and logs."""
    lines = (project.root / "dvc.lock").read_text()
    start = lines.find(f"  {TARGET}:")
    if start >= 0:
        (project.root / "dvc.lock").write_text(lines[:start])
    for name in (".dvc/cache/runs", ".metashot", "models", "results", "records"):
        shutil.rmtree(project.root / name, ignore_errors=True)
    drill = Drill(project, undisturbed)
    assert not drill.finished()
    yield drill
    assert drill.project.processes() == {}
    assert not list(project.root.rglob("*.partial"))


def test_a_killed_flow_leaves_dvc_to_finish(drill: Drill) -> None:
    flow = drill.start()
    drill.half_way()
    flow.kill()
    flow.wait()
    wait_until(lambda: drill.project.processes(servers=True) == {})
    assert drill.finished()
    assert drill.start().wait() == 0
    assert drill.attempts() == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_flow_leaves_a_checkpoint_and_no_process(number: signal.Signals, drill: Drill) -> None:
    flow = drill.start()
    drill.half_way()
    # As Ctrl-C does it, to all in the terminal's foreground, and `kill` to one
    (os.killpg if number == signal.SIGINT else os.kill)(flow.pid, number)
    assert flow.wait(timeout=60) == 128 + number
    assert drill.project.processes(servers=True) == {}
    assert read_status(drill.root, TARGET).state == "preempted"
    assert not drill.finished()
    assert list((drill.root / ".metashot/checkpoints" / TARGET).iterdir())
    assert drill.start().wait() == 0
    assert drill.finished()
    record = json.loads((drill.root / "records/train/glyphs-5w1s/maml/record.json").read_text())
    assert record["resumed"][0] >= STEPS // 2


def test_of_two_flows_at_once_one_trains_and_both_end_well(drill: Drill) -> None:
    flows = [drill.start(), drill.start()]
    assert [flow.wait() for flow in flows] == [0, 0]
    assert drill.finished()
    assert drill.attempts() == 1


def test_a_lock_held_at_the_end_of_a_training_costs_nothing_but_time(drill: Drill) -> None:
    flow = drill.start()
    drill.half_way()
    hold = "import sys, time; from dvc.repo import Repo\nwith Repo().lock: time.sleep(10)"
    holder = drill.project.start(sys.executable, "-c", hold)
    assert holder.wait() == 0
    assert flow.wait() == 0
    assert drill.finished()
    assert drill.attempts() == 1


def test_a_preempted_training_goes_on_from_its_checkpoint_in_the_same_flow(drill: Drill) -> None:
    flow = drill.start()
    drill.half_way()
    os.kill(read_status(drill.root, TARGET).pid, signal.SIGTERM)
    assert flow.wait() == 0
    assert drill.finished()
    assert drill.attempts() == 2


def test_a_server_that_dies_and_comes_back_loses_nothing(drill: Drill, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}/api"

    def serve() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
        server = subprocess.Popen(
            [*command, "--port", str(port), "--no-ui"],
            env={**os.environ, "PREFECT_HOME": str(tmp_path)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        wait_until(lambda: answers(f"{address}/health"))
        return server

    server = serve()
    try:
        flow = drill.start(PREFECT_API_URL=address)
        drill.half_way()
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        time.sleep(5)
        server = serve()
        assert flow.wait() == 0
        assert drill.finished()
        assert drill.attempts() == 1
        assert f"Prefect: the server at {address}" in drill.log.read_text()
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
