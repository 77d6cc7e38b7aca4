"""Several runs of a repository at the same time: real DVC processes, and a stage that waits for a file."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from project import ROOT, wait_until

from metashot.errors import MetashotError
from metashot.project import dvc, locks, make
from metashot.project.attempts import StageInterrupted

DVC_YAML = """
stages:
  slow:
    cmd: echo x >> ran; touch begun; while [ ! -e go ]; do sleep 0.05; done; cat input > out
    deps: [input]
    outs: [out]
"""
OURS, TYPED = [sys.executable, "-m", "metashot.project.dvc", "repro"], [sys.executable, "-m", "dvc", "repro"]


class Runs:
    """A repository of one stage, and processes that make it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=root, check=True)
        (root / "dvc.yaml").write_text(DVC_YAML)
        (root / "input").write_text("content")

    def start(self, command: list[str], **options: bool) -> subprocess.Popen[str]:
        """Start a process in the repository."""
        return subprocess.Popen(
            command,
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def start_stage(self, command: list[str]) -> subprocess.Popen[str]:
        """Start a process in a group of its own, and wait until the stage runs."""
        process = self.start(command, start_new_session=True)
        wait_until((self.root / "begun").exists)
        return process


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


@pytest.mark.parametrize("first", [OURS, TYPED], ids=["ours", "typed"])
def test_a_second_run_waits_for_the_first_and_finds_it_made(first: list[str], runs: Runs) -> None:
    holder = runs.start_stage(first)
    second = runs.start(OURS)
    assert second.stderr is not None
    line = second.stderr.readline()
    assert line == f"waiting for process {holder.pid} ({'--wait-for-lock ' * (first == OURS)}repro), " + (
        "which makes stages of this repository\n"
    )
    (runs.root / "go").touch()
    assert holder.communicate(timeout=300) and holder.returncode == 0
    written, errors = second.communicate(timeout=300)
    assert (second.returncode, errors) == (0, "")
    assert "didn't change" in written
    assert (runs.root / "ran").read_text() == "x\n"


def test_a_killed_run_stops_no_later_one(runs: Runs) -> None:
    holder = runs.start_stage(OURS)
    os.killpg(holder.pid, signal.SIGKILL)
    holder.communicate()
    rwlock = runs.root / ".dvc/tmp/rwlock"
    assert str(holder.pid) in rwlock.read_text()
    # by now its number is that of a process other than DVC, as after a restart of a container
    rwlock.write_text(rwlock.read_text().replace(str(holder.pid), str(os.getppid())))
    (runs.root / "go").touch()
    done = runs.start(OURS)
    written, errors = done.communicate(timeout=300)
    assert (done.returncode, errors) == (0, ""), written
    assert (runs.root / "out").read_text() == "content"


def test_a_stage_of_the_flow_waits_as_well(runs: Runs) -> None:
    holder = runs.start_stage(TYPED)
    code = (
        "from pathlib import Path; from metashot.project import dvc, make;"
        "make.make(Path(), 'slow', echo=print); print(dvc.status(Path()))"
    )
    flow = runs.start([sys.executable, "-u", "-c", code])
    assert flow.stdout is not None
    line = next(line for line in flow.stdout if line.startswith("waiting"))
    assert line == f"waiting for process {holder.pid} (repro), which makes stages of this repository\n"
    (runs.root / "go").touch()
    holder.communicate(timeout=300)
    written, errors = flow.communicate(timeout=300)
    assert (flow.returncode, errors) == (0, ""), written
    assert written.endswith("{}\n")
    assert (runs.root / "ran").read_text() == "x\n"


def test_dvc_is_not_given_parameters_that_it_would_not_survive(runs: Runs) -> None:
    (runs.root / "params.yaml").write_text("[" * 100_000)
    done = runs.start(OURS)
    assert done.communicate(timeout=300)[1].startswith("error: params.yaml: line 1: more than 30 nested")
    assert done.returncode == 1
    with pytest.raises(MetashotError, match=r"params.yaml: line 1: more than 30"):
        dvc.graph(runs.root)


def test_locks_of_the_living_stay(tmp_path: Path) -> None:
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "dvc"])
    words = Path(f"/proc/{process.pid}/cmdline")
    wait_until(lambda: b"dvc" in words.read_bytes())  # a moment after the process has begun
    info, dead = {"pid": process.pid, "cmd": "dvc repro"}, {"pid": 2**22 + 1, "cmd": "dvc repro"}
    rwlock = tmp_path / ".dvc/tmp/rwlock"
    rwlock.write_text(
        json.dumps({"write": {"/a": info, "/b": dead}, "read": {"/c": [dead], "/d": [dead, info]}})
    )
    assert locks.busy_processes(tmp_path) == {process.pid: "dvc repro"}
    assert json.loads(rwlock.read_text()) == {"write": {"/a": info}, "read": {"/d": [info]}}
    process.kill()
    process.wait()
    assert locks.busy_processes(tmp_path) == {}
    assert json.loads(rwlock.read_text()) == {"write": {}, "read": {}}


def test_a_damaged_lock_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    (tmp_path / ".dvc/tmp/rwlock").write_text('{"write": {')
    with pytest.raises(MetashotError, match=r"rwlock is damaged: delete it once no DVC runs here$"):
        locks.busy_processes(tmp_path)


WORK = """
import time
from pathlib import Path
from stages import read_params, run

def main():
    seed = read_params("seed", int)
    Path("begun").touch()
    while not Path("go").exists():
        time.sleep(0.05)
    Path("out").write_text(f"{Path('first').read_text()} {seed}")

if __name__ == "__main__":
    run(main)
"""


def test_a_stage_whose_inputs_changed_is_made_again_with_all_that_it_needs(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (runs.root / "work.py").write_text(WORK)
    (runs.root / "params.yaml").write_text("seed: 1\n")
    (runs.root / "dvc.yaml").write_text(
        "stages:\n"
        "  first: {cmd: grep seed params.yaml > first, params: [seed], deps: [work.py], outs: [first]}\n"
        "  work: {cmd: python work.py, params: [seed], deps: [work.py, first], outs: [out]}\n"
    )
    make.make(runs.root, "first", echo=print)
    with ThreadPoolExecutor() as pool:
        made = pool.submit(make.make, runs.root, "work", echo=print)
        wait_until((runs.root / "begun").exists)
        (runs.root / "params.yaml").write_text("seed: 2\n")
        (runs.root / "go").touch()
        with pytest.raises(StageInterrupted, match=r"^params.yaml: seed changed while the stage ran"):
            made.result(timeout=300)
    assert not (runs.root / "out").exists()
    make.make(runs.root, "work", echo=print)
    assert (runs.root / "out").read_text() == "seed: 2\n 2"
    assert dvc.status(runs.root) == {}
