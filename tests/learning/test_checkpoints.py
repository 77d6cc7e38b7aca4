"""A training that was interrupted goes on as if it had not been."""

import os
import signal
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
import yaml
from test_learning import BACKBONE, FORM, draw, image_set

from metashot.errors import Preempted
from metashot.learning import checkpoints, training
from metashot.learning.models import methods, runtime
from metashot.learning.models.methods.base import Problem

METHODS = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())["method"]
PARAMS = {name: params for name, params in METHODS.items() if "lr" in params}  # those that are trained
STEPS = 20


def run(
    name: str, checkpoint: Path | None = None, terminate_in: int = 0
) -> tuple[dict[str, torch.Tensor], training.Progress]:
    """Train a small network; a SIGTERM comes in the middle of the n-th step that this call takes."""
    images, val = image_set(seed=0), image_set(seed=1)
    cls = methods.METHODS[name]
    params = cls.params_type(**PARAMS[name] | {"meta_batch": 2, "train_way": 5})
    with runtime.reproducible(0):
        method = cls(params, Problem(FORM, BACKBONE, 12))
        learn, taken = method.backward, []

        def backward(episodes: object) -> torch.Tensor:
            taken.append(episodes)
            if len(taken) == terminate_in:
                os.kill(os.getpid(), signal.SIGTERM)
            return learn(episodes)

        method.backward = backward
        progress = training.train(
            method,
            images,
            draw(images, episodes=30),
            val,
            draw(val, episodes=5),
            steps=STEPS,
            seed=3,
            log=lambda step, values: None,
            checkpoint=checkpoint,
        )
    assert len(taken) == STEPS - (progress.resumed[-1] if progress.resumed else 0)
    return method.state_dict(), progress


def values(journal: Iterable[dict]) -> list[tuple]:
    """What the journal says, but for clocks."""
    return [(p["step"], p["metrics"].get("train_loss"), p["metrics"].get("val_accuracy")) for p in journal]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture
def few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most steps are then neither logged nor validated."""
    monkeypatch.setattr(training, "POINTS", 4)
    monkeypatch.setattr(training, "VALIDATIONS", 2)


@pytest.mark.usefixtures("few_points")
@pytest.mark.parametrize("name", PARAMS)
def test_stopped_four_times_it_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    undisturbed, expected = run(name)
    path, stops, done = tmp_path / "training.pt", [3, 4, 10, 17], 0
    for stop in stops:
        with pytest.raises(Preempted, match=f"stopped by SIGTERM at step {stop} of 20: .* from step {stop}$"):
            run(name, path, terminate_in=stop - done)
        done = stop
    resumed, progress = run(name, path)
    assert same(resumed, undisturbed)
    assert progress.curve == expected.curve
    assert progress.best_step == expected.best_step
    assert values(progress.journal) == values(expected.journal)
    assert progress.resumed == stops


@pytest.mark.usefixtures("few_points")
def test_a_checkpoint_written_on_the_way_is_enough_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)
    save, kept = checkpoints.save, tmp_path / "kept"

    def save_and_keep(path: Path, state: dict) -> bool:
        done = save(path, state)
        if state["progress"]["step"] == 7:
            kept.write_bytes(path.read_bytes())
        return done

    monkeypatch.setattr(checkpoints, "save", save_and_keep)
    path = tmp_path / "training.pt"
    undisturbed, expected = run("reptile", path)
    kept.replace(path)
    resumed, progress = run("reptile", path)
    assert progress.resumed == [7]
    assert same(resumed, undisturbed)
    assert progress.journal[0] == expected.journal[0]  # its time, too
    assert progress.journal[-1]["time"] > expected.journal[-1]["time"]


@pytest.mark.usefixtures("few_points")
@pytest.mark.parametrize(("seconds", "written"), [(3.5, [4, 8, 12, 16, 20]), (100, [20])])
def test_checkpoints_are_written_as_often_as_said_and_in_the_end(
    seconds: float, written: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that moves a second in each step."""
    clock, steps, save = [0.0], [], checkpoints.save
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", seconds)
    monkeypatch.setattr(training.time, "perf_counter", lambda: clock[0])
    cls = methods.METHODS["prototypical"]
    learn = cls.backward

    def backward(method: object, episodes: object) -> torch.Tensor:
        clock[0] += 1
        return learn(method, episodes)

    def count(path: Path, state: dict) -> bool:
        steps.append(state["progress"]["step"])
        return save(path, state)

    monkeypatch.setattr(cls, "backward", backward)
    monkeypatch.setattr(checkpoints, "save", count)
    run("prototypical", tmp_path / "training.pt")
    assert steps == written


def test_a_checkpoint_that_a_stop_could_not_write_names_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, save = tmp_path / "training.pt", checkpoints.save
    monkeypatch.setattr(checkpoints, "save", lambda path, state: False)
    with pytest.raises(Preempted, match=r"stopped by SIGTERM at step 2 of 20: .* from step 0$"):
        run("prototypical", path, terminate_in=2)
    monkeypatch.setattr(checkpoints, "save", save)
    with pytest.raises(Preempted, match=r"stopped by SIGTERM at step 3 of 20: .* from step 3$"):
        run("prototypical", path, terminate_in=3)
    monkeypatch.setattr(checkpoints, "save", lambda path, state: False)
    with pytest.raises(Preempted, match=r"stopped by SIGTERM at step 5 of 20: .* from step 3$"):
        run("prototypical", path, terminate_in=2)


def test_time_and_curve_go_on_after_an_interruption(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    with pytest.raises(Preempted):
        run("prototypical", path, terminate_in=10)
    saved = checkpoints.load(path)["progress"]
    _, progress = run("prototypical", path)
    assert progress.started == saved["started"]
    assert progress.seconds > saved["seconds"] > 0
    assert progress.training_seconds > saved["training_seconds"] > 0


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    first, expected = run("maml", path)
    second, progress = run("maml", path)
    assert same(first, second)
    assert progress.resumed == [STEPS]
    assert progress.journal == expected.journal


def damage(content: bytes) -> bytes:
    """Another number in the middle of the weights."""
    at = content.index(b"\x80\x3f", len(content) // 8)  # half of a float 1.0
    return content[:at] + b"\x90" + content[at + 1 :]


@pytest.mark.parametrize(
    "spoil", [damage, lambda c: c[: len(c) // 2], lambda c: b"", lambda c: b"x" * len(c)], ids=range(4)
)
def test_a_damaged_checkpoint_is_left_aside_with_a_warning(
    spoil, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "training.pt"
    first, _ = run("prototypical", path)
    path.write_bytes(spoil(path.read_bytes()))
    second, progress = run("prototypical", path)
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {path}: damaged or not a checkpoint of this training")
    assert said.count("\n") == 1
    assert progress.resumed == []
    assert same(first, second)


def test_the_checkpoint_of_another_training_under_this_name_is_left_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run("maml", tmp_path / "other.pt")
    (tmp_path / "other.pt").rename(tmp_path / "training.pt")
    _, progress = run("prototypical", tmp_path / "training.pt")
    assert "not a checkpoint of this training" in capsys.readouterr().err
    assert progress.resumed == []


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    undisturbed, _ = run("prototypical")
    state, _ = run("prototypical", tmp_path / "file" / "training.pt")
    said = capsys.readouterr().err
    assert same(state, undisturbed)
    assert said.startswith("warning: no checkpoint written, the training goes on without (")
    assert said.count("\n") == 1


def test_without_a_checkpoint_signals_are_left_alone() -> None:
    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            run("prototypical", terminate_in=2)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_signal_handlers_are_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(Preempted):
        run("prototypical", tmp_path / "training.pt", terminate_in=2)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
