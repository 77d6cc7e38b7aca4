"""A champion's life for real: promoted, adopted, defended, replaced, rolled back; DVC and MLflow agree."""

import hashlib
import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from project import IDENTITY, Edit, Project, backdate

from metashot.audit.evidence import Evidence
from metashot.audit.verdict import Differs, Unknown
from metashot.data import store
from metashot.learning.models import methods
from metashot.learning.models.episodes import load_manifest
from metashot.lineage import lockfile
from metashot.lineage.lockfile import Lock

pytestmark = pytest.mark.slow

GROUP = "glyphs-5w1s"
JUDGED = [f"gate@{GROUP}", f"register@{GROUP}"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, drawn: Project) -> Project:
    """One method; its first training is fair, and is champion."""
    project = drawn.copy(tmp_path_factory.mktemp("project"))
    with project.params() as params:
        params["methods"] = ["prototypical"]
        params["setting"]["5w1s"] |= {"test_episodes": 60, "extra": {}}
        params["method"]["prototypical"] |= {"lr": 0.01}
    train(project, 20)
    return project


def train(project: Project, steps: int) -> list[str]:
    with project.params() as params:
        params["data"]["glyphs"]["budget"] = {"prototypical": steps}
    return project.repro()


def decision(project: Project) -> dict:
    return json.loads((project.root / f"reports/{GROUP}-gate.json").read_text())


def result(project: Project) -> str:
    """The result that dvc.lock names now."""
    return Lock(project.root).cell("glyphs", "5w1s", "prototypical").result


def aliased(project: Project) -> dict[str, str]:
    """What MLflow's aliases point at: the results of the versions. The champion's names the present decision.

    Read from the database itself: a client in this process would keep a deleted one open.
    """
    file = project.root / f"reports/{GROUP}-gate.json"
    digest = hashlib.md5(file.read_bytes()).hexdigest()
    with sqlite3.connect(project.root / "mlruns/mlflow.db") as database:
        found = database.execute(
            "select a.alias, t.key, t.value from registered_model_aliases a"
            " join model_versions v using (name, version) join model_version_tags t using (name, version)"
        ).fetchall()
        comparisons = database.execute(
            "select run_uuid from tags where key = 'metashot.decision' and value = ?", [digest]
        ).fetchall()
    ((run,),) = comparisons  # each decision is shown once
    copy = project.root / f"mlruns/artifacts/{GROUP}/{run}/artifacts/{file.name}"
    assert copy.read_bytes() == file.read_bytes()
    assert ("champion", "metashot.decision", digest) in found
    return {alias: value for alias, key, value in found if key == "metashot.result"}


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory, drawn: Project) -> Project:
    """One method, which is not trained."""
    project = drawn.copy(tmp_path_factory.mktemp("untrained"))
    with project.params() as params:
        params["methods"] = ["ridge"]
        params["setting"]["5w1s"] |= {"test_episodes": 60, "extra": {}}
        params["method"]["prototypical"] |= {"lr": 1e-6}
        params["data"]["glyphs"]["budget"] = {"ridge": 0, "prototypical": 1}
    project.repro()
    return project


def commit(project: Project) -> None:
    for command in (["add", "."], ["commit", "-qm", "more"]):
        subprocess.run(["git", *IDENTITY, *command], cwd=project.root, check=True)


def by_hand(folder: Path, project: Project) -> list[float]:
    """Accuracy in each test episode, one at a time and by none of the evaluation's code."""
    images = store.load(project.root / "data/processed/glyphs.parquet", "test")
    manifest = load_manifest(project.root / f"data/episodes/{GROUP}/test.parquet", images)
    model, found = methods.load(folder), []
    for row in range(len(manifest)):
        episode = manifest.gather(images.tensor(), slice(row, row + 1))
        with torch.no_grad():
            said = model.predict(episode.support, episode.support_labels, episode.query, episode.n_way)
        found.append((said.argmax(-1) == episode.query_labels).float().mean().item())
    return found


def test_a_champion_is_adopted_defends_itself_is_replaced_and_comes_back(project: Project) -> None:
    first = result(project)
    assert decision(project)["promoted"]
    assert aliased(project) == {"champion": first, "challenger": first}

    # adopted: the incumbent is the champion itself
    assert "prototypical is the incumbent" in project.run("metashot", "adopt", "glyphs", "5w1s").stdout
    assert project.repro() == ["code", *JUDGED]
    said = decision(project)
    assert (said["promoted"], said["incumbent"]) == (False, said["champion"])
    assert "nothing to adopt" in project.run("metashot", "adopt", "glyphs", "5w1s").stdout
    assert project.repro() == []
    kept, cell = lockfile.adopted(project.root, "glyphs", "5w1s")[0]
    assert cell.result == first
    stages = [entry.stage for entry in kept.ancestry(cell.train, cell.evaluate)]
    assert stages[-1] == f"train@{GROUP}-prototypical"

    # a worse challenger, and other test episodes, on which the incumbent is measured again
    with project.params() as params:
        params["setting"]["5w1s"]["test_episodes"] = 80
    train(project, 1)
    said = decision(project)
    assert (said["promoted"], said["champion"]) == (False, said["incumbent"])
    assert said["difference"]["low"] < 0
    old, new = (
        by_hand(folder, project)
        for folder in (kept.root / cell.model, project.root / f"models/{GROUP}/prototypical")
    )
    assert len(old) == 80
    assert said["incumbent"]["accuracy"] == pytest.approx(np.mean(old))
    assert said["difference"]["mean"] == pytest.approx(np.mean(new) - np.mean(old))
    assert aliased(project) == {"champion": first, "challenger": result(project)}
    shown = project.run("metashot", "compare", "glyphs", "5w1s").stdout
    assert "prototypical ‡ ★" in shown
    assert "incumbent, stays champion" in shown
    [compared] = json.loads(project.run("metashot", "compare", "--json").stdout)
    [pair] = compared["pairs"]
    assert (pair["first"], pair["second"]) == ("prototypical (incumbent)", "prototypical")
    assert pair["difference"]["mean"] == pytest.approx(np.mean(old) - np.mean(new))
    assert pair["difference"]["wins"] == np.greater(old, new).sum()
    assert pair["p_corrected"] < 0.05

    # an emptied MLflow gets the incumbent back
    shutil.rmtree(project.root / "mlruns")
    done = project.run("metashot", "publish").stdout
    assert "2 models, 2 new; champion prototypical (incumbent) v1" in done
    assert aliased(project) == {"champion": first, "challenger": result(project)}
    assert "2 models, 0 new" in project.run("metashot", "publish").stdout

    # a better challenger
    train(project, 100)
    second = result(project)
    said = decision(project)
    assert (said["promoted"], said["champion"]) == (True, said["challenger"])
    assert said["difference"]["low"] > 0
    assert aliased(project) == {"champion": second, "challenger": second}

    # rolled back, though it had been adopted meanwhile
    project.run("metashot", "adopt", "glyphs", "5w1s")
    assert project.repro() == JUDGED
    barred = decision(project)["champion"]["model"]
    command = ["metashot", "rollback", "glyphs", "5w1s", "--reason"]
    assert "needs a reason" in project.run(*command, " ", ok=False).stderr
    project.run(*command, "it confuses two letters")
    said = decision(project)
    assert (said["champion"]["model"], said["promoted"]) == (cell.weights, False)
    assert said["reasons"][0].endswith(": it confuses two letters")
    assert aliased(project) == {"champion": first}
    [entry] = json.loads((project.root / f"champions/{GROUP}.json").read_text())
    assert (entry["model"], entry["result"]) == (barred, second)
    assert entry["reason"] == "it confuses two letters"
    assert project.repro() == []

    # nothing is left after the last one
    done = project.run(*command, "this one too", ok=False)
    assert done.stderr.startswith(f"error: prototypical (incumbent) stays champion of {GROUP}, for nothing")
    assert done.stderr.count("\n") == 1
    assert len(json.loads((project.root / f"champions/{GROUP}.json").read_text())) == 1


def test_a_method_that_is_not_trained_goes_all_the_way(untrained: Project, tmp_path: Path) -> None:
    """Champion, audited, traced, asked, made again, adopted, tested again, rolled back."""
    project = untrained
    first = Lock(project.root).cell("glyphs", "5w1s", "ridge").result
    assert decision(project)["champion"]["method"] == "ridge"
    assert aliased(project) == {"champion": first, "challenger": first}

    commit(project)
    project.run("metashot", "publish")
    audited = json.loads(project.run("metashot", "audit", GROUP, "--json").stdout)
    assert {one["verdict"] for one in audited} == {"verified"}
    champion = f"{GROUP}@champion"
    traced = project.run("metashot", "trace", champion).stdout
    assert "none, made in" in traced
    assert "chosen.strength=" in traced
    samples = store.load(project.root / "data/processed/glyphs.parquet", "test")
    pictures = samples.tensor()[:, 0].mul(255).round().byte().numpy()
    for number, name in enumerate(("one", "two")):
        of_class = np.flatnonzero(np.asarray(samples.labels) == number)[:2]
        for folder, index in zip((f"support/{name}", "asked"), of_class, strict=True):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pictures[index]).save(tmp_path / folder / f"{name}.png")
    asked = ["metashot", "predict", champion, str(tmp_path / "asked"), "--json"]
    answers = json.loads(project.run(*asked, "--support", str(tmp_path / "support")).stdout)
    assert len(answers) == 2
    assert all(sum(one["probabilities"].values()) == pytest.approx(1) for one in answers)
    made = json.loads(project.run("metashot", "reproduce", champion, "--json").stdout)
    assert made["verdict"] == "bit-equal"

    # adopted, and tested again on other episodes beside a method that is trained
    assert "ridge is the incumbent" in project.run("metashot", "adopt", "glyphs", "5w1s").stdout
    with project.params() as params:
        params["methods"] = ["prototypical"]
        params["setting"]["5w1s"]["test_episodes"] = 80
    project.repro()
    kept, cell = lockfile.adopted(project.root, "glyphs", "5w1s")[0]
    old, new = (
        by_hand(folder, project)
        for folder in (kept.root / cell.model, project.root / f"models/{GROUP}/prototypical")
    )
    said = decision(project)
    assert said["incumbent"]["accuracy"] == pytest.approx(np.mean(old))
    assert (said["champion"], said["promoted"]) == (said["incumbent"], False)
    [compared] = json.loads(project.run("metashot", "compare", "--json").stdout)
    [gain] = compared["gains"]
    assert (gain["trained"], gain["training_free"]) == ("prototypical", "ridge (incumbent)")
    assert gain["difference"]["mean"] == pytest.approx(np.mean(new) - np.mean(old))
    shown = project.run("metashot", "compare").stdout
    assert "ridge ‡ ★" in shown
    assert "meta-training " in shown

    project.run("metashot", "rollback", "glyphs", "5w1s", "--reason", "it is too slow")
    assert decision(project)["champion"]["method"] == "prototypical"


def test_a_clone_does_not_judge_without_the_incumbent(project: Project, tmp_path: Path) -> None:
    """Runs behind the test above, on what it left."""
    commit(project)
    subprocess.run(["git", "clone", "-q", project.root, tmp_path / "clone"], check=True)
    clone = Project.at(tmp_path / "clone")
    # The same cache, so that nothing is made again: it would have other records than dvc.lock names
    (clone.root / ".dvc/config.local").write_text(f"[cache]\n    dir = {project.root}/.dvc/cache\n")
    done = clone.run("dvc", "repro", f"gate@{GROUP}", ok=False)
    assert f"missing data 'source': champions/{GROUP}" in done.stderr
    stages = [f"{stage}@{GROUP}-prototypical" for stage in ("train", "evaluate")]
    clone.run("dvc", "checkout", "--force", "preprocess@glyphs", f"episodes@{GROUP}", *stages)
    done = clone.run("dvc", "repro", "--single-item", f"gate@{GROUP}", ok=False)
    assert f"run `dvc pull champions/{GROUP}.dvc`" in done.stderr
    clone.run("dvc", "checkout")
    assert clone.repro() == []


def test_an_audit_judges_again_and_tests_the_incumbent_again(project: Project, tmp_path: Path) -> None:
    """Runs behind the tests above: the decision is on an incumbent that is not one of the present models."""
    root = tmp_path / "audited"
    shutil.copytree(project.root, root, symlinks=True)

    def judged() -> str:
        """Why the decision that counts is refused; empty if it is confirmed."""
        decisions = Evidence(root, {}).decisions
        lock, counts = decisions.all(GROUP)[-1]
        try:
            decisions.judged(lock, GROUP, decisions.read(counts))
        except (Differs, Unknown) as error:
            return str(error)
        return ""

    def forged(change: Callable[[dict], object]) -> str:
        """The same of a forged decision that DVC's cache and a commit hold."""
        said = decision(project)
        change(said)
        content = (json.dumps(said, indent=2, ensure_ascii=False) + "\n").encode()
        md5 = hashlib.md5(content).hexdigest()
        old = hashlib.md5((project.root / f"reports/{GROUP}-gate.json").read_bytes()).hexdigest()
        cached = root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.write_bytes(content)
        text = (project.root / "dvc.lock").read_text().replace(old, md5)
        (root / "dvc.lock").write_text(text)
        backdate(root / "dvc.lock")
        subprocess.run(["git", *IDENTITY, "commit", "-qam", "forged"], cwd=root, check=True)
        return judged()

    said = decision(project)
    assert said["incumbent"]["model"] not in said["judged"].values()
    assert judged() == ""
    invented = {**said["incumbent"], "accuracy": 0.999}
    assert "incumbent of the decision" in forged(lambda d: d.update(incumbent=invented, champion=invented))
    stranger = {**said["incumbent"], "model": f"{'0' * 32}.dir"}
    assert "incumbent of the decision" in forged(lambda d: d.update(incumbent=stranger, champion=stranger))
    assert "incumbent of the decision" in forged(lambda d: d.update(incumbent=None, champion=None))
    assert "min_accuracy of the decision" in forged(lambda d: d.update(min_accuracy=0.5))
    assert "reasons of the decision" in forged(lambda d: d["reasons"].append("it is the best"))
    assert "reasons of the decision" in forged(lambda d: d["reasons"].pop(0))
    retested = {name: {**one, "mean": one["mean"] + 0.1} for name, one in said["retested"].items()}
    assert "retested of the decision" in forged(lambda d: d.update(retested=retested))
    assert forged(lambda d: None) == ""

    # a rule that the commit's params.yaml does not have, with a decision that follows it
    text = (root / "dvc.lock").read_text()
    (root / "dvc.lock").write_text(text.replace("min_accuracy: 0.0", "min_accuracy: 0.01"))
    backdate(root / "dvc.lock")
    subprocess.run(["git", *IDENTITY, "commit", "-qam", "another rule"], cwd=root, check=True)
    assert "gate of the decision is" in judged()
    with Edit(
        root / "params.yaml"
    ) as params:  # committed later, the decision itself being of the rule before
        params["gate"]["min_accuracy"] = 0.01
    subprocess.run(["git", *IDENTITY, "commit", "-qam", "the rule"], cwd=root, check=True)
    assert "gate of the decision is" in judged()  # what is told is why the first commit does not fit
