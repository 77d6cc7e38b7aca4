"""The retraining flow's ends that a good week does not show, on a small project and a real Prefect server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.testing.utilities import prefect_test_harness
from project import IDENTITY, Project

from flows.retrain import retrain
from metashot.lineage import lockfile

pytestmark = pytest.mark.slow

DECISION = "reports/glyphs-5w1s-gate.json"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, trained: Project) -> Iterator[Project]:
    """A project after its first retraining, which takes the results from DVC's cache."""
    root = tmp_path_factory.mktemp("project")
    project = trained.copy(root)
    (root / "dvc.lock").unlink()
    with prefect_test_harness(server_startup_timeout=300), pytest.MonkeyPatch.context() as patch:
        for name in ("PYTHONPATH", "OMP_NUM_THREADS", "DVC_NO_ANALYTICS"):
            patch.setenv(name, project.environment[name])
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(root)
        state = retrain(return_state=True)
        assert (state.name, state.type.value) == ("Retrained", "COMPLETED"), state.message
        yield project


def commit(project: Project, message: str) -> None:
    project.run("git", *IDENTITY, "commit", "-qm", message, "--", "params.yaml")


def decision(project: Project) -> Any:
    return json.loads((project.root / DECISION).read_text())


def test_nothing_new_runs_no_stage_and_commits_nothing(project: Project) -> None:
    def stages_run() -> list[Path]:
        return sorted((project.root / ".metashot/logs").rglob("*.log"))

    refs, logs = project.run("git", "for-each-ref").stdout, stages_run()
    state = retrain(return_state=True)
    assert (state.name, state.type.value) == ("No change", "COMPLETED")
    assert project.run("git", "for-each-ref").stdout == refs
    assert stages_run() == logs


def test_what_a_killed_run_left_uncommitted_the_next_commits(project: Project) -> None:
    tree = project.run("git", "rev-parse", "retrain^{tree}").stdout
    project.run("git", "update-ref", "-d", "refs/heads/retrain")
    state = retrain(return_state=True)
    assert state.name == "No change"
    assert project.run("git", "rev-parse", "retrain^{tree}").stdout == tree
    message = project.run("git", "log", "-1", "--format=%B", "retrain").stdout
    assert all(f"- {reason}\n" in message for reason in decision(project)["reasons"])


def test_code_that_no_commit_holds_is_refused(project: Project) -> None:
    module = project.root / "metashot/learning/models/methods/maml.py"
    before, lock = module.read_text(), (project.root / "dvc.lock").read_bytes()
    module.write_text(before + "\n# tried\n")
    try:
        state = retrain(return_state=True)
    finally:
        module.write_text(before)
    assert state.is_failed()
    assert f"{project.root} has uncommitted changes" in state.message
    assert "metashot/learning/models/methods/maml.py" in state.message
    assert "\n" not in state.message
    assert (project.root / "dvc.lock").read_bytes() == lock


def test_after_a_run_that_failed_half_way_the_next_goes_on_against_the_same_incumbent(
    project: Project,
) -> None:
    champion, branch = decision(project)["champion"], project.run("git", "rev-parse", "retrain").stdout
    with project.params() as params:
        params["method"]["prototypical"]["lr"] = 0.004
        params["method"]["maml"]["lr"] = 1e30
    commit(project, "Diverges")
    state = retrain(return_state=True)
    assert state.is_failed()
    assert "train@glyphs-5w1s-maml" in state.message
    assert "diverged" in state.message
    assert project.run("git", "rev-parse", "retrain").stdout == branch
    trained = lockfile.Lock(project.root).entries["train@glyphs-5w1s-prototypical"].result

    with project.params() as params:
        params["method"]["maml"]["lr"] = 0.001
    commit(project, "Mended")
    state = retrain(return_state=True)
    assert state.name == "Retrained", state.message
    assert lockfile.Lock(project.root).entries["train@glyphs-5w1s-prototypical"].result == trained
    assert decision(project)["incumbent"]["model"] == champion["model"]
    assert project.run("git", "rev-parse", "retrain^1").stdout == branch


def test_a_wrong_parameter_is_refused_before_anything_runs(project: Project) -> None:
    good = (project.root / "params.yaml").read_text()
    (project.root / "params.yaml").write_text(good.replace("seed: 0", "sead: 0", 1))
    try:
        state = retrain(return_state=True)
    finally:
        (project.root / "params.yaml").write_text(good)
    assert state.is_failed()
    assert "sead: unknown key" in state.message


@pytest.mark.parametrize(
    "asked",
    [
        *({"branch": branch} for branch in ("--force", "a:b", "+a", "a..b", "a b", "a\n", "", 3)),
        *({"notify": block} for block in ("../x", "a", "a/b/c")),
        *({"jobs": jobs} for jobs in (0, "2", True, 10**6)),
        *({flag: value} for flag in ("tag", "push") for value in ("false", 1, None)),
    ],
)
def test_a_retraining_refuses_parameters_of_another_type(
    asked: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    state = retrain.fn(**asked)
    assert state.is_failed()
    assert state.message.startswith(f"parameter {next(iter(asked))} is refused (")
    assert "\n" not in state.message
