"""The status and the lock of a stage, with real processes of a small stage."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from project import ROOT, wait_until

from metashot.project.attempts import Attempt, Status, read_status

STAGE = """
import sys, time
from pathlib import Path
from metashot.errors import MetashotError
from metashot.files import replacing
from stages import run

def main(what, *, attempt):
    attempt.tell({"step": 1, "steps": 3})
    Path("begun-" + what).touch()
    if what == "mistake":
        raise MetashotError("width: too wide: lower it")
    if what == "memory":
        import numpy
        numpy.zeros(2**60, numpy.uint8)
    if what == "network":
        import torch
        torch.empty(2**60, dtype=torch.uint8)
    if what == "bug":
        raise ValueError("in two\\nlines")
    while what == "wait" and not Path("go").exists():
        time.sleep(0.05)
    with replacing(Path("output")) as partial:
        partial.write_text("half")
        while what == "write" and not Path("go").exists():
            try:
                time.sleep(0.05)
            except Exception:  # as a careless library might: a signal has to get through this
                pass
        partial.write_text("whole")

if __name__ == "__main__":
    run(main)
"""


class Stage:
    """A stage of its own in a folder, and processes that run it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "work.py").write_text(STAGE)

    def start(self, what: str) -> subprocess.Popen[str]:
        """Start a process that does ``what``."""
        return subprocess.Popen(
            [sys.executable, "work.py", what],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start_and_wait(self, what: str) -> subprocess.Popen[str]:
        """Start a process, and wait until the stage runs."""
        process = self.start(what)
        wait_until((self.root / f"begun-{what}").exists)
        return process

    def status(self, what: str) -> Status:
        status = read_status(self.root, f"work@{what}")
        assert status is not None
        return status


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


@pytest.mark.parametrize(
    ("what", "code", "state", "reason"),
    [
        ("well", 0, "ok", ""),
        ("mistake", 1, "failed", "width: too wide: lower it"),
        ("bug", 1, "failed", "ValueError: in two lines"),
    ],
)
def test_the_status_tells_how_a_stage_ended(
    what: str, code: int, state: str, reason: str, stage: Stage
) -> None:
    before = time.time()
    process = stage.start(what)
    _, errors = process.communicate()
    assert process.returncode == code
    status = stage.status(what)
    assert (status.state, status.reason, status.pid) == (state, reason, process.pid)
    assert before < status.started < time.time()
    assert 0 < status.seconds < time.time() - before
    assert status.progress == {"step": 1, "steps": 3}
    assert ("Traceback" in errors) == (what == "bug")
    assert (errors == f"error: {reason}\n") == (what == "mistake")


@pytest.mark.parametrize("what", ["memory", "network"])
def test_a_lack_of_memory_is_one_line(what: str, stage: Stage) -> None:
    process = stage.start(what)
    _, line = process.communicate()
    assert (process.returncode, line.count("\n"), stage.status(what).state) == (1, 1, "failed")
    assert line.startswith("error: out of memory: make network, samples or episodes smaller (")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_preempts_a_stage_and_its_old_output_stays(number: signal.Signals, stage: Stage) -> None:
    (stage.root / "output").write_text("earlier")
    process = stage.start_and_wait("write")  # a stage that swallows every Exception
    wait_until((stage.root / ".output.partial").exists)
    assert stage.status("write").state == "running"
    process.send_signal(number)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 75
    assert errors == f"preempted: stopped by {number.name}: run again\n"
    assert stage.status("write").state == "preempted"
    assert stage.status("write").reason == f"stopped by {number.name}: run again"
    assert (stage.root / "output").read_text() == "earlier"
    assert not (stage.root / ".output.partial").exists()


def test_a_killed_stage_reads_as_crashed(stage: Stage) -> None:
    process = stage.start_and_wait("wait")
    assert stage.status("wait").state == "running"
    process.kill()
    process.communicate()
    status = stage.status("wait")
    assert (status.state, status.reason) == ("crashed", "killed without reporting why")
    assert status.progress == {"step": 1, "steps": 3}


@pytest.mark.parametrize("killed", [False, True], ids=["ended", "killed"])
def test_a_second_process_of_a_stage_waits_for_the_first(killed: bool, stage: Stage) -> None:
    first = stage.start_and_wait("wait")
    second, other = stage.start("wait"), stage.start("well")
    assert second.stderr is not None
    assert (
        second.stderr.readline() == f"work@wait: waiting for process {first.pid}, which is still making it\n"
    )
    assert stage.status("wait").pid == first.pid
    other.communicate()
    assert stage.status("well").state == "ok"  # another stage need not wait
    assert second.poll() is None
    if killed:
        first.kill()
        first.communicate()
        wait_until(lambda: stage.status("wait").pid == second.pid)
    (stage.root / "go").touch()
    first.communicate()
    second.communicate()
    status = stage.status("wait")
    assert (status.state, status.pid) == ("ok", second.pid)


def test_who_waits_can_be_stopped_and_says_nothing_of_the_other(stage: Stage) -> None:
    first = stage.start_and_wait("wait")
    second = stage.start("wait")
    assert second.stderr is not None
    second.stderr.readline()
    second.terminate()
    second.communicate(timeout=300)
    assert second.returncode == 75
    status = stage.status("wait")
    assert (status.state, status.pid) == ("running", first.pid)
    first.kill()
    first.communicate()


def test_reading_a_status_leaves_no_trace_and_never_fails(tmp_path: Path) -> None:
    assert read_status(tmp_path, "check") is None
    assert list(tmp_path.iterdir()) == []
    with Attempt(tmp_path, "check"):
        status = read_status(tmp_path, "check")
        assert status is not None
        assert status.state == "running"
    path = tmp_path / ".metashot/stages/check.json"
    assert json.loads(path.read_text())["state"] == "ok"
    path.write_text("")  # as a loss of power may leave it
    assert read_status(tmp_path, "check") is None


def test_a_name_with_a_slash_leads_nowhere(stage: Stage) -> None:
    process = stage.start("../x")
    _, errors = process.communicate()
    assert (process.returncode, errors) == (1, "error: usage: python -m stages.work WHAT\n")
    assert not (stage.root / ".metashot").exists()


def test_checkpoints_of_other_keys_of_the_stage_are_removed(tmp_path: Path) -> None:
    with Attempt(tmp_path, "train@a") as attempt, Attempt(tmp_path, "train@b") as other:
        kept, foreign = attempt.checkpoint("old"), other.checkpoint("old")
        for path in (kept, foreign):
            path.parent.mkdir(parents=True)
            path.touch()
        assert attempt.checkpoint("old") == kept
        assert kept.exists()
        new = attempt.checkpoint("new")
        assert not kept.exists()
        assert foreign.exists()
        assert new.parent == kept.parent == tmp_path / ".metashot/checkpoints/train@a"


def test_the_module_is_light_to_import() -> None:
    slow = "{'torch', 'pydantic', 'mlflow'}"
    code = f"import sys; import metashot.project.attempts; print({slow} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
