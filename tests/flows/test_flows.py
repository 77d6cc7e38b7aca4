"""The flow and the plan against DVC itself, on a small project and a real Prefect server of its own."""

import json
import re
import shutil
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness
from project import METHODS, Project

from flows.pipeline import pipeline, slots
from flows.plan import Step, plan
from metashot.lineage import lockfile

pytestmark = pytest.mark.slow

CELL = "glyphs-5w1s"


@pytest.fixture(scope="module", autouse=True)
def server():
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Made by the flow; ``tasks`` are the stages it made."""
    project = Project(tmp_path_factory.mktemp("project"))
    with pytest.MonkeyPatch.context() as patch:
        _enter(project, patch)
        told: list[tuple[str, str]] = []
        state = pipeline(project.root, watch=lambda *what: told.append(what), return_state=True)
    assert state.is_completed(), state.message
    project.tasks = [stage for stage, what in told if what == "made"]
    return project


@pytest.fixture(autouse=True)
def environment(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    _enter(project, monkeypatch)


def _enter(project: Project, patch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "OMP_NUM_THREADS", "DVC_NO_ANALYTICS"):
        patch.setenv(name, project.environment[name])
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)


def states(root: Path, *targets: str) -> dict[str, Step]:
    return {step.stage: step for step in plan(root, targets)}


def needs(root: Path) -> dict[str, set[str]]:
    """The edges of DVC's graph, found from dvc.lock alone: whose outputs a stage's dependencies overlap."""
    entries = lockfile.Lock(root).entries

    def overlap(a: str, b: str) -> bool:
        return Path(a).is_relative_to(b) or Path(b).is_relative_to(a)

    return {
        name: {
            other
            for other, maker in entries.items()
            if any(overlap(d["path"], o["path"]) for d in entry.deps for o in maker.outs)
        }
        for name, entry in entries.items()
    }


def test_tasks_and_edges_of_the_flow_are_those_of_dvc(project: Project) -> None:
    edges = {step.stage: set(step.needs) for step in plan(project.root)}  # each task waits for these
    assert edges == needs(project.root)
    assert sorted(project.tasks) == sorted(edges)
    listed = project.run("dvc", "stage", "list", "--names-only").stdout.split()
    assert sorted(edges) == sorted(listed)


def test_a_second_run_makes_nothing_and_repro_agrees(project: Project) -> None:
    lock = (project.root / "dvc.lock").read_bytes()
    state = pipeline(project.root, return_state=True)
    assert state.message.startswith("everything is up to date; glyphs-5w1s: 2 models, 0 new; champion ")
    assert project.repro() == []
    assert (project.root / "dvc.lock").read_bytes() == lock
    assert {step.state for step in plan(project.root)} == {"up to date"}


def test_the_comparison_is_left_as_an_artifact(project: Project) -> None:
    with get_client(sync_client=True) as client:
        found = client.request("POST", "/artifacts/latest/filter", json={}).json()
    [artifact] = [a for a in found if a["key"] == "comparison-glyphs-5w1s"]
    for method in METHODS:
        metrics = json.loads((project.root / f"results/{CELL}/{method}/metrics.json").read_text())
        assert f"{100 * metrics['accuracy']:.2f} ± " in artifact["data"]


def test_a_method_added_to_the_matrix_is_made_without_a_change_in_flows(project: Project) -> None:
    before = (project.root / "params.yaml").read_text()
    try:
        with project.params() as params:
            params["methods"] = [*METHODS, "transfer"]
            params["method"]["transfer"] |= {"train_way": 20, "head_steps": 2}
            params["data"]["glyphs"]["budget"]["transfer"] = 2
        todo = [step.stage for step in plan(project.root) if step.state != "up to date"]
        cell = [f"train@{CELL}-transfer", f"evaluate@{CELL}-transfer"]
        assert todo == ["code", "check", *cell, f"gate@{CELL}", f"register@{CELL}"]
        assert pipeline(project.root, cell, return_state=True).is_completed()
        assert (project.root / f"models/{CELL}/transfer/model.safetensors").exists()
    finally:
        (project.root / "params.yaml").write_text(before)
        project.run("dvc", "repro", "check")


def test_a_stage_that_fails_is_named_not_tried_again_and_stops_no_other(project: Project) -> None:
    before = (project.root / "params.yaml").read_text()
    told: list[tuple[str, str]] = []
    try:
        with project.params() as params:
            params["method"]["maml"]["lr"] = 1e30
            params["method"]["prototypical"]["lr"] = 1e-3
        evaluated = [f"evaluate@{CELL}-{method}" for method in METHODS]
        state = pipeline(project.root, evaluated, watch=lambda *what: told.append(what), return_state=True)
        assert state.is_failed()
        assert re.match(rf"train@{CELL}-maml: .*training diverged", state.message)
        assert told.count((f"train@{CELL}-maml", "running")) == 1
        assert (f"evaluate@{CELL}-prototypical", "made") in told
        assert (f"evaluate@{CELL}-maml", "running") not in told
    finally:
        (project.root / "params.yaml").write_text(before)
        project.repro()  # from the run cache


def test_the_plan_says_what_changed_from_what_and_writes_nothing(project: Project) -> None:
    before = (project.root / "params.yaml").read_text()
    module = project.root / "metashot/learning/models/methods/prototypical.py"
    code = module.read_text()

    def tree() -> dict[str, float]:
        ours = (path for path in project.root.rglob("*") if ".dvc" not in path.parts and path.is_file())
        return {str(path): path.stat().st_mtime_ns for path in ours if "__pycache__" not in path.parts}

    try:
        with project.params() as params:
            params["method"]["maml"]["inner_lr"] = 0.25
            params["data"]["glyphs"]["budget"]["maml"] = 12
        module.write_text(code + "\n")
        files = tree()
        found = states(project.root)
        assert tree() == files
    finally:
        (project.root / "params.yaml").write_text(before)
        module.write_text(code)
    maml, other = found[f"train@{CELL}-maml"], found[f"train@{CELL}-prototypical"]
    assert (maml.state, other.state) == ("must run", "must run")
    assert "method.maml.inner_lr: 0.5 → 0.25" in maml.reason
    assert "data.glyphs.budget.maml: 6 → 12" in maml.reason
    assert other.reason == "metashot/learning/models/methods/prototypical.py changed"
    record = json.loads((project.root / f"records/train/{CELL}/maml/record.json").read_text())
    assert maml.seconds == pytest.approx(2 * record["seconds"], rel=0.5)  # twice the budget
    assert found[f"episodes@{CELL}"].state == "up to date"
    assert found[f"evaluate@{CELL}-maml"].reason.startswith(f"needs train@{CELL}-maml")


def test_the_plan_knows_where_results_are_cached(project: Project, tmp_path: Path) -> None:
    cell = [f"train@{CELL}-maml", f"evaluate@{CELL}-maml"]
    for folder in ("models", "results", "records/train", "records/evaluate"):
        shutil.rmtree(project.root / folder / CELL / "maml")
    found = states(project.root, *cell)
    assert [found[name].state for name in cell] == ["cached locally"] * 2
    project.run("dvc", "remote", "add", "--local", "--default", "store", str(tmp_path / "store"))
    project.run("dvc", "push", "--run-cache")
    shutil.rmtree(project.root / ".dvc/cache")
    found = states(project.root, *cell)
    assert [found[name].state for name in cell] == ["cached on the remote"] * 2
    shutil.rmtree(tmp_path / "store/files")  # entries of runs whose bytes are gone are worth nothing
    assert states(project.root, *cell)[cell[0]].state == "must run"
    (project.root / ".dvc/config.local").unlink()


def test_a_target_that_is_none_is_one_line(project: Project) -> None:
    state = pipeline(project.root, ["train@nothing"], return_state=True)
    assert state.is_failed()
    assert state.message.startswith("dvc.yaml has no stage train@nothing")


def test_slots_are_cores_by_threads_or_gpus(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 7)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with project.params() as params:
        params["threads"] = 3
    assert slots(project.root) == [{}, {}]
    assert len(slots(project.root, 5)) == 5
    with project.params() as params:
        params["threads"] = 1
    assert len(slots(project.root)) == 7
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    assert slots(project.root) == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "3"}]
