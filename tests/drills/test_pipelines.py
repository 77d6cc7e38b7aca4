"""Flows that are killed, stopped, started twice, locked out or left by their server, as real processes.

After each drill the training has the weights of an undisturbed one, and nothing was trained twice.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from project import Project, wait_until
from servers import Server, free_port

from metashot.files import md5
from metashot.lineage.lockfile import Lock
from metashot.project.attempts import read_status

STEPS = 150  # long enough to be disturbed, on any machine
TARGET = "train@glyphs-5w1s-maml"

pytestmark = pytest.mark.slow


class Drill:
    """A project whose only training has not been made, and flows that make it."""

    def __init__(self, project: Project, expected: str) -> None:
        self.project, self.root, self.expected = project, project.root, expected
        self.model = project.root / "models/glyphs-5w1s/maml/model.safetensors"
        self.log = project.root / "flow.log"

    def start(self, **environment: str) -> subprocess.Popen[str]:
        """Start `metashot run` on the training, in a process group of its own."""
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
        """The step that the training has logged last; -1 if it does not run."""
        status = read_status(self.root, TARGET)
        return int(status.progress.get("step", 0)) if status and status.state == "running" else -1

    def wait_until_half_way(self) -> None:
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
    project = drawn.copy(tmp_path_factory.mktemp("project"))
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
    """A drill after the training was removed: outputs, DVC's entries of it, checkpoints and logs."""
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
    drill.wait_until_half_way()
    flow.kill()
    flow.wait()
    wait_until(lambda: drill.project.processes(servers=True) == {})
    assert drill.finished()
    assert drill.start().wait() == 0
    assert drill.attempts() == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_flow_leaves_a_checkpoint_and_no_process(number: signal.Signals, drill: Drill) -> None:
    flow = drill.start()
    drill.wait_until_half_way()
    # As Ctrl-C does it, to all in the terminal's foreground, and `kill` to one
    (os.killpg if number == signal.SIGINT else os.kill)(flow.pid, number)
    assert flow.wait(timeout=300) == 128 + number
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
    drill.wait_until_half_way()
    hold = (
        "import os, time; from dvc.repo import Repo\n"
        "with Repo().lock:\n while not os.path.exists('release'): time.sleep(0.1)"
    )
    holder = drill.project.start(sys.executable, "-c", hold)
    wait_until(lambda: read_status(drill.root, TARGET).state == "ok")
    (drill.root / "release").touch()
    assert holder.wait() == 0
    (drill.root / "release").unlink()
    assert flow.wait() == 0
    assert drill.finished()
    assert drill.attempts() == 1


def test_a_preempted_training_goes_on_from_its_checkpoint_in_the_same_flow(drill: Drill) -> None:
    flow = drill.start()
    drill.wait_until_half_way()
    os.kill(read_status(drill.root, TARGET).pid, signal.SIGTERM)
    assert flow.wait() == 0
    assert drill.finished()
    assert drill.attempts() == 2


def test_a_server_that_dies_and_comes_back_loses_nothing(drill: Drill, tmp_path: Path) -> None:
    port = str(free_port())
    address = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path)}
    with Server(
        [*command, "--port", port, "--no-ui"], f"{address}/health", tmp_path / "log", env=environment
    ) as server:
        flow = drill.start(PREFECT_API_URL=address)
        drill.wait_until_half_way()
        server.stop()
        time.sleep(5)
        server.start()
        assert flow.wait() == 0
        assert drill.finished()
        assert drill.attempts() == 1
        assert f"Prefect: the server at {address}" in drill.log.read_text()
