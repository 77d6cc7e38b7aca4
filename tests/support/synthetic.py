"""A repository as DVC leaves it after `dvc repro`, written by hand: results of trainings that never ran."""

import functools
import hashlib
import json
import math
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from mlflow.entities.model_registry import ModelVersion
from project import backdate
from ruamel.yaml import YAML

from metashot.config import params
from metashot.data import Form
from metashot.data.kinds import images
from metashot.learning.models import methods
from metashot.learning.models.backbones.conv4 import Conv4Params
from metashot.learning.models.methods.base import Problem
from metashot.registry import carried
from metashot.results import gate
from metashot.results.decision import Decision, decision_path

ROOT = Path(__file__).parents[2]
ACCURACY = {"matching": 0.91, "prototypical": 0.95, "transfer": 0.78}
# Models with random weights, and how accurate they are made out to be
MODELS = {"prototypical": 0.9, "maml": 0.8, "reptile": 0.7}
BASE = {"lr": 1e-3, "meta_batch": 1, "train_way": 5}
ADAPTED = BASE | {"inner_lr": 0.4, "inner_steps": 1, "test_lr": 0.4, "test_steps": 3}
PARAMS = {
    "prototypical": BASE | {"temperature": 1.0},
    "maml": ADAPTED | {"second_order": True, "query_norm": "query"},
    "reptile": ADAPTED | {"inner_shot": 1, "query_norm": "support"},
}
STARTED = 1_790_000_000.0
CHOSEN = {  # features and constants of methods that are not trained
    "centroid": ("pixels", {"scale": 10.0}),
    "neighbour": ("hog", {"scale": 15.8489}),
    "ridge": ("hog", {"strength": 0.1, "scale": 3.98107}),
}


def make(
    root: Path,
    accuracy: dict[str, float] | None = None,
    save: Callable[[str, Path], None] | None = None,
    ds: str = "glyphs",
    s: str = "5w1s",
    classes: str = "disjoint",
    form: Form | None = None,
    encoder: Path | None = None,
) -> Path:
    """Write params.yaml, all outputs and the dvc.lock that names them; `save` writes a real model."""
    accuracy = accuracy or ACCURACY
    root.mkdir(parents=True, exist_ok=True)
    (root / "dvc.yaml").write_text("stages: {}\n")
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    _dump(root / "params.yaml", params | {"datasets": [ds], "settings": [s], "methods": list(accuracy)})
    (root / "raw.txt").write_text("raw")
    raw = f"data/raw/{ds}"
    (root / raw).mkdir(parents=True)
    (root / raw / f"{ds}.zip").write_text("archive")
    origin = {"source": "made up", "licence": "none", "citation": "", "synthetic": ds == "glyphs"}
    origin["classes"] = classes
    if encoder:
        shutil.copytree(encoder, root / raw / "encoder")
        md5 = _md5(root / raw / "encoder")
        origin["encoder"] = {"name": "words", "md5": md5, "trained_on": "letters", "seen": ""}
    about = json.dumps(origin)
    said = {"metashot.form": json.dumps(asdict(form or images.form(28, 1))), "metashot.about": about}
    data, episodes = f"data/processed/{ds}.parquet", f"data/episodes/{ds}-{s}"
    for path in (data, *(f"{episodes}/{part}.parquet" for part in ("train", "val", "test", "test-5w5s"))):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        table = pa.table({"path": [path]})
        pq.write_table(table.replace_schema_metadata(said), root / path)
    stages = {
        f"download@{ds}": _stage(root, f"python -m stages.download {ds}", ["raw.txt"], [raw]),
        f"preprocess@{ds}": _stage(root, f"python -m stages.preprocess {ds}", [raw], [data]),
        f"episodes@{ds}-{s}": _stage(root, f"python -m stages.episodes {ds} {s}", [data], [episodes]),
    }
    for index, method in enumerate(accuracy):
        stages |= cell(root, ds, s, method, accuracy[method], started=STARTED + 100 * index, save=save)
    _dump(root / "dvc.lock", {"schema": "2.0", "stages": stages})
    judge(root, ds, s)
    return root


def retrain(root: Path, method: str, accuracy: float, started: float = STARTED + 1000, **changes) -> None:
    """Train and evaluate one method of glyphs 5w1s again, and judge anew."""
    train(root, method, accuracy, started, **changes)
    judge(root)


def train(
    root: Path, method: str, accuracy: float, started: float = STARTED + 1000, ds: str = "glyphs", **changes
) -> None:
    """Train and evaluate one method of 5w1s again; the gate has not seen it."""
    stages = YAML(typ="safe").load((root / "dvc.lock").read_text())["stages"]
    stages |= cell(root, ds, "5w1s", method, accuracy, started, **changes)
    _dump(root / "dvc.lock", {"schema": "2.0", "stages": stages})


def judge(root: Path, ds: str = "glyphs", s: str = "5w1s") -> None:
    """Run the gate, and enter its decision in dvc.lock."""
    path = root / "params.yaml"
    rule, methods = params.read(path, "gate", params.Gate), params.read(path, "methods", list[str])
    bans = gate.read_bans(root, f"{ds}-{s}")
    enter_decision(root, gate.judge(root, ds, s, methods, rule, bans, 1), ds, s)


def enter_decision(root: Path, decision: Decision, ds: str = "glyphs", s: str = "5w1s") -> None:
    """Write a decision, and enter it in dvc.lock."""
    methods = params.read(root / "params.yaml", "methods", list[str])
    out = decision_path(f"{ds}-{s}")
    (root / out).parent.mkdir(exist_ok=True)
    (root / out).write_text(decision.json)
    stages = YAML(typ="safe").load((root / "dvc.lock").read_text())["stages"]
    judged = {"params.yaml": {"methods": methods}}
    stages[f"gate@{ds}-{s}"] = _stage(root, f"python -m stages.gate {ds} {s}", ["raw.txt"], [out], judged)
    _dump(root / "dvc.lock", {"schema": "2.0", "stages": stages})


def enter(root: Path, stage: str) -> None:
    """Bring an entry of dvc.lock up to date with its outputs."""
    stages = YAML(typ="safe").load((root / "dvc.lock").read_text())["stages"]
    stages[stage]["outs"] = [_item(root, out["path"]) for out in stages[stage]["outs"]]
    _dump(root / "dvc.lock", {"schema": "2.0", "stages": stages})


def version(root: Path) -> None:
    """Make it a repository of git and DVC, all outputs cached, with nothing committed yet."""
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n")
    (root / ".gitignore").write_text(
        "/data\n/models\n/results\n/records\n/reports\n/mlruns\n/.dvc/cache\n/.dvc/tmp\n"
    )
    git(root, "init", "-q", "-b", "main")
    cache(root)


def commit(root: Path, message: str) -> str:
    """Cache and commit what is there; returns the commit."""
    cache(root)
    git(root, "add", "--all")
    git(root, "commit", "-q", "-m", message)
    return git(root, "rev-parse", "HEAD")


def git(root: Path, *arguments: str) -> str:
    """Run git as somebody; returns what it prints."""
    command = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", *arguments]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def cached(root: Path, digest: str) -> Path:
    """Where DVC's cache has the file, or the listing of the folder, with this digest."""
    return root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]


def cache(root: Path) -> None:
    """Put every output that dvc.lock names into DVC's cache, as DVC lays it out."""
    for out in _outs(root):
        path = root / out["path"]
        files = [path]
        if path.is_dir():
            files = [file for file in path.rglob("*") if file.is_file()]
            _put(cached(root, out["md5"]), _listing(path).encode())
        for file in files:
            _put(cached(root, _md5(file)), file.read_bytes())


def checkout(root: Path, branch: str) -> None:
    """Check out a branch, and the outputs that its dvc.lock names."""
    git(root, "checkout", "-q", branch)
    for out in _outs(root):
        path, kept = root / out["path"], cached(root, out["md5"])
        if not out["md5"].endswith(".dir"):
            shutil.copy(kept, path)
            continue
        shutil.rmtree(path)
        for item in json.loads(kept.read_text()):
            (path / item["relpath"]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(cached(root, item["md5"]), path / item["relpath"])


def give_database(root: Path) -> None:
    """Put an empty MLflow database at its place: to make one takes MLflow seconds."""
    (root / "mlruns").mkdir()
    (root / "mlruns/mlflow.db").write_bytes(database())


@functools.cache
def database() -> bytes:
    """An MLflow database with nothing in it."""
    from metashot.registry.tracking import MlflowClient  # which keeps MLflow quiet

    with tempfile.TemporaryDirectory() as folder:
        MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
        return Path(folder, "mlflow.db").read_bytes()


def cell(
    root: Path,
    ds: str,
    s: str,
    method: str,
    accuracy: float,
    started: float,
    manifest: str = "",
    save: Callable[[str, Path], None] | None = None,
) -> dict:
    """Write what training and evaluating one method leaves; returns its two stages of dvc.lock."""
    group, data, episodes = f"{ds}-{s}", f"data/processed/{ds}.parquet", f"data/episodes/{ds}-{s}"
    tests = [f"{episodes}/test.parquet", f"{episodes}/test-5w5s.parquet"]
    manifests = [f"{episodes}/train.parquet", f"{episodes}/val.parquet"]
    model, result = f"models/{group}/{method}", f"results/{group}/{method}"
    trained, evaluated = f"records/train/{group}/{method}", f"records/evaluate/{group}/{method}"
    features, chosen = CHOSEN.get(method, ("conv4", {}))
    steps = 0 if chosen else 20
    journal = [
        {
            "step": step,
            "time": started + step / 10,
            "metrics": {
                "train_loss": 2 / step,
                "lr": 1e-3,
                **({"val_accuracy": accuracy} if step % 2 == 0 else {}),
            },
        }
        for step in range(1, 1 + steps)
    ] or [{"step": 0, "time": started + 1.5, "metrics": {"val_accuracy": accuracy}}]
    record = {
        "stage": "train",
        "dataset": ds,
        "setting": s,
        "method": method,
        "params": {
            "seed": 1,
            "method": {"name": method, **({} if chosen else {"lr": 1e-3, "meta_batch": 1})},
            "setting": {"n_way": 5, "k_shot": 1},
            **({"backbone": {"name": features}, "chosen": chosen} if chosen else {}),
        },
        "inputs": _inputs(root, [data, *manifests]),
        "versions": {"python": "3.11.9", "torch": "2.0"},
        "device": {"type": "cpu", "name": "a processor", "threads": 2},
        "code": {},
        "git": {"commit": "c" * 40, "dirty": False},
        "started": started,
        "seconds": 41.5,
        "peak_memory_mb": 512.0,
        "resumed": [],
        "steps": steps,
        "best_step": min(2, steps),  # the earliest of equals
        "episodes_per_s": 100.0,
        "parameters": 0 if chosen else 111936,
    }
    metrics = {
        "accuracy": accuracy,
        "ci95": 0.004,
        "episodes": 1000,
        "n_way": 5,
        "k_shot": 1,
        "n_query": 15,
        "transductive": False,
        "parameters": record["parameters"],
        **({} if chosen else {"untrained": {"accuracy": 0.45, "ci95": 0.006, "episodes": 100}}),
        "extra": {"5w5s": {"accuracy": accuracy + 0.02, "ci95": 0.003, "episodes": 1000}},
        "manifest": manifest or _md5(root / tests[0]),
    }
    files = {
        f"{model}/model.json": json.dumps({"format": 5, "method": method}),
        f"{model}/model.safetensors": f"weights of {method}, {accuracy}, {started}",
        f"{trained}/record.json": json.dumps(record),
        f"{trained}/journal.jsonl": "".join(json.dumps(line) + "\n" for line in journal),
        f"{result}/metrics.json": json.dumps(metrics),
        f"{evaluated}/record.json": json.dumps(
            {**record, "stage": "evaluate", "started": started + 50, "inputs": _inputs(root, [data, *tests])}
        ),
    }
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    counts = [_counts(s, method, accuracy), _counts("5w5s", f"{method} with five", accuracy + 0.02)]
    pq.write_table(pa.concat_tables(counts), root / result / "episodes.parquet")
    if save:
        save(method, root / model)
    about = json.loads((root / model / "model.json").read_text())
    backbone = about.get("backbone", {"name": "conv4", "width": 8, "downsample": "pool"})
    section = {f"data.{ds}.backbone": backbone, f"data.{ds}.budget.{method}": 1, f"method.{method}": {}}
    name, params = f"{group}-{method}", {"params.yaml": {"seed": 0, **section}}
    extra = {f"setting.{s}.extra": {"5w5s": {"n_way": 5, "k_shot": 5, "episodes": 1000}}}
    return {
        f"train@{name}": _stage(
            root, f"python -m stages.train {ds} {s} {method}", [data, *manifests], [model, trained], params
        ),
        f"evaluate@{name}": _stage(
            root,
            f"python -m stages.evaluate {ds} {s} {method}",
            [data, episodes, model],
            [f"{result}/episodes.parquet", f"{result}/metrics.json", evaluated],
            {"params.yaml": extra},
        ),
    }


def publish(
    trained: Path, root: Path, ds: str, methods: Sequence[str], encoder: Path | None = None
) -> dict[str, ModelVersion]:
    """Publish the models of a project as if they were those of a repository; the version of each method."""
    from metashot.registry import publish
    from metashot.registry.tracking import MlflowClient

    def save(method: str, folder: Path) -> None:
        shutil.copytree(trained / f"models/{ds}-5w1s/{method}", folder, dirs_exist_ok=True)

    form = json.loads((trained / f"models/{ds}-5w1s/{methods[0]}/model.json").read_text())["form"]
    accuracy = {method: 0.9 - rank / 10 for rank, method in enumerate(methods)}
    make(root, accuracy, save, ds, form=Form.parse(form), encoder=encoder)
    give_database(root)
    publish.publish(root, [(ds, "5w1s")], methods)
    uri = f"sqlite:///{root}/mlruns/mlflow.db"
    found = MlflowClient(uri, uri).search_model_versions(f"name = '{ds}-5w1s'")
    return {version.tags["method"]: version for version in found}


def carries(kind: str = "images", method: str = "maml", backbone: str = "conv4") -> carried.Code:
    """What a model registered now carries."""
    return carried.Code.present({"kind": [kind], "method": [method], "backbone": [backbone]})


def save_random(method: str, folder: Path) -> None:
    """Write a real model."""
    cls = methods.METHODS[method]
    torch.manual_seed(0)
    model = cls(
        cls.params_type(**PARAMS[method]),
        Problem(
            images.form(28, 1),
            Conv4Params(name="conv4", width=32 if method == "prototypical" else 8, downsample="pool"),
        ),
    )
    methods.save(model, folder)


def _counts(setting: str, method: str, accuracy: float, queries: int = 10**6) -> pa.Table:
    """1,000 test episodes with this mean accuracy and a 95 % interval of 0.004 on both sides.

    Which of them are hard is drawn for each method.
    """
    around = 0.004 * math.sqrt(999) / 1.96
    correct = [round(queries * (accuracy + sign * around)) for sign in (-1, 1)] * 500
    random.Random(method).shuffle(correct)
    columns = {"setting": [setting] * 1000, "episode": range(1000), "correct": correct}
    return pa.table({**columns, "queries": [queries] * 1000})


def _stage(root: Path, cmd: str, deps: list[str], outs: list[str], params: dict | None = None) -> dict:
    stage = {"cmd": cmd, "deps": [_item(root, path) for path in deps]}
    return stage | ({"params": params} if params else {}) | {"outs": [_item(root, path) for path in outs]}


def _inputs(root: Path, paths: list[str]) -> dict:
    return {path: {"md5": _md5(root / path), "size": (root / path).stat().st_size} for path in paths}


def _item(root: Path, path: str) -> dict:
    return {"path": path, "hash": "md5", "md5": _md5(root / path), "size": 1}


def _outs(root: Path) -> list[dict]:
    stages = YAML(typ="safe").load((root / "dvc.lock").read_text())["stages"]
    return [out for stage in stages.values() for out in stage["outs"]]


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _listing(folder: Path) -> str:
    inside = sorted((f.relative_to(folder).as_posix(), f) for f in folder.rglob("*") if f.is_file())
    return json.dumps([{"md5": _md5(file), "relpath": name} for name, file in inside])


def _md5(path: Path) -> str:
    if path.is_dir():
        return hashlib.md5(_listing(path).encode()).hexdigest() + ".dir"
    return hashlib.md5(path.read_bytes()).hexdigest()


def _dump(path: Path, data: dict) -> None:
    with path.open("w") as file:
        YAML(typ="safe").dump(data, file)
    backdate(path)  # readers would wait for what may still be written
