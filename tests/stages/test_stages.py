"""The whole pipeline for real: git, DVC and MLflow in a folder of its own, on a small data set."""

import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from project import METHODS, ROOT, Project, is_training, wait_until
from servers import Server, free_port

from metashot.project.attempts import read_status


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, trained: Project) -> Project:
    project = trained.copy(tmp_path_factory.mktemp("project"))
    assert project.repro() == ["register@glyphs-5w1s"]
    return project


def test_every_stage_is_made_once_and_a_second_repro_does_nothing(project: Project) -> None:
    assert project.repro() == []
    made = yaml.safe_load((project.root / "dvc.lock").read_text())["stages"]
    cells = [f"{stage}@glyphs-5w1s-{method}" for method in METHODS for stage in ("train", "evaluate")]
    assert made.keys() == {
        *("code", "check", "download@glyphs", "preprocess@glyphs", "episodes@glyphs-5w1s"),
        *(*cells, "gate@glyphs-5w1s", "register@glyphs-5w1s"),
    }


def test_everything_is_cached(project: Project) -> None:
    tree = "data/processed/glyphs.parquet", "models/glyphs-5w1s", "results/glyphs-5w1s", "reports", "records"
    for name in tree:
        path = project.root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert project.repro() == []
    assert all((project.root / name).exists() for name in tree)


def test_results_are_as_the_manifests_and_parameters_say(project: Project) -> None:
    results = project.root / "results/glyphs-5w1s"
    for method in METHODS:
        metrics = json.loads((results / method / "metrics.json").read_text())
        table = pq.read_table(results / method / "episodes.parquet").to_pylist()
        main = [row for row in table if row["setting"] == "5w1s"]
        assert len(main) == metrics["episodes"] == 30
        mean = sum(row["correct"] / row["queries"] for row in main) / 30
        assert metrics["accuracy"] == pytest.approx(mean)
        assert 0 < metrics["untrained"]["accuracy"] < 1
    prototypical, maml = (json.loads((results / method / "metrics.json").read_text()) for method in METHODS)
    assert prototypical["manifest"] == maml["manifest"]
    assert set(prototypical["extra"]) == set(maml["extra"]) == {"5w2s", "7w1s"}
    assert (prototypical["transductive"], maml["transductive"]) == (False, True)


def test_dvc_shows_metrics_and_plots(project: Project) -> None:
    shown = json.loads(project.run("dvc", "metrics", "show", "--json").stdout)
    files = shown[""]["data"]
    for method in METHODS:
        path = project.root / f"results/glyphs-5w1s/{method}/metrics.json"
        shown_accuracy = files[f"results/glyphs-5w1s/{method}/metrics.json"]["data"]["accuracy"]
        assert shown_accuracy == json.loads(path.read_text())["accuracy"]
    project.run("dvc", "plots", "show", "-o", "plots")
    page = (project.root / "plots/index.html").read_text()
    assert "Validation accuracy" in page
    assert "Test episodes by accuracy" in page


def test_a_changed_hyper_parameter_reruns_that_method_only(project: Project) -> None:
    with project.params() as params:
        params["method"]["maml"]["inner_lr"] = 0.3
    assert project.repro() == [
        "code",
        "check",
        "train@glyphs-5w1s-maml",
        "evaluate@glyphs-5w1s-maml",
        "gate@glyphs-5w1s",
        "register@glyphs-5w1s",
    ]
    with project.params() as params:
        params["method"]["maml"]["inner_lr"] = 0.5
    assert project.repro() == []  # from the run cache


def test_a_changed_module_reruns_its_method_only(project: Project) -> None:
    module = project.root / "metashot/learning/models/methods/maml.py"
    before = module.read_text()
    module.write_text(before + "\n# changed\n")
    plan = json.loads(project.run("metashot", "plan", "--json").stdout)
    module.write_text(before)
    changed = {step["stage"]: step["reason"] for step in plan if step["state"] != "up to date"}
    assert {name for name in changed if name.startswith(("train", "evaluate"))} == {
        "train@glyphs-5w1s-maml",
        "evaluate@glyphs-5w1s-maml",
    }
    assert changed["train@glyphs-5w1s-maml"] == "metashot/learning/models/methods/maml.py changed"


def test_training_again_gives_the_same_bits(project: Project) -> None:
    shutil.rmtree(project.root / ".metashot/checkpoints")
    model = project.root / "models/glyphs-5w1s/maml/model.safetensors"
    before = model.read_bytes()
    project.run("python", "-m", "stages.train", "glyphs", "5w1s", "maml")
    assert model.read_bytes() == before


def test_a_wrong_parameter_is_named_before_anything_runs(project: Project) -> None:
    good = (project.root / "params.yaml").read_text()
    try:
        with project.params() as params:
            params["method"]["maml"]["iner_lr"] = 1
        done = project.run("python", "-m", "stages.check", ok=False)
        refused = project.run("dvc", "repro", ok=False)
    finally:
        (project.root / "params.yaml").write_text(good)
    assert done.stderr.startswith("error: params.yaml: method.maml.iner_lr: unknown key")
    assert done.stderr.count("\n") == 1
    assert done.stderr in refused.stderr
    assert project.repro() == []


def test_missing_inputs_and_arguments_are_one_line(project: Project) -> None:
    for arguments, line in [
        (["train", "glyphs"], "error: usage: python -m stages.train DATASET SETTING METHOD"),
        (["train", "omniglot", "5w1s", "maml"], "error: data/processed/omniglot.parquet: no such file"),
        (["evaluate", "glyphs", "5w1s", "reptile"], "error: models/glyphs-5w1s/reptile/model.json: no such"),
        (["preprocess", "omniglot"], "error: data/raw/omniglot/images_background.zip: no such archive"),
    ]:
        done = project.run("python", "-m", f"stages.{arguments[0]}", *arguments[1:], ok=False)
        assert done.stderr.startswith(line)
        assert done.stderr.count("\n") == 1


def test_too_few_images_fail_in_one_line_and_leave_the_manifests(project: Project) -> None:
    manifests = project.root / "data/episodes/glyphs-5w1s"
    before = {path.name: path.read_bytes() for path in manifests.iterdir()}
    good = (project.root / "params.yaml").read_text()
    try:
        with project.params() as params:
            params["setting"]["5w1s"]["n_query"] = 20
        done = project.run("python", "-m", "stages.episodes", "glyphs", "5w1s", ok=False)
    finally:
        (project.root / "params.yaml").write_text(good)
    assert done.stderr.startswith("error: class ")
    assert "has 20 samples: too few for 1 support + 20 query samples" in done.stderr
    assert done.stderr.count("\n") == 1
    assert {path.name: path.read_bytes() for path in manifests.iterdir()} == before


def test_a_diverging_training_leaves_no_output(project: Project) -> None:
    model = project.root / "models/glyphs-5w1s/maml/model.safetensors"
    before = model.read_bytes()
    good = (project.root / "params.yaml").read_text()
    try:
        with project.params() as params:
            params["method"]["maml"]["lr"] = 1e30
        done = project.run("python", "-m", "stages.train", "glyphs", "5w1s", "maml", ok=False)
    finally:
        (project.root / "params.yaml").write_text(good)
    assert "error: training diverged" in done.stderr.splitlines()[-1]
    assert model.read_bytes() == before
    assert not list(project.root.rglob("*.partial"))


def test_a_killed_repro_is_mended_by_the_next(project: Project) -> None:
    stage, model = "train@glyphs-5w1s-prototypical", project.root / "models/glyphs-5w1s/prototypical"
    model /= "model.safetensors"
    before = model.read_bytes()
    with project.params() as params:
        params["data"]["glyphs"]["budget"]["prototypical"] = 5_000
    log = project.root / "killed.log"

    def progress() -> float:
        status = read_status(project.root, stage)
        return status.progress.get("steps", 0) if status and status.state == "running" else 0

    with log.open("w") as file:
        child = project.start("dvc", "repro", stage, stdout=file, stderr=file)
        wait_until(lambda: is_training(child.pid) and progress() == 5_000)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    assert not model.exists()  # DVC takes a stage's outputs away before it runs
    with project.params() as params:
        params["data"]["glyphs"]["budget"]["prototypical"] = 12
    assert project.repro() == []  # from the run cache
    assert model.read_bytes() == before
    log.unlink()


@pytest.mark.slow
def test_the_programs_of_the_page_on_registered_models_run(project: Project, tmp_path: Path) -> None:
    page = (ROOT / "docs/serving.md").read_text()
    plain, asking = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    answers = project.run(sys.executable, "-c", plain).stdout
    assert "probability" in answers
    assert answers.count("Georgian/") == 5
    (command,) = re.findall(r"^mlflow models serve .*$", page, re.MULTILINE)
    (uri,) = re.findall(r"^export MLFLOW_TRACKING_URI=(.*)$", page, re.MULTILINE)
    port = str(free_port())
    with Server(
        command.replace("5001", port).split(),
        f"http://127.0.0.1:{port}/ping",
        tmp_path / "log",
        cwd=project.root,
        env={**project.environment, "MLFLOW_TRACKING_URI": uri},
    ):
        printed = project.run(sys.executable, "-c", plain + asking.replace("5001", port)).stdout
    assert printed.count("'label': 'Georgian/") == 5
