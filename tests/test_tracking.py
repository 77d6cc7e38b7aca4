"""MLflow as publish leaves it: real SQLite stores in temporary folders, real models in fresh processes."""

import hashlib
import io
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic
from mlflow import MlflowClient
from PIL import Image
from ruamel.yaml import YAML

from metashot import tracking
from metashot.errors import MetashotError
from metashot.lineage import Lock

GROUP = "glyphs-5w1s"


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def repository(tmp_path):
    root = synthetic.make(tmp_path / "repository")
    synthetic.give_database(root)
    return root


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A repository published once, for those tests that add nothing to it."""
    root = synthetic.make(tmp_path_factory.mktemp("published") / "repository")
    synthetic.give_database(root)
    return root, publish(root)


def publish(root: Path) -> tracking.Published:
    (group,) = tracking.publish(root, [("glyphs", "5w1s")], list(synthetic.ACCURACY))
    return group


def client_of(root: Path) -> MlflowClient:
    uri = f"sqlite:///{root}/mlruns/mlflow.db"
    return MlflowClient(uri, uri)


def snapshot(root: Path) -> dict:
    """All that a person sees in MLflow, without MLflow's own ids and clocks."""
    client = client_of(root)
    experiments = [e for e in client.search_experiments() if e.name != "Default"]
    ids = [experiment.experiment_id for experiment in experiments]
    runs = client.search_runs(ids)
    names = {run.info.run_id: run.info.run_name for run in runs}
    points = {
        (run.info.run_name, key): [
            (m.step, m.timestamp, m.value) for m in client.get_metric_history(run.info.run_id, key)
        ]
        for run in runs
        for key in run.data.metrics
    }
    models = client.search_logged_models(ids)
    return {
        "experiments": [(e.name, e.tags) for e in experiments],
        "runs": sorted((r.info.run_name, r.info.status, r.info.start_time, r.info.end_time) for r in runs),
        "tags": {r.info.run_name: r.data.tags for r in runs},
        "params": {r.info.run_name: r.data.params for r in runs},
        "points": {key: sorted(values) for key, values in points.items()},
        "inputs": {
            r.info.run_name: sorted(
                (i.dataset.name, i.dataset.digest, tuple(t.value for t in i.tags))
                for i in r.inputs.dataset_inputs
            )
            for r in runs
        },
        "outputs": {r.info.run_name: len(r.outputs.model_outputs) for r in runs},
        "files": {
            r.info.run_name: sorted(file.path for file in client.list_artifacts(r.info.run_id)) for r in runs
        },
        "models": sorted(
            (
                m.name,
                str(m.status),
                names[m.source_run_id],
                sorted((x.key, x.value, x.dataset_name) for x in m.metrics),
            )
            for m in models
        ),
        "versions": sorted(
            (int(v.version), names[v.run_id], v.description, sorted(v.tags.items()))
            for v in client.search_model_versions(f"name = '{GROUP}'")
        ),
        "aliases": {a: int(v) for a, v in client.get_registered_model(GROUP).aliases.items()},
    }


def test_a_run_shows_what_dvc_keeps(published):
    repository, _ = published
    seen = snapshot(repository)
    lock = Lock(repository)
    cell = lock.cell("glyphs", "5w1s", "matching")
    started = 1000 * int(synthetic.STARTED)
    assert seen["runs"][0] == ("matching", "FINISHED", started, started + 41_500)
    assert seen["points"]["matching", "train_loss"] == [
        (step, started + 100 * step, 2 / step) for step in range(1, 21)
    ]
    assert len(seen["points"]["matching", "val_accuracy"]) == 10
    assert [value for _, _, value in seen["points"]["matching", "test_accuracy"]] == [0.91]
    assert seen["params"]["matching"] == {
        "seed": "1",
        "method.name": "matching",
        "method.lr": "0.001",
        "setting.n_way": "5",
        "setting.k_shot": "1",
    }
    digests = json.loads((repository / cell.train_record).read_text())["inputs"]
    data = "data/processed/glyphs.parquet"
    assert (data, digests[data]["md5"], ("training",)) in seen["inputs"]["matching"]
    assert [Path(name).name for name, _, _ in seen["inputs"]["matching"]] == [
        "test-5w5s.parquet", "test.parquet", "train.parquet", "val.parquet", "glyphs.parquet",
    ]  # fmt: skip
    tags = seen["tags"]["matching"]
    assert (tags["metashot.key"], tags["metashot.result"]) == (cell.key, cell.result)
    names = "episodes@glyphs-5w1s", cell.evaluate.stage, "preprocess@glyphs", cell.train.stage
    stages = YAML(typ="safe").load((repository / "dvc.lock").read_text())["stages"]
    own = [{"stage": name, "params": {}, **stages[name]} for name in names]
    for entry in own:
        del entry["outs"]
        entry["deps"].sort(key=itemgetter("path"))
    text = json.dumps(own, sort_keys=True, separators=(",", ":"))
    assert tags["metashot.lineage"] == hashlib.sha256(text.encode()).hexdigest()
    assert tags["metashot.dvc_lock"] == hashlib.md5((repository / "dvc.lock").read_bytes()).hexdigest()
    assert (tags["metashot.git_commit"], tags["metashot.git_dirty"]) == ("c" * 40, "false")
    assert (tags["metashot.synthetic"], tags["metashot.device"]) == ("true", "cpu")
    assert seen["files"]["matching"] == [
        f"{GROUP}-gate.json", f"{GROUP}.json", f"{GROUP}.png", "learning-curve.png", "lineage.json",
        "train-record.json",
    ]  # fmt: skip


def test_models_are_linked_to_run_test_data_and_version(published):
    repository, group = published
    seen = snapshot(repository)
    name, status, run, metrics = seen["models"][0]
    assert (name, status, run) == ("matching", "READY", "matching")
    assert ("test_accuracy", 0.91, f"data/episodes/{GROUP}/test.parquet") in metrics
    assert ("test_accuracy_5w5s", 0.93, f"data/episodes/{GROUP}/test-5w5s.parquet") in metrics
    assert seen["outputs"] == {"matching": 1, "prototypical": 1, "transfer": 1}
    assert group.versions == {"matching": 1, "prototypical": 2, "transfer": 3}  # in the order of training
    version = seen["versions"][1]
    assert version[:2] == (2, "prototypical")
    assert version[2].startswith("prototypical: 95.00 ± 0.40 % on glyphs (synthetic data), 5-way 1-shot")
    assert seen["aliases"] == {"challenger": 2, "champion": 2}
    decision = hashlib.md5((repository / f"reports/{GROUP}-gate.json").read_bytes()).hexdigest()
    assert dict(version[3])["metashot.decision"] == decision


def test_publishing_twice_adds_nothing(published):
    repository, first = published
    before = snapshot(repository)
    second = publish(repository)
    assert snapshot(repository) == before
    assert (first.added, second.added) == (3, 0)
    assert str(second).startswith("glyphs-5w1s: 3 models, 0 new; champion prototypical v2 (MLflow at sqlite:")


def test_an_emptied_store_is_rebuilt(published, tmp_path):
    repository, _ = published
    # elsewhere, as this process holds the first database open
    emptied = tmp_path / "emptied"
    shutil.copytree(repository, emptied, ignore=shutil.ignore_patterns("mlruns"))
    synthetic.give_database(emptied)
    publish(emptied)
    assert snapshot(emptied) == snapshot(repository)


def test_a_retrained_method_is_a_new_run_and_version_and_may_be_champion(repository):
    publish(repository)
    synthetic.retrain(repository, "transfer", 0.97)
    assert publish(repository).versions == {"matching": 1, "prototypical": 2, "transfer": 4}
    seen = snapshot(repository)
    assert [name for name, *_ in seen["runs"]] == ["matching", "prototypical", "transfer", "transfer"]
    assert seen["aliases"] == {"challenger": 4, "champion": 4}
    (_, tags), *_ = seen["experiments"]
    assert tags["mlflow.note.content"].startswith("Champion: transfer, 97.00 ± 0.40 %.")

    for method in synthetic.ACCURACY:  # now all are as good as a guess
        synthetic.retrain(repository, method, 0.2)
    assert "; champion none " in str(publish(repository))
    assert snapshot(repository)["aliases"] == {"challenger": 5}


def test_other_code_in_the_model_is_a_new_version_of_the_same_run(tmp_path, monkeypatch):
    root = synthetic.make(tmp_path / "repository", {"matching": 0.9})
    synthetic.give_database(root)
    assert publish(root).versions == {"matching": 1}
    before = snapshot(root)
    package = tmp_path / "metashot"
    shutil.copytree(tracking.PACKAGE, package)
    monkeypatch.setattr(tracking, "PACKAGE", package)
    (package / "cli.py").write_text("# a model does not carry this\n")
    assert publish(root).added == 0
    for path in ("pyfunc_model.py", "methods/base.py"):
        (package / path).write_text((package / path).read_text() + "\n# changed\n")
        assert publish(root).added == 1
        assert publish(root).added == 0
    seen = snapshot(root)
    for same in ("runs", "points", "params", "inputs", "files"):
        assert seen[same] == before[same]
    assert [number for number, *_ in seen["versions"]] == [1, 2, 3]
    assert len({json.dumps(model) for model in seen["models"]}) == 1  # each with all test metrics
    assert len(seen["models"]) == 3
    assert seen["aliases"] == {"challenger": 3, "champion": 3}
    version = client_of(root).get_model_version_by_alias(GROUP, "champion")
    newest = Path(version.source.removeprefix("file://"))
    assert (newest / "pyfunc_model.py").read_text().endswith("# changed\n")
    assert (newest / "code/metashot/methods/base.py").read_text().endswith("# changed\n")


class Killed(BaseException):
    pass


STEPS = (
    "create_experiment",
    "set_experiment_tag",
    "create_registered_model",
    "create_run",
    "log_batch",
    "log_inputs",
    "create_logged_model",
    "log_model_artifacts",
    "finalize_logged_model",
    "log_outputs",
    "log_artifacts",
    "create_model_version",
    "set_logged_model_tags",
    "set_terminated",
    "set_tag",
    "set_registered_model_alias",
    "log_artifact",
    "set_model_version_tag",
)


def test_a_publish_killed_at_any_step_is_completed_and_never_doubled(published, repository, monkeypatch):
    for step in STEPS:
        done = getattr(MlflowClient, step)

        def dies(*args, done=done, **kwargs):
            done(*args, **kwargs)
            raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(MlflowClient, step, dies)
            publish(repository)
    publish(repository)
    assert snapshot(repository) == snapshot(published[0])


def test_three_publishers_of_an_empty_store_make_one(tmp_path):
    root = synthetic.make(tmp_path / "repository", {"matching": 0.9})
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["metashot.tracking"])  # imported once, not three times
    publishers = [context.Process(target=publish, args=(root,)) for _ in range(3)]
    for publisher in publishers:
        publisher.start()
    for publisher in publishers:
        publisher.join(timeout=80)
    assert [publisher.exitcode for publisher in publishers] == [0, 0, 0]
    seen = snapshot(root)
    assert (len(seen["runs"]), len(seen["models"]), len(seen["versions"])) == (1, 1, 1)
    assert len(seen["points"]["matching", "train_loss"]) == 20


def test_a_dead_server_is_one_line_soon_without_its_password(repository, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:p@ssw0rd@127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(MetashotError, match=r"MLflow at http://127.0.0.1:9 failed") as caught:
        publish(repository)
    assert "\n" not in str(caught.value)
    assert "ssw0rd" not in str(caught.value)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    "uri",
    ["sqlite:////proc/nowhere/mlflow.db", "sqlite:///params.yaml", "postgresql://user:secret@nowhere/db"],
)
def test_a_store_that_cannot_be_used_is_one_line(repository, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(MetashotError, match=r"MLflow at .* failed; run `metashot publish`") as caught:
        publish(repository)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_changed_files_are_not_published(repository):
    (repository / f"models/{GROUP}/matching/model.safetensors").write_text("other weights")
    with pytest.raises(
        MetashotError, match=re.escape("models/glyphs-5w1s/matching is not what dvc.lock names")
    ):
        publish(repository)


def test_relative_database_paths_belong_to_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    assert tracking.tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///elsewhere.db")
    assert tracking.tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/elsewhere.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert tracking.tracking_uri(tmp_path) == "http://tracking:5000"


# The registered model. Its weights are random: what is tested is that its answers are those of the method.

PREDICT = """
import sys
from pathlib import Path
sys.path = [path for path in sys.path if not (Path(path) / "metashot/__init__.py").exists()]
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/glyphs-5w1s@champion")
answer = model.predict(pandas.read_pickle(sys.argv[2]))
import importlib
import metashot.methods
for module in Path(metashot.methods.__file__).parent.glob("*.py"):
    print(importlib.import_module(f"metashot.methods.{module.stem}").__file__)
answer.to_json(sys.argv[3])
"""


def save_random(method: str, folder: Path) -> None:
    import torch

    from metashot import methods
    from metashot.methods.base import Problem

    cls = methods.method_class(method)
    torch.manual_seed(0)
    params = cls.params_type(width=8, downsample="pool", lr=0.001, meta_batch=1, train_way=5)
    methods.save(cls(params, Problem((1, 28, 28), 5)), folder)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def drawings():
    """Seven different blots, light on dark, with an empty border: uint8 ``[7, 28, 28]``."""
    images = np.zeros((7, 28, 28), np.uint8)
    images[:, 2:-2, 2:-2] = np.random.default_rng(0).integers(0, 256, (7, 24, 24))
    return images


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    """A repository whose one published model is real."""
    root = synthetic.make(
        tmp_path_factory.mktemp("registered") / "repository", {"prototypical": 0.9}, save_random
    )
    synthetic.give_database(root)
    publish(root)
    return root


@pytest.fixture(scope="module")
def model(registered):
    import mlflow

    version = client_of(registered).get_model_version_by_alias(GROUP, "champion")
    return mlflow.pyfunc.load_model(version.source)


def test_the_champion_predicts_in_a_fresh_process_without_metashot(registered, drawings, tmp_path):
    import torch

    from metashot import methods

    labels = ["b", None, "a", "b", None, "c", None]
    # pandas' own pickle of a table is how this test hands it over; the model has none
    pd.DataFrame({"image": list(map(png, drawings)), "label": labels}).to_pickle(tmp_path / "task.pkl")
    uri = f"sqlite:///{registered}/mlruns/mlflow.db"
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, uri, "task.pkl", "answer.json"],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # the code came with the model, and that of every method is complete
    assert len(lines := done.stdout.splitlines()) >= 7
    assert all(line.startswith(str(registered / "mlruns/artifacts")) for line in lines)
    answer = pd.read_json(tmp_path / "answer.json")

    images = torch.from_numpy(drawings).float()[:, None] / 255
    support = torch.tensor([index for index, label in enumerate(labels) if label])
    numbers = torch.tensor([["abc".index(label) for label in labels if label]])
    method = methods.load(registered / f"models/{GROUP}/prototypical")
    with torch.no_grad():
        truth = method.predict(images[support][None], numbers, images[[1, 4, 6]][None], 3)[0].numpy()
    assert answer["label"].tolist() == ["abc"[best] for best in truth.argmax(1)]
    np.testing.assert_allclose(answer["probability"], truth.max(1), rtol=1e-5)
    shown = [[row[label] for label in "abc"] for row in answer["probabilities"]]
    np.testing.assert_allclose(shown, truth, rtol=1e-5)


def test_dark_ink_on_light_paper_reads_as_light_ink_on_dark(model, drawings):
    labels = ["a", "b", None, None]
    light = model.predict(pd.DataFrame({"image": [png(d) for d in drawings[:4]], "label": labels}))
    dark = model.predict(pd.DataFrame({"image": [png(255 - d) for d in drawings[:4]], "label": labels}))
    pd.testing.assert_frame_equal(light, dark)
    clear = [np.dstack([np.zeros((28, 28, 3), np.uint8), d]) for d in drawings[:4]]  # black ink, no paper
    pd.testing.assert_frame_equal(
        light, model.predict(pd.DataFrame({"image": map(png, clear), "label": labels}))
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([None, None, None], "no support set: no row has a label"),
        (["a", "b", "c"], "nothing to classify: every row has a label"),
        (["a", "a", None], "every labelled row says 'a': few-shot classification needs two classes"),
    ],
)
def test_tables_that_are_no_task_say_why(model, drawings, labels, message):
    with pytest.raises(ValueError, match=message):
        model.predict(pd.DataFrame({"image": [png(d) for d in drawings[:3]], "label": labels}))


def test_columns_and_pictures_that_are_wrong_say_why(model, drawings):
    good = pd.DataFrame({"image": [png(d) for d in drawings[:3]], "label": ["a", "b", None]})
    inner = model.unwrap_python_model()
    with pytest.raises(ValueError, match="unknown column 'class': the table has `image` and `label`"):
        inner.predict(None, good.assign(**{"class": 1}))
    with pytest.raises(ValueError, match="no column `label`"):
        model.predict(good[["image"]])
    for bad in (b"not a picture", png(drawings[0])[:60]):
        with pytest.raises(ValueError, match="row 1: image is not a readable picture") as caught:
            model.predict(good.assign(image=[good.image[0], bad, good.image[2]]))
        assert "\n" not in str(caught.value)


def test_a_version_has_a_signature_pins_and_no_pickle(registered):
    source = Path(
        client_of(registered).get_model_version_by_alias(GROUP, "champion").source.removeprefix("file://")
    )
    files = {path.name for path in source.rglob("*") if path.is_file()}
    assert {"model.safetensors", "model.json", "pyfunc_model.py", "MLmodel"} <= files
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".pt", ".pyc"))]
    pins = (source / "requirements.txt").read_text().split()
    assert [pin.split("==")[0] for pin in pins] == list(tracking.REQUIRED)
    assert all("==" in pin for pin in pins)
