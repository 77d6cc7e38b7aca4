"""Trainings that are killed, stopped, orphaned or run out of disk space, as real processes."""

import json
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from project import Project, wait_until

from metashot.files import md5
from metashot.project.attempts import Status, read_status

METHODS = ["prototypical", "maml", "reptile"]
STEPS = 24
# Added to the training: it waits in a step, before the step's checkpoint, for as long as a file exists
PAUSE = """

def _pause(step: int) -> None:
    while Path(f"pause-{step}").exists():
        Path("paused").touch()
        time.sleep(0.01)
"""

pytestmark = pytest.mark.slow


class Training:
    """The training of one cell of a project, and the outcome of an undisturbed one."""

    def __init__(self, project: Project, method: str) -> None:
        self.project, self.steps = project, STEPS
        self.command = ("python", "-m", "stages.train", "glyphs", "5w1s", method)
        self.address = f"train@glyphs-5w1s-{method}"
        self.model = project.root / f"models/glyphs-5w1s/{method}/model.safetensors"
        self.curve = project.root / f"results/glyphs-5w1s/{method}/curve.csv"
        self.records = project.root / f"records/train/glyphs-5w1s/{method}"
        self.checkpoints = project.root / f".metashot/checkpoints/{self.address}"
        self.log = project.root / "log"
        self.locked = (project.root / "dvc.lock").read_text()
        project.run(*self.command)
        self.expected = self.outcome()
        self.reset()

    def reset(self) -> None:
        """Remove all traces of attempts, in DVC too, and put a file of an earlier training in each output."""
        self.resume()
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        shutil.rmtree(self.project.root / ".dvc/cache/runs", ignore_errors=True)
        (self.project.root / "dvc.lock").write_text(self.locked)
        self.log.unlink(missing_ok=True)
        for path in (self.model, self.curve, self.records / "record.json"):
            shutil.rmtree(path.parent)
            path.parent.mkdir(parents=True)
            path.write_text("earlier")

    def outcome(self) -> tuple[str, str]:
        return md5(self.model), md5(self.curve)

    def untouched(self) -> bool:
        """Whether all outputs are the earlier ones, and nothing lies beside them."""
        outputs = (self.model, self.curve, self.records / "record.json")
        return all(path.read_text() == "earlier" for path in outputs) and not self.partial(
            "models", "results", "records"
        )

    def partial(self, *folders: str) -> list[Path]:
        """Half-written files."""
        return [path for folder in folders for path in (self.project.root / folder).rglob("*.partial")]

    def status(self) -> Status:
        status = read_status(self.project.root, self.address)
        assert status is not None
        return status

    def start(self, *command: str, **options: object) -> subprocess.Popen[str]:
        """Start a command, by default the training; its output goes to the log."""
        with self.log.open("a") as file:
            return self.project.start(
                *(command or self.command), **{"stdout": file, "stderr": file} | options
            )

    def start_paused(self, step: int, *command: str, **options: object) -> subprocess.Popen[str]:
        """Start a command, and wait until the training that it is, or runs, pauses at the end of a step."""
        (self.project.root / f"pause-{step}").touch()
        process = self.start(*command, **options)

        def paused() -> bool:
            assert process.poll() is None, self.log.read_text()
            return (self.project.root / "paused").exists()

        wait_until(paused)
        return process

    def resume(self) -> None:
        """Let a paused training go on."""
        for path in (*self.project.root.glob("pause-*"), self.project.root / "paused"):
            path.unlink(missing_ok=True)

    def resumed(self) -> list[int]:
        """The steps at which it was resumed, by its record."""
        steps: list[int] = json.loads((self.records / "record.json").read_text())["resumed"]
        return steps


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, drawn: Project) -> Project:
    """Data and episodes are made; a training writes a checkpoint after every step, and can be paused."""
    project = drawn.copy(tmp_path_factory.mktemp("project"))
    module = project.root / "metashot/learning/training.py"
    text = module.read_text()
    for old, new in (
        ("CHECKPOINT_SECONDS = 30.0", "CHECKPOINT_SECONDS = 0.0"),
        ("bar.update()", "_pause(progress.step)"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    module.write_text(text + PAUSE)
    with project.params() as params:
        params["methods"] = METHODS
        params["data"]["glyphs"]["budget"] = dict.fromkeys(METHODS, STEPS)
        params["data"]["glyphs"]["backbone"] |= {"downsample": "stride", "width": 16}
        params["method"]["maml"] |= {"meta_batch": 1}
        params["method"]["reptile"] |= {"meta_batch": 1}
    project.repro("episodes@glyphs-5w1s")
    return project


@pytest.fixture(scope="module")
def trainings(project: Project) -> dict[str, Training]:
    return {}


@pytest.fixture
def training(request: pytest.FixtureRequest, project: Project, trainings: dict) -> Training:
    """Of the method that the test names."""
    method = getattr(request, "param", "prototypical")
    if method not in trainings:
        trainings[method] = Training(project, method)
    trainings[method].reset()
    return trainings[method]


@pytest.mark.parametrize("training", METHODS, indirect=True)
def test_stopped_then_killed_it_ends_with_the_same_bits(training: Training) -> None:
    process = training.start_paused(8)
    process.terminate()
    training.resume()
    assert process.wait(timeout=300) == 75
    assert training.status().state == "preempted"
    stopped = training.log.read_text().splitlines()[-1]
    assert stopped.startswith("preempted: training stopped by SIGTERM at step ")
    assert stopped == f"preempted: {training.status().reason}"
    assert training.untouched()

    process = training.start_paused(16)
    process.kill()
    process.wait()
    training.resume()
    assert training.status().state == "crashed"
    assert training.untouched()

    training.project.run(*training.command)
    assert training.status().state == "ok"
    assert training.outcome() == training.expected
    assert not training.partial(".")
    assert training.resumed() == [8, 15]
    assert f"at step 8 of {training.steps}: run again to go on from step 8" in stopped
    steps = [json.loads(line)["step"] for line in (training.records / "journal.jsonl").open()]
    assert steps == list(range(training.steps + 1))


def test_dvc_signalled_with_its_group_goes_on_next_time(training: Training) -> None:
    process = training.start_paused(12, "dvc", "repro", "-s", training.address)
    os.killpg(process.pid, signal.SIGTERM)
    training.resume()
    process.wait()
    wait_until(lambda: training.status().state == "preempted")
    assert training.project.repro("-s", training.address) == [training.address]
    assert training.outcome() == training.expected
    assert training.resumed() == [12]


def test_an_orphan_is_waited_for_and_its_result_taken(training: Training) -> None:
    command = "dvc", "repro", "-s", training.address
    process = training.start_paused(8, *command, stdout=subprocess.PIPE)
    process.kill()  # DVC alone; its training goes on
    assert process.stdout is not None
    process.stdout.close()  # from now on nobody reads the training's output
    process.wait()
    orphan = training.status()
    assert orphan.state == "running"
    again = training.start(*command)
    waiting = f"{training.address}: waiting for process {orphan.pid}, which is still making it"
    wait_until(lambda: waiting in training.log.read_text())
    training.resume()
    assert again.wait() == 0
    assert training.status().state == "ok"
    assert training.status().pid != orphan.pid
    assert training.outcome() == training.expected
    assert training.resumed() == [training.steps]


@pytest.fixture
def tmpfs() -> Iterator[Callable[[Path, int], None]]:
    """A function that mounts a file system of some KiB on a folder."""
    mounted: list[Path] = []

    def mount(folder: Path, kib: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"needs the right to mount a tmpfs: {error}")
        mounted.append(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


def limited(size: int) -> Callable[[], None]:
    """Return a ``preexec_fn`` that limits the files of a process to ``size`` bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_full_disk_under_the_checkpoints_ends_no_training(training: Training, tmpfs: Callable) -> None:
    tmpfs(training.checkpoints, 4)
    done = training.project.run(*training.command)
    assert "warning: no checkpoint written, the training goes on without (" in done.stderr
    assert "No space left on device" in done.stderr
    assert training.status().state == "ok"
    assert training.outcome() == training.expected
    assert list(training.checkpoints.iterdir()) == []


def test_a_file_limit_keeps_the_earlier_checkpoint_and_ends_no_training(training: Training) -> None:
    process = training.start_paused(8)
    process.terminate()
    training.resume()
    process.wait()
    (checkpoint,) = training.checkpoints.iterdir()
    kept, model = checkpoint.read_bytes(), 33_000
    assert len(kept) > 2 * model
    process = training.start_paused(16, preexec_fn=limited(model))
    process.terminate()
    training.resume()
    assert process.wait() == 75
    assert "File too large" in training.log.read_text()
    assert checkpoint.read_bytes() == kept
    assert "run again to go on from step" in training.status().reason
    training.project.run(*training.command)
    assert training.outcome() == training.expected
    assert training.resumed() == [8]


def test_a_full_disk_under_an_output_is_one_line_and_no_work_is_lost(
    training: Training, tmpfs: Callable
) -> None:
    models = training.model.parent.parent
    tmpfs(models, 12)
    folder = training.model.relative_to(training.project.root).parent
    done = training.project.run(*training.command, ok=False)
    reason = f"{folder}: cannot be written (No space left on device): free space and run again"
    assert done.returncode == 1
    assert done.stderr == f"error: {reason}\n"
    assert (training.status().state, training.status().reason) == ("failed", reason)
    assert list(models.iterdir()) == []
    subprocess.run(["mount", "-o", "remount,size=1m", str(models)], check=True)
    training.project.run(*training.command)
    assert training.outcome() == training.expected
    assert training.resumed() == [training.steps]  # nothing was trained again


@pytest.mark.parametrize("limit", [28_000])  # between the index of git and the model
def test_a_file_limit_on_an_output_is_one_line(limit: int, training: Training) -> None:
    with training.log.open("w") as file:
        process = training.start(preexec_fn=limited(limit), stderr=file)
        assert process.wait() == 1
    lines = training.log.read_text().splitlines()
    assert lines[-1].startswith("error: models/glyphs-5w1s/prototypical: cannot be written (File too large)")
    assert training.untouched()
