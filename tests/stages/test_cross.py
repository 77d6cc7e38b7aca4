"""The stage that tests models on the episodes of other data, run as DVC runs it."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from project import ROOT, Edit, Project

from metashot.config.check import check
from metashot.data import Form, Key, store
from metashot.data.kinds import images
from metashot.errors import MetashotError
from metashot.files import md5
from metashot.learning.models import methods
from metashot.learning.models.backbones.conv4 import Conv4Params
from metashot.learning.models.episodes import load_manifest, sample
from metashot.learning.models.methods.base import Problem
from metashot.learning.models.methods.prototypical import Params, Prototypical
from metashot.lineage.lockfile import Lock
from metashot.registry.tracking import LINEAGE_FILE, RUN_TYPE, connect

FORM = images.form(16, 1)


def write(path: Path, seed: int, form: Form = FORM) -> None:
    """Five classes of six pictures in each split."""
    random = np.random.default_rng(seed)
    with store.writing(path, form, rotations=False, about={"synthetic": True}) as writer:
        for split in ("test", "train", "val"):
            keys = [Key(split, "all", f"{split}{c}", str(i)) for c in range(5) for i in range(6)]
            samples = random.integers(0, 256, (30, *form.shape), dtype=np.uint8)
            writer.write(keys, samples, [random.bytes(16) for _ in keys])


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A random model of data set a, and the episodes of data set b."""
    (tmp_path / "params.yaml").write_text("threads: 1\n")
    for folder in ("data/processed", "data/episodes/b-5w1s", "models/a-5w1s/prototypical"):
        (tmp_path / folder).mkdir(parents=True)
    for seed, name in enumerate("ab"):
        write(tmp_path / f"data/processed/{name}.parquet", seed)
    draw(tmp_path)
    torch.manual_seed(0)
    params = Params(lr=1e-3, meta_batch=1, train_way=5, temperature=1.0)
    network = Conv4Params(name="conv4", width=4, downsample="pool")
    methods.save(Prototypical(params, Problem(FORM, network)), tmp_path / "models/a-5w1s/prototypical")
    return tmp_path


def draw(project: Path, n_way: int = 5) -> None:
    test = store.load(project / "data/processed/b.parquet", "test")
    manifest = sample(test, n_way=n_way, k_shot=1, n_query=3, episodes=20, seed=0)
    manifest.save(project / "data/episodes/b-5w1s/test.parquet")


def run(project: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stages.cross", "a", "b", "5w1s", "prototypical"]
    return subprocess.run(command, cwd=project, env=os.environ, capture_output=True, text=True, check=False)


def test_a_model_is_tested_on_the_episodes_of_the_other_data(project: Path) -> None:
    done = run(project)
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads((project / "results/a-on-b-5w1s/prototypical.json").read_text())
    method = methods.load(project / "models/a-5w1s/prototypical")
    test = store.load(project / "data/processed/b.parquet", "test")
    manifest = load_manifest(project / "data/episodes/b-5w1s/test.parquet", test)
    right = []
    with torch.no_grad():
        for row in range(20):
            e = manifest.gather(test.tensor(), slice(row, row + 1))
            answers = method.predict(e.support, e.support_labels, e.query, 5).argmax(-1)
            right.append((answers == e.query_labels).double().mean().item())
    assert said["accuracy"] == pytest.approx(np.mean(right))
    assert (said["episodes"], said["n_way"], said["k_shot"]) == (20, 5, 1)
    data = {name: md5(project / f"data/processed/{name}.parquet") for name in "ab"}
    weights = md5(project / "models/a-5w1s/prototypical/model.safetensors")
    assert said["trained_on"] == {"dataset": "a", "data": data["a"], "model": weights}
    episodes = md5(project / "data/episodes/b-5w1s/test.parquet")
    assert said["tested_on"] == {"dataset": "b", "data": data["b"], "episodes": episodes}


def test_samples_that_the_model_was_trained_on_are_refused(project: Path) -> None:
    target = project / "data/processed/b.parquet"
    shutil.copy(project / "data/processed/a.parquet", target)
    draw(project)
    assert run(project).returncode == 0  # the test samples of both are the same, and no training sample
    seen = list(store.digests(target)["train"])
    with store.writing(target, FORM, rotations=False, about={"synthetic": True}) as writer:
        keys = [Key("test", "all", f"class{c}", str(i)) for c in range(5) for i in range(6)]
        writer.write(keys, np.zeros((30, *FORM.shape)), seen[:2] + [bytes([row] * 16) for row in range(28)])
    draw(project)
    done = run(project)
    assert done.returncode == 1
    assert done.stderr == "error: 2 test samples of b are training samples of a\n"
    assert not list(project.glob("results/*/.*"))


def test_samples_of_another_form_are_refused(project: Path) -> None:
    write(project / "data/processed/b.parquet", 1, images.form(20, 1))
    draw(project)
    done = run(project)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: a and b do not have samples of one form")


@pytest.mark.parametrize(
    ("data", "unlike"),
    [
        ({"prepare": {"image_size": 32, "rotations": False}}, "shape: (1, 28, 28) and (1, 32, 32)"),
        (None, "kind: images and texts"),
    ],
)
def test_unlike_forms_are_refused_before_anything_runs(
    tmp_path: Path, data: dict | None, unlike: str
) -> None:
    params_file = tmp_path / "params.yaml"
    shutil.copy(ROOT / "params.yaml", params_file)
    with Edit(params_file) as params:
        glyphs = params["data"]["glyphs"]
        params["data"]["other"] = glyphs | data if data else params["data"]["clinc150"]
        params["datasets"] = ["glyphs", "other"]
        params["cross"] = {"trained_on": ["glyphs"], "tested_on": ["other"]}
    with pytest.raises(MetashotError) as refusal:
        check(params_file)
    assert str(refusal.value) == (
        f"{params_file}: cross: the samples of glyphs and other differ in form ({unlike}): prepare them alike"
    )
    with Edit(params_file) as params:
        params["data"]["other"] = params["data"]["glyphs"]
    check(params_file)


def cross_tests(root: Path) -> list[dict]:
    """What MLflow shows of tests on other data: a dict for each run."""
    with connect(root) as client:
        (experiment,) = [e for e in client.search_experiments() if e.name == "glyphs-5w1s"]
        found = client.search_runs([experiment.experiment_id], f"tags.`{RUN_TYPE}` = 'cross'")
        return [
            {
                "name": run.info.run_name,
                "metrics": run.data.metrics,
                "tags": {key: run.data.tags[key] for key in ("method", "data", "accuracy")},
                "data": {i.dataset.name: i.dataset.digest for i in run.inputs.dataset_inputs},
                "tested": {
                    i.dataset.name for i in run.inputs.dataset_inputs if i.tags[0].value == "evaluation"
                },
                "models": [
                    client.get_logged_model(model.model_id).tags["metashot.result"]
                    for model in run.inputs.model_inputs
                ],
                "lineage": json.loads(
                    Path(client.download_artifacts(run.info.run_id, LINEAGE_FILE)).read_text()
                ),
            }
            for run in (client.get_run(run.info.run_id) for run in found)  # with the models
        ]


@pytest.mark.slow
def test_dvc_makes_and_mlflow_shows_them_with_the_lineage_of_both(trained: Project, tmp_path: Path) -> None:
    project = trained.copy(tmp_path)
    with project.params() as params:
        params["data"]["other"] = {**params["data"]["glyphs"], "raw": {"seed": 1, "writers": 20}}
        params["datasets"], params["methods"] = ["glyphs", "other"], ["prototypical"]
        params["cross"] = {"trained_on": ["glyphs"], "tested_on": ["other"]}
    assert {"cross@glyphs-other-5w1s-prototypical", "register_cross@glyphs-other-5w1s"} <= {*project.repro()}
    (shown,) = cross_tests(tmp_path)
    said = json.loads((tmp_path / "results/glyphs-on-other-5w1s/prototypical.json").read_text())
    assert shown["name"] == "prototypical on other"
    assert shown["metrics"] == {"cross_accuracy": said["accuracy"], "cross_ci95": said["ci95"]}
    lock = Lock(tmp_path)
    assert shown["models"] == [lock.cell("glyphs", "5w1s", "prototypical").result]
    assert shown["data"] == {
        path: md5(tmp_path / path)
        for path in (
            "data/processed/glyphs.parquet",
            "data/processed/other.parquet",
            "data/episodes/other-5w1s/test.parquet",
        )
    }
    assert shown["tested"] == {"data/processed/other.parquet", "data/episodes/other-5w1s/test.parquet"}
    stages = shown["lineage"]["stages"]
    assert {"download@glyphs", "download@other", "train@glyphs-5w1s-prototypical"} <= {*stages}
    assert (
        stages["cross@glyphs-other-5w1s-prototypical"]["outs"]
        == lock.entries["cross@glyphs-other-5w1s-prototypical"].outs
    )
    # into an empty store: the same
    project.root = emptied = tmp_path.with_name("emptied")  # as this process holds the first database open
    shutil.copytree(tmp_path, emptied, ignore=shutil.ignore_patterns("mlruns"))
    project.run("metashot", "publish")
    assert cross_tests(emptied) == [shown]
    # of a model that was trained anew, nothing is said that was found with the old one
    train = lock.entries["train@glyphs-5w1s-prototypical"]
    anew = [{**out, "md5": "f" * 32 + ".dir"} if "models/" in out["path"] else out for out in train.outs]
    evaluate = lock.entries["evaluate@glyphs-5w1s-prototypical"]
    kept = [dep for dep in evaluate.deps if "models/" not in dep["path"]]
    assert len(lock.cross_tests("glyphs", "5w1s")) == 1
    lock.entries[train.stage] = replace(train, outs=anew)
    lock.entries[evaluate.stage] = replace(evaluate, deps=kept)
    assert lock.cross_tests("glyphs", "5w1s") == []
