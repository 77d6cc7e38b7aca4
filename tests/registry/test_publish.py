"""MLflow as publish leaves it, and as it is rebuilt from git and DVC: real SQLite stores, git and caches."""

import hashlib
import json
import multiprocessing
import re
import shutil
import time
import zipfile
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path

import pytest
import synthetic
from mlflow import MlflowClient
from ruamel.yaml import YAML
from shown import client_of, snapshot
from typer.testing import CliRunner

from metashot.cli.app import app
from metashot.errors import MetashotError
from metashot.lineage.lockfile import Lock
from metashot.registry import carried, runs, tracking
from metashot.registry import publish as publishing
from metashot.results import cards, compare

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


def publish(root: Path) -> publishing.Published:
    (group,) = publishing.publish(root, [("glyphs", "5w1s")], list(synthetic.ACCURACY))
    return group


def test_a_run_shows_what_dvc_keeps(published):
    repository, _ = published
    seen = snapshot(repository)
    lock = Lock(repository)
    cell = lock.cell("glyphs", "5w1s", "matching")
    started = 1000 * int(synthetic.STARTED)
    assert ("matching", "FINISHED", started, started + 41_500) in seen["runs"]
    assert seen["points"]["matching", "train_loss"] == [
        (step, started + 100 * step, 2 / step) for step in range(1, 21)
    ]
    assert len(seen["points"]["matching", "val_accuracy"]) == 10
    assert [value for _, _, value in seen["points"]["matching", "test_accuracy"]] == [0.91]
    assert seen["params"]["matching"] == {
        "seed": "1",
        "method.name": "matching",
        "method.lr": "0.001",
        "method.meta_batch": "1",
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
    (run,) = (r for r in client_of(repository).search_runs(["1"]) if r.info.run_name == "matching")
    file = Path(run.info.artifact_uri.removeprefix("file://"), "lineage.json")
    said = json.loads(file.read_text())
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    assert tags["metashot.lineage"] == hashlib.sha256(text.encode()).hexdigest()
    stages = YAML(typ="safe").load((repository / "dvc.lock").read_text())["stages"]
    names = "download@glyphs", "preprocess@glyphs", "episodes@glyphs-5w1s"
    assert set(said["stages"]) == {*names, cell.train.stage, cell.evaluate.stage}
    for name, entry in said["stages"].items():
        assert sorted(entry["deps"], key=itemgetter("path")) == sorted(
            stages[name]["deps"], key=itemgetter("path")
        )
        assert {out["path"]: out["md5"] for out in entry["outs"]} == {
            out["path"]: out["md5"] for out in stages[name]["outs"]
        }
    assert said["training"] == json.loads((repository / cell.train_record).read_text())
    assert said["metrics"] == json.loads((repository / cell.metrics).read_text())
    assert said["origin"]["files"] == {"glyphs.zip": hashlib.md5(b"archive").hexdigest()}
    assert (tags["metashot.git_commit"], tags["metashot.git_dirty"]) == ("c" * 40, "false")
    assert (tags["metashot.synthetic"], tags["metashot.device"]) == ("true", "cpu")
    assert seen["files"]["matching"] == ["learning-curve.png", "lineage.json"]
    comparison = "comparison: champion prototypical, 95.00 %"
    assert seen["files"][comparison] == [
        "differences.png", f"{GROUP}-gate.json", f"{GROUP}.json", f"{GROUP}.png",
    ]  # fmt: skip
    assert seen["points"][comparison, "lead"][0][2] == pytest.approx(0.04)


def test_models_are_linked_to_run_test_data_and_version(published):
    repository, group = published
    seen = snapshot(repository)
    name, status, run, metrics, _ = seen["models"][0]
    assert (name, status, run) == ("matching", "READY", "matching")
    assert ("test_accuracy", 0.91, f"data/episodes/{GROUP}/test.parquet") in metrics
    assert ("test_accuracy_5w5s", 0.93, f"data/episodes/{GROUP}/test-5w5s.parquet") in metrics
    outputs = {name: count for name, count in seen["outputs"].items() if not name.startswith("comparison")}
    assert outputs == {"matching": 1, "prototypical": 1, "transfer": 1}
    assert group.versions == {"matching": 1, "prototypical": 2, "transfer": 3}  # in the order of training
    version = seen["versions"][1]
    assert version[:2] == (2, "prototypical")
    assert version[2].startswith("**prototypical: 95.00 ± 0.40 %** on glyphs (synthetic data), 5-way 1-shot")
    assert len(version[2]) < 5000  # MLflow's limit
    assert seen["aliases"] == {"challenger": 2, "champion": 2}
    decision = hashlib.md5((repository / f"reports/{GROUP}-gate.json").read_bytes()).hexdigest()
    assert dict(version[3])["metashot.decision"] == decision


def test_a_comparison_run_says_what_meta_training_gained(tmp_path):
    root = synthetic.make(tmp_path / "repository", {"prototypical": 0.9, "ridge": 0.93})
    synthetic.give_database(root)
    publishing.publish(root, [("glyphs", "5w1s")], ["prototypical", "ridge"])
    seen = snapshot(root)
    name = "comparison: champion ridge, 93.00 %"
    comparison = compare.compare(Lock(root), "glyphs", "5w1s", ["prototypical", "ridge"])
    tags = seen["tags"][name]
    assert tags["metashot.gain"] == comparison.headline
    assert comparison.headline.startswith("meta-training lost 3.00 ± 0.5")
    assert f"**M{comparison.headline[1:]}.**" in tags["mlflow.note.content"]
    for key, value in comparison.gain_metrics.items():
        assert [point[2] for point in seen["points"][name, key]] == [value]
    assert {method: seen["tags"][method]["group"] for method in ("prototypical", "ridge")} == {
        "prototypical": "trained",
        "ridge": "training-free",
    }
    assert [dict(version[3])["group"] for version in seen["versions"]] == ["trained", "training-free"]


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
    names = [name for name, *_ in seen["runs"] if not name.startswith("comparison")]
    assert names == ["matching", "prototypical", "transfer", "transfer #2"]
    assert len(seen["runs"]) == 6  # and a comparison before and after
    assert seen["tags"]["prototypical"].get("standing") is None
    assert seen["aliases"] == {"challenger": 4, "champion": 4}
    assert seen["experiment"]["mlflow.note.content"].startswith("Champion: transfer, 97.00 ± 0.40 %.")

    for method, accuracy in zip(synthetic.ACCURACY, (0.2, 0.19, 0.18), strict=True):  # all as good as a guess
        synthetic.retrain(repository, method, accuracy)
    assert "; champion none " in str(publish(repository))
    assert snapshot(repository)["aliases"] == {"challenger": 5}


def test_other_code_in_the_model_is_a_new_version_of_the_same_run(tmp_path, monkeypatch):
    root = synthetic.make(tmp_path / "repository", {"matching": 0.9})
    synthetic.give_database(root)
    assert publish(root).versions == {"matching": 1}
    before = snapshot(root)
    package = tmp_path / "metashot"
    shutil.copytree(carried.PACKAGE, package)
    shutil.copy(carried.PACKAGE.with_name("requirements.lock"), tmp_path)
    for module in (runs, carried):
        monkeypatch.setattr(module, "PACKAGE", package)
    (package / "learning/models/methods/maml.py").write_text("# matching does not carry this\n")
    assert publish(root).added == 0
    for path in ("registry/pyfunc_model.py", "learning/models/methods/base.py"):
        (package / path).write_text((package / path).read_text() + "\n# changed\n")
        assert publish(root).added == 1
        assert publish(root).added == 0
    seen = snapshot(root)
    for same in ("runs", "points", "params", "inputs", "files"):
        assert seen[same] == before[same]
    assert [number for number, *_ in seen["versions"]] == [1, 2, 3]
    assert len({json.dumps(model[:4]) for model in seen["models"]}) == 1  # each with all test metrics
    assert len(seen["models"]) == 3
    assert seen["aliases"] == {"challenger": 3, "champion": 3}
    version = client_of(root).get_model_version_by_alias(GROUP, "champion")
    newest = Path(version.source.removeprefix("file://"))
    with zipfile.ZipFile(newest / "code.zip") as held:
        changed = {name for name in held.namelist() if held.read(name).endswith(b"# changed\n")}
    assert {name.partition("/")[2] for name in changed} == {
        "registry/pyfunc_model.py",
        "learning/models/methods/base.py",
    }


def test_two_versions_are_compared_in_a_run_that_is_linked_to_both_and_made_once(repository, monkeypatch):
    versions = publish(repository).versions
    monkeypatch.chdir(repository)
    lock = Lock(repository)
    one, other = ((lock, lock.cell("glyphs", "5w1s", method)) for method in ("matching", "prototypical"))
    expected = compare.pair(one, other)
    names = [f"{GROUP}/{versions[method]}" for method in ("matching", "prototypical")]
    done = CliRunner().invoke(app, ["compare", *names, "--json"])
    assert (done.exit_code, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert [said.pop("first"), said.pop("second")] == names
    assert said == asdict(expected)
    before = snapshot(repository)
    added = f"comparison: {names[0]} against {names[1]}"
    assert before["compared"][added] == ["matching", "prototypical"]
    assert before["points"][added, "lead"][0][2] == expected.mean < 0

    done = CliRunner().invoke(app, ["compare", names[0], f"{GROUP}@champion"])
    assert done.stdout.startswith(f"{names[0]} minus {names[1]}: -4.00 ± ")
    assert f"In {expected.wins:,} episodes the first is more accurate" in done.stdout.replace("\n", " ")
    assert snapshot(repository) == before
    assert publish(repository).added == 0  # a run that publishing does not know disturbs nothing
    assert snapshot(repository) == before

    for wrong, error in (
        ([names[0]], "two versions are compared in words or as JSON: name both"),
        ([names[0], f"{GROUP}/9"], f"{GROUP} has no version 9"),
    ):
        done = CliRunner().invoke(app, ["compare", *wrong])
        assert (done.exit_code, done.stderr.startswith(f"error: {error}")) == (1, True)


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
    "set_logged_model_tags",
    "finalize_logged_model",
    "log_outputs",
    "log_artifacts",
    "create_model_version",
    "set_terminated",
    "set_tag",
    "set_registered_model_alias",
    "set_registered_model_tag",
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
    # a result and a comparison
    assert (len(seen["runs"]), len(seen["models"]), len(seen["versions"])) == (2, 1, 1)
    assert len(seen["points"]["matching", "train_loss"]) == 20


def test_a_dead_server_is_one_line_soon_without_its_password(repository, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:p%40ssw0rd@127.0.0.1:9")
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


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Two branches, three trainings; published from main, that is at the third. With the commits."""
    root = synthetic.make(tmp_path_factory.mktemp("told") / "repository")
    synthetic.version(root)
    commits = [synthetic.commit(root, "first")]
    synthetic.git(root, "checkout", "-q", "-b", "other")
    synthetic.retrain(root, "transfer", 0.97, synthetic.STARTED + 1000)
    commits.append(synthetic.commit(root, "transfer again"))
    synthetic.checkout(root, "main")
    synthetic.retrain(root, "matching", 0.93, synthetic.STARTED + 2000)
    commits.append(synthetic.commit(root, "matching again"))
    synthetic.give_database(root)
    return root, publish(root), commits


def copied(root: Path, target: Path) -> Path:
    """The repository elsewhere with an empty MLflow: this process holds the database that it has open."""
    shutil.copytree(root, target, ignore=shutil.ignore_patterns("mlruns"))
    synthetic.give_database(target)
    return target


def cells(root: Path, commit: str) -> dict[str, dict]:
    """What a commit's dvc.lock has."""
    stages: dict = YAML(typ="safe").load(synthetic.git(root, "show", f"{commit}:dvc.lock"))["stages"]
    return stages


def weights(root: Path, commit: str, method: str) -> Path:
    """Where the cache has the weights that a commit names."""
    out = cells(root, commit)[f"train@{GROUP}-{method}"]["outs"][0]
    listing = json.loads(synthetic.cached(root, out["md5"]).read_text())
    return synthetic.cached(root, next(i["md5"] for i in listing if i["relpath"] == "model.safetensors"))


def test_all_of_gits_history_is_published_in_the_order_of_training(told):
    root, group, (first, other, last) = told
    assert (group.added, group.gone) == (5, [])
    assert group.versions == {"matching": 5, "prototypical": 2, "transfer": 3}
    seen = snapshot(root)
    assert [(number, run, dict(tags)["metashot.commit"]) for number, run, _, tags in seen["versions"]] == [
        (1, "matching", first),
        (2, "prototypical", first),
        (3, "transfer", first),
        (4, "transfer #2", other),
        (5, "matching #2", last),
    ]
    assert seen["aliases"] == {"challenger": 2, "champion": 2}  # of main, whatever the other branch says
    compared = {name: runs for name, runs in seen["compared"].items() if name.startswith("comparison")}
    assert compared == {
        "comparison: champion prototypical, 95.00 %": [
            "matching", "prototypical", "transfer"
        ],
        "comparison: champion transfer, 97.00 %": ["matching", "prototypical", "transfer #2"],
        "comparison: champion prototypical, 95.00 % #2": [
            "matching #2", "prototypical", "transfer"
        ],
    }  # fmt: skip
    for name, commit in zip(compared, (first, other, last), strict=True):
        gate = cells(root, commit)[f"gate@{GROUP}"]
        assert seen["tags"][name]["metashot.decision"] == gate["outs"][0]["md5"]


def test_an_emptied_store_is_rebuilt_with_its_history(told, tmp_path):
    root, _, _ = told
    again = copied(root, tmp_path / "again")
    assert publish(again).added == 5
    assert snapshot(again) == snapshot(root)
    before = snapshot(again)
    assert publish(again).added == 0
    assert snapshot(again) == before


def test_a_commit_adds_no_more_than_its_name(repository):
    synthetic.version(repository)
    publish(repository)
    before = snapshot(repository)
    commit = synthetic.commit(repository, "results")
    assert publish(repository).added == 0
    after = snapshot(repository)
    added = [
        (number, sorted({*tags} - {*old})) for (number, _, _, tags), (_, _, _, old) in
        zip(after.pop("versions"), before.pop("versions"), strict=True)
    ]  # fmt: skip
    assert added == [(number, [("metashot.commit", commit)]) for number in (1, 2, 3)]
    assert after == before


def test_what_is_lost_is_told_and_the_rest_is_there_and_a_remote_gives_it_back(told, tmp_path):
    root, _, (first, _, _) = told
    again = copied(root, tmp_path / "again")
    lost = weights(again, first, "matching")
    kept = tmp_path / "store/files/md5" / lost.parent.name / lost.name
    kept.parent.mkdir(parents=True)
    lost.rename(kept)
    group = publish(again)
    (line,) = group.gone
    assert line.startswith("matching, result ")
    assert line.endswith(f"(the DVC cache has no {lost.parent.name}{lost.name})")
    assert line in str(group)
    seen = snapshot(again)
    assert [run for _, run, *_ in seen["versions"]] == ["prototypical", "transfer", "transfer #2", "matching"]
    assert seen["aliases"] == {"challenger": 1, "champion": 1}
    assert sorted(map(len, (runs for name, runs in seen["compared"].items() if "comparison" in name))) == [
        2, 2, 3,
    ]  # fmt: skip

    (again / ".dvc/config").write_text(
        "[core]\n    remote = store\n['remote \"store\"']\n    url = ../../store\n"
    )
    group = publish(again)
    assert (group.added, group.gone) == (1, [])
    assert lost.read_bytes() == kept.read_bytes()
    assert snapshot(again)["versions"][-1][:2] == (5, "matching")


def test_a_result_is_read_where_it_still_can_be(told, tmp_path):
    """The cache is lost: the workspace has the present results, and nothing has the others."""
    root, _, (first, other, last) = told
    again = copied(root, tmp_path / "again")
    shutil.rmtree(again / ".dvc/cache")
    group = publish(again)
    assert group.versions == {"matching": 3, "prototypical": 1, "transfer": 2}
    assert len(group.gone) == 4  # two results, two comparisons
    told_of = " ".join(group.gone)
    assert f"comparison of commit {first[:10]}" in told_of
    assert f"comparison of commit {other[:10]}" in told_of
    assert last[:10] not in told_of


def test_a_result_made_again_keeps_its_first_records(told, tmp_path):
    """As by `dvc repro --force`: the same weights at another time are the same result."""
    root, _, _ = told
    again = copied(root, tmp_path / "again")
    path = again / "records/train/glyphs-5w1s/prototypical/record.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"started": record["started"] + 5000}))
    synthetic.enter(again, f"train@{GROUP}-prototypical")
    synthetic.commit(again, "made again")
    assert publish(again).added == 5
    assert snapshot(again)["runs"] == snapshot(root)["runs"]


def test_a_data_set_that_is_made_no_more_stays_published(told, tmp_path):
    root, _, _ = told
    again = copied(root, tmp_path / "again")
    synthetic.git(again, "rm", "-q", "dvc.lock")
    (again / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    (group,) = publishing.publish_all(again)
    assert (group.added, group.champion, group.gone) == (5, "prototypical", [])
    assert snapshot(again)["versions"] == snapshot(root)["versions"]

    gone = copied(again, tmp_path / "gone")
    shutil.rmtree(gone / ".dvc/cache")
    (group,) = publishing.publish_all(gone)
    assert (group.versions, len(group.gone)) == ({}, 1)


def test_runs_that_another_form_wrote_look_as_new_ones_do(told, tmp_path, monkeypatch):
    root, _, _ = told
    again = copied(root, tmp_path / "again")
    labels = cards.labels
    with monkeypatch.context() as patch:
        patch.setattr(publishing, "form", lambda kind: "another")
        patch.setattr(cards, "headline", lambda comparison: "who won")
        patch.setattr(cards, "labels", lambda document: labels(document) | {"accuracy": "good"})
        publish(again)
    assert publish(again).added == 0
    assert snapshot(again) == snapshot(root)


def test_a_commit_is_recorded_whose_records_are_those_of_the_run(repository):
    """Made again in a clone without the first files: the same result, with records of its own."""

    def commits() -> dict[str, str | None]:
        found = client_of(repository).search_model_versions(f"name = '{GROUP}'")
        return {version.tags["method"]: version.tags.get(tracking.COMMIT) for version in found}

    synthetic.version(repository)
    first = synthetic.commit(repository, "first")
    shutil.rmtree(repository / ".dvc/cache/files")
    before = Lock(repository).cell("glyphs", "5w1s", "matching")
    path = repository / "records/train/glyphs-5w1s/matching/record.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"started": record["started"] + 5000}))
    synthetic.enter(repository, f"train@{GROUP}-matching")
    again = Lock(repository).cell("glyphs", "5w1s", "matching")
    assert (again.result, again.train.outs != before.train.outs) == (before.result, True)
    assert publish(repository).added == 3
    assert commits() == {"matching": None, "prototypical": first, "transfer": first}
    second = synthetic.commit(repository, "made again")
    assert publish(repository).added == 0
    assert commits() == {"matching": second, "prototypical": first, "transfer": first}
