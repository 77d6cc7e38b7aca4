"""Forgeries on a real repository, one at a time, and what `metashot audit` says of them."""

import base64
import contextlib
import dataclasses
import hashlib
import importlib.util
import itertools
import json
import os
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import synthetic
import typer.testing
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from project import IDENTITY, ROOT, Project, backdate

from metashot.audit import audit, reproduce
from metashot.cli import app
from metashot.errors import MetashotError
from metashot.files import digest
from metashot.lineage.document import Document
from metashot.lineage.lockfile import Lock
from metashot.project import dvc
from metashot.registry import carried, publish, runs, signing, tracking, versions

pytestmark = pytest.mark.slow

GROUP = "glyphs-5w1s"
FIRST, OTHER, CHAMPION, ADDED = (f"{GROUP}/{number}" for number in (1, 2, 3, 4))
# prototypical, maml, prototypical trained for longer, and what a forgery adds
TRAIN = f"train@{GROUP}-maml"
METRICS, EPISODES = (f"results/{GROUP}/maml/{name}" for name in ("metrics.json", "episodes.parquet"))
MODEL, RECORD = f"models/{GROUP}/maml", f"records/train/{GROUP}/maml"
DATA, MANIFESTS = "data/processed/glyphs.parquet", f"data/episodes/{GROUP}"
GATE = f"reports/{GROUP}-gate.json"
KEPT = ".git", ".dvc", "mlruns", "champions", "dvc.lock", "dvc.yaml", "params.yaml"
KEPT += "pyproject.toml", "requirements.lock"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, trained: Project) -> Path:
    """Two methods, one of them trained again for longer: three versions, and a champion before the last."""
    project = trained.copy(tmp_path_factory.mktemp("audited") / "repository")
    synthetic.give_database(project.root)
    project.repro()
    commit(project.root, "first")
    with project.params() as params:
        params["data"]["glyphs"]["budget"]["prototypical"] = {"steps": 13, "temperature": 5.0}
    commit(project.root, "longer")
    project.repro()
    commit(project.root, "second")
    project.run("metashot", "publish")
    return project.root


class Repository:
    """A copy to forge things in."""

    def __init__(self, made: Path, root: Path) -> None:
        self.root = root
        for name in KEPT:
            copy = shutil.copytree if (made / name).is_dir() else shutil.copy2  # dvc.lock has rested
            copy(made / name, root / name)
        tracking.follow_move(root / "mlruns/mlflow.db")

    def sql(self, statement: str, *values: object) -> list[Any]:
        with closing(sqlite3.connect(self.root / "mlruns/mlflow.db")) as connection, connection:
            cursor = connection.execute(statement, values)
            assert cursor.rowcount, f"changes nothing: {statement}"
            return cursor.fetchall()

    def version(self, number: int, what: str) -> str:
        ((found,),) = self.sql(f"SELECT {what} FROM model_versions WHERE version = ?", number)
        return str(found)

    def run_of(self, number: int) -> str:
        return self.version(number, "run_id")

    def model_of(self, number: int) -> str:
        return self.folder(number).parent.name

    def folder(self, number: int) -> Path:
        """The files of a registered model."""
        return Path(self.version(number, "source").removeprefix("file://"))

    def tag(self, number: int, key: str, value: str) -> None:
        """Edit the tag of a run."""
        self.sql("UPDATE tags SET value = ? WHERE key = ? AND run_uuid = ?", value, key, self.run_of(number))

    def lineage(self, number: int) -> Path:
        ((uri,),) = self.sql("SELECT artifact_uri FROM runs WHERE run_uuid = ?", self.run_of(number))
        return Path(uri.removeprefix("file://")) / tracking.LINEAGE_FILE

    def edit_lineage(self, number: int, change: Callable[[dict], object], tagged: bool = True) -> None:
        """Change a lineage, and the digests in the tags of its run."""
        document = json.loads(self.lineage(number).read_text())
        change(document)
        self.lineage(number).write_text(json.dumps(document))
        if tagged:
            self.tag(number, tracking.LINEAGE, digest(document))
            self.tag(number, runs.STAGES, digest(document["stages"]))

    def md5(self, path: str) -> str:
        """What dvc.lock says of an output, or of a file in one."""
        for entry in Lock(self.root).entries.values():
            for out in entry.outs:
                if out["path"] == path:
                    return str(out["md5"])
                if path.startswith(f"{out['path']}/"):
                    listed = {i["relpath"]: i["md5"] for i in json.loads(self.object(out["md5"]).read_text())}
                    return str(listed[path.removeprefix(f"{out['path']}/")])
        raise AssertionError(path)

    def object(self, md5: str) -> Path:
        return self.root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]

    def overwrite(self, md5: str, content: bytes) -> None:
        """Other bytes under the name of an object."""
        path = self.object(md5)
        path.chmod(0o644)
        path.write_bytes(content)

    def read(self, path: str) -> bytes:
        return self.object(self.md5(path)).read_bytes()

    def replace(self, path: str, content: bytes) -> dict[str, str]:
        """Other bytes for an output, the cache and dvc.lock being told; returns what became what."""
        outs = [out for entry in Lock(self.root).entries.values() for out in entry.outs]
        out = next(out for out in outs if path == out["path"] or path.startswith(f"{out['path']}/"))
        became = {self.md5(path): self._store(content)}
        if path != out["path"]:
            listing = self.object(out["md5"]).read_text()
            for old, new in became.items():
                listing = listing.replace(old, new)
            became[str(out["md5"])] = f"{self._store(listing.encode(), '.dir')}.dir"
        self.relock(became)
        return became

    def relock(self, became: dict[str, str]) -> None:
        """Edit dvc.lock."""
        text = (self.root / "dvc.lock").read_text()
        for old, new in became.items():
            text = text.replace(old, new)
        (self.root / "dvc.lock").write_text(text)
        backdate(self.root / "dvc.lock")

    def retold(self, number: int, became: dict[str, str], change: Callable[[dict], object] = id) -> None:
        """A lineage that follows forged files, with keys, results and tags to match."""
        path = self.lineage(number)
        text = path.read_text()
        for old, new in became.items():
            text = text.replace(old, new)
        path.write_text(text)

        def rekey(document: dict) -> None:
            change(document)
            parts: dict[str, dict[str, str]] = {"key": {}, "result": {}}
            for stage, said in document["stages"].items():
                inputs = {name: said[name] for name in ("cmd", "deps", "params")}
                outs = [out for out in said["outs"] if not out["path"].startswith("records/")]
                said["key"] = digest(inputs)
                parts["key"][stage.partition("@")[0]] = said["key"]
                parts["result"][stage.partition("@")[0]] = digest({**inputs, "outs": outs})
            for name, found in parts.items():
                document[name] = digest([found["train"], found["evaluate"]])

        before = json.loads(path.read_text())["result"]
        self.edit_lineage(number, rekey)
        after = json.loads(path.read_text())["result"]
        for table in ("tags", "model_version_tags"):
            self.sql(f"UPDATE {table} SET value = ? WHERE value = ?", after, before)
        self.sql("UPDATE logged_model_tags SET tag_value = ? WHERE tag_value = ?", after, before)

    def refiled(self, number: int) -> None:
        """The digest of a registered model's files made to fit, on the version and the logged model."""
        folder = self.folder(number)
        files = (path for path in folder.rglob("*") if path.is_file() and path.name != carried.META)
        md5s = {path.relative_to(folder).as_posix(): hashlib.md5(path.read_bytes()) for path in files}
        self.set_tags(number, tracking.FILES, digest({path: md5.hexdigest() for path, md5 in md5s.items()}))

    def carry(self, number: int, code: carried.Code) -> None:
        """Other code in a registered model, everything that MLflow holds made to fit."""
        with tracking.connect(self.root) as client:
            version = versions.resolve(client, f"{GROUP}/{number}")
            ids = version.model.model_id, version.entry.run_id, version.model.creation_timestamp
            for name, content in carried.described(code, version.lineage, *ids).items():
                (self.folder(number) / name).write_bytes(content)
        self.set_tags(number, carried.CODE, code.digest)
        self.refiled(number)

    def set_tags(self, number: int, key: str, value: str) -> None:
        """Edit a tag of the version and of the logged model."""
        self.sql("UPDATE model_version_tags SET value = ? WHERE key = ? AND version = ?", value, key, number)
        where = "tag_key = ? AND model_id = ?"
        self.sql(
            f"UPDATE logged_model_tags SET tag_value = ? WHERE {where}", value, key, self.model_of(number)
        )

    def audit(self, wanted: str | None = None, **options: Any) -> dict[str, dict[str, audit.Check]]:
        found = audit.audit(self.root, wanted, **options)
        return {one.name: {check.name: check for check in one.checks} for one in found}

    def _store(self, content: bytes, suffix: str = "") -> str:
        md5 = hashlib.md5(content).hexdigest()
        path = self.object(md5 + suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return md5


@pytest.fixture
def repository(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Repository(made, tmp_path)


def git(root: Path, *arguments: str) -> str:
    command = ["git", *IDENTITY, *arguments]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def commit(root: Path, message: str, *options: str) -> None:
    git(root, "add", "dvc.lock", "params.yaml")
    git(root, "commit", "-qm", message, *options)


def flip(content: bytes, at: int = -1) -> bytes:
    """One bit changed."""
    changed = bytearray(content)
    changed[at] ^= 1
    return bytes(changed)


def edited(content: bytes, change: Callable[[Any], object]) -> bytes:
    """A JSON file with something in it changed."""
    value = json.loads(content)
    change(value)
    return json.dumps(value).encode()


def verdicts(found: dict[str, dict[str, audit.Check]], verdict: str) -> dict[str, dict[str, str]]:
    """The checks with a verdict, by version, with their details."""
    listed = {
        name: {check.name: check.detail for check in checks.values() if check.verdict == verdict}
        for name, checks in found.items()
    }
    return {name: checks for name, checks in listed.items() if checks}


def clean(found: dict[str, dict[str, audit.Check]]) -> bool:
    return all(check.verdict == "ok" for checks in found.values() for check in checks.values())


# --- forgeries: each changes a copy; what has to fail, of which version, is in FORGERIES below ---


def weights_in_cache(r: Repository) -> None:
    path = f"{MODEL}/model.safetensors"
    r.overwrite(r.md5(path), flip(r.read(path)))


def weights_in_mlflow(r: Repository) -> None:
    path = r.folder(2) / "artifacts/model.safetensors"
    path.write_bytes(flip(path.read_bytes()))


def weights_in_both(r: Repository) -> None:
    weights_in_cache(r)
    weights_in_mlflow(r)
    r.refiled(2)


def weights_and_all_digests(r: Repository) -> None:
    """In the cache under the right name, in dvc.lock, in MLflow, in the lineage: but not in git."""
    path = f"{MODEL}/model.safetensors"
    content = flip(r.read(path))
    (r.folder(2) / "artifacts/model.safetensors").write_bytes(content)
    described = r.folder(2) / "MLmodel"
    before = json.loads(r.lineage(2).read_text())["result"]
    r.retold(2, r.replace(path, content))
    after = json.loads(r.lineage(2).read_text())["result"]
    described.write_text(described.read_text().replace(before, after))
    r.refiled(2)


def metric_point(r: Repository) -> None:
    r.sql("UPDATE metrics SET value = 0.99 WHERE key = 'test_accuracy' AND run_uuid = ?", r.run_of(2))


def metric_in_the_table(r: Repository) -> None:
    r.sql("UPDATE latest_metrics SET value = 0.99 WHERE key = 'test_accuracy' AND run_uuid = ?", r.run_of(2))


def metric_of_the_logged_model(r: Repository) -> None:
    where = "metric_name = 'test_accuracy' AND model_id = ?"
    r.sql(f"UPDATE logged_model_metrics SET metric_value = 0.99 WHERE {where}", r.model_of(2))


def metric_added(r: Repository) -> None:
    values = "'test_f1', 0.99, 0, 0, 0, ?"
    r.sql(f"INSERT INTO latest_metrics VALUES ({values})", r.run_of(2))


def metric_at_another_time(r: Repository) -> None:
    r.sql("UPDATE metrics SET timestamp = 1 WHERE key = 'test_accuracy' AND run_uuid = ?", r.run_of(2))


def metric_of_other_episodes(r: Repository) -> None:
    where = "metric_name = 'test_accuracy' AND model_id = ?"
    r.sql(f"UPDATE logged_model_metrics SET dataset_digest = 'other' WHERE {where}", r.model_of(2))


def champion_moved(r: Repository) -> None:
    r.sql("UPDATE registered_model_aliases SET version = 2 WHERE alias = 'champion'")


def champion_moved_back(r: Repository) -> None:
    r.sql("UPDATE registered_model_aliases SET version = 1 WHERE alias = 'champion'")


def champion_moved_back_with_its_decision(r: Repository) -> None:
    """As it was before the last training, the tags of decision and standing included."""
    r.sql("UPDATE registered_model_aliases SET version = 1")
    ((told,),) = r.sql("SELECT value FROM model_version_tags WHERE key = 'metashot.decision' AND version = 1")
    r.sql("UPDATE registered_model_tags SET value = ? WHERE key = 'metashot.decision'", told)
    r.sql("UPDATE tags SET run_uuid = ? WHERE key = 'standing'", r.run_of(1))


def champion_deleted(r: Repository) -> None:
    r.sql("DELETE FROM registered_model_aliases WHERE alias = 'champion'")


def challenger_moved(r: Repository) -> None:
    r.sql("UPDATE registered_model_aliases SET version = 2 WHERE alias = 'challenger'")


def standing_of_another_run(r: Repository) -> None:
    r.sql("UPDATE tags SET run_uuid = ? WHERE key = 'standing'", r.run_of(2))


def decision_of_the_version(r: Repository) -> None:
    ((told,),) = r.sql("SELECT value FROM model_version_tags WHERE key = 'metashot.decision' AND version = 3")
    r.sql("INSERT INTO model_version_tags VALUES ('metashot.decision', ?, ?, 2, 'default')", told, GROUP)


def decision_file(r: Repository) -> None:
    r.overwrite(r.md5(GATE), r.read(GATE).replace(b"prototypical", b"maml"))


def for_the_other(r: Repository) -> bytes:
    """The decision with maml as the best, its own accuracy told as it is."""
    metrics = json.loads(r.read(METRICS))

    def change(decision: dict) -> None:
        standing = {"accuracy": metrics["accuracy"], "ci95": metrics["ci95"]}
        standing |= {"method": "maml", "model": decision["judged"]["maml"]}
        decision.update(champion=standing, challenger=standing)

    return edited(r.read(GATE), change)


def decision_file_with_everything_that_follows(r: Repository) -> None:
    """Another champion, in the cache, in a committed dvc.lock, and in MLflow."""
    ((old, new),) = r.replace(GATE, for_the_other(r)).items()
    commit(r.root, "second", "--amend")
    shutil.rmtree(r.root / ".dvc/cache/runs")
    r.sql("UPDATE registered_model_aliases SET version = 2")
    r.sql("UPDATE registered_model_tags SET value = ? WHERE value = ?", new, old)
    r.sql("DELETE FROM model_version_tags WHERE key = 'metashot.decision' AND version = 3")
    r.sql("UPDATE tags SET run_uuid = ? WHERE key = 'standing'", r.run_of(2))
    head = git(r.root, "rev-parse", "HEAD")
    r.sql("UPDATE model_version_tags SET value = ? WHERE key = 'metashot.commit' AND version = 3", head)


def parquet(table: pa.Table, like: bytes) -> bytes:
    """A data file with other rows, and what another one says of its samples."""
    metadata = pq.ParquetFile(pa.BufferReader(like)).metadata.metadata
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema) as file:  # a row group is of one split
        for split in table["split"].unique():
            file.write_table(table.filter(pc.equal(table["split"], split)))
        told = {
            key.decode(): value.decode() for key, value in metadata.items() if key.startswith(b"metashot")
        }
        file.add_key_value_metadata(told)
    return sink.getvalue().to_pybytes()


def relabelled(content: bytes) -> bytes:
    """The Parquet file with one image under another class."""
    table = pq.read_table(pa.BufferReader(content))
    labels = table["label"].to_pylist()
    labels[0] += 1
    table = table.set_column(table.schema.get_field_index("label"), "label", pa.array(labels, pa.int32()))
    return parquet(table, content)


def image_relabelled(r: Repository) -> None:
    r.overwrite(r.md5(DATA), relabelled(r.read(DATA)))


def image_relabelled_in_dvc_lock(r: Repository) -> None:
    r.replace(DATA, relabelled(r.read(DATA)))


def image_relabelled_in_everything(r: Repository) -> None:
    """In a dvc.lock that was committed, in the lineage and all digests."""
    r.retold(2, r.replace(DATA, relabelled(r.read(DATA))))
    commit(r.root, "second", "--amend")
    head = git(r.root, "rev-parse", "HEAD")
    r.sql("UPDATE model_version_tags SET value = ? WHERE key = 'metashot.commit' AND version = 2", head)


def manifest_swapped(r: Repository) -> None:
    r.overwrite(r.md5(f"{MANIFESTS}/test.parquet"), r.read(f"{MANIFESTS}/val.parquet"))


def manifest_swapped_in_everything(r: Repository) -> None:
    r.retold(2, r.replace(f"{MANIFESTS}/test-5w2s.parquet", r.read(f"{MANIFESTS}/val.parquet")))


def lock_entry(r: Repository) -> None:
    r.relock({r.md5(METRICS): "a" * 32})


def lock_entry_committed(r: Repository) -> None:
    lock_entry(r)
    commit(r.root, "second", "--amend")


def lock_entry_committed_and_named(r: Repository) -> None:
    lock_entry_committed(r)
    head = git(r.root, "rev-parse", "HEAD")
    r.sql("UPDATE model_version_tags SET value = ? WHERE key = 'metashot.commit'", head)


def commit_tag(r: Repository) -> None:
    first = git(r.root, "rev-list", "--max-parents=0", "HEAD")
    r.sql("UPDATE model_version_tags SET value = ? WHERE key = 'metashot.commit' AND version = 2", first)


def history_rewritten(r: Repository) -> None:
    """params.yaml with another budget in every commit."""
    git(r.root, "checkout", "-q", "--", ".")
    command = "sed -i 's/maml: 6/maml: 600/' params.yaml"
    git(r.root, "filter-branch", "-f", "--tree-filter", command)
    git(r.root, "update-ref", "-d", "refs/original/refs/heads/" + git(r.root, "branch", "--show-current"))


def history_rewritten_and_named(r: Repository) -> None:
    """The same, and MLflow and the record name the new commits."""
    old = git(r.root, "rev-list", "HEAD").split()
    history_rewritten(r)
    became = dict(zip(old, git(r.root, "rev-list", "HEAD").split(), strict=True))
    for before, after in became.items():
        for table in ("tags", "model_version_tags"):
            with closing(sqlite3.connect(r.root / "mlruns/mlflow.db")) as connection, connection:
                connection.execute(f"UPDATE {table} SET value = ? WHERE value = ?", (after, before))
    text = r.read(f"{RECORD}/record.json").decode()
    for before, after in became.items():
        text = text.replace(before, after)
    r.retold(2, became | r.replace(f"{RECORD}/record.json", text.encode()))


def parameter(r: Repository) -> None:
    r.sql("UPDATE params SET value = '600' WHERE key = 'budget' AND run_uuid = ?", r.run_of(2))


def parameter_of_the_logged_model(r: Repository) -> None:
    where = "param_key = 'budget' AND model_id = ?"
    r.sql(f"UPDATE logged_model_params SET param_value = '600' WHERE {where}", r.model_of(2))


def parameter_in_the_lineage(r: Repository) -> None:
    r.edit_lineage(2, lambda said: said["training"]["params"].update(budget=600))
    parameter(r)
    parameter_of_the_logged_model(r)


def model_of_another_version(r: Repository) -> None:
    shutil.rmtree(r.folder(2))
    shutil.copytree(r.folder(3), r.folder(2))


def model_of_another_version_with_its_tags(r: Repository) -> None:
    model_of_another_version(r)
    r.refiled(2)


def source_of_another_version(r: Repository) -> None:
    r.sql("UPDATE model_versions SET source = ? WHERE version = 2", r.version(3, "source"))


def storage_of_another_version(r: Repository) -> None:
    """Where MLflow downloads from, while it shows the right source."""
    r.sql("UPDATE model_versions SET storage_location = ? WHERE version = 2", r.version(3, "source"))


def run_of_another_version(r: Repository) -> None:
    r.sql("UPDATE model_versions SET run_id = ? WHERE version = 2", r.run_of(3))


def shortened(content: bytes) -> bytes:
    """A journal without its last two points."""
    return b"".join(content.splitlines(keepends=True)[:-2])


def journal(r: Repository) -> None:
    path = f"{RECORD}/journal.jsonl"
    r.overwrite(r.md5(path), shortened(r.read(path)))


def journal_and_curve(r: Repository) -> None:
    """Shortened in the cache, in dvc.lock, in the lineage and in MLflow."""
    path = f"{RECORD}/journal.jsonl"
    r.retold(2, r.replace(path, shortened(r.read(path))))
    ((last,),) = r.sql("SELECT max(step) FROM metrics WHERE key = 'lr' AND run_uuid = ?", r.run_of(2))
    for key in ("lr", "train_loss", "val_accuracy", "episodes_per_s"):
        steps = last - 1, key, r.run_of(2)
        r.sql("DELETE FROM metrics WHERE step >= ? AND key = ? AND run_uuid = ?", *steps)


def curve(r: Repository) -> None:
    r.sql("DELETE FROM metrics WHERE step = 3 AND key = 'train_loss' AND run_uuid = ?", r.run_of(2))


def device_in_the_cache(r: Repository) -> None:
    path = f"{RECORD}/record.json"
    r.overwrite(r.md5(path), r.read(path).replace(b'"cpu"', b'"gpu"'))


def on_a_gpu(said: dict) -> None:
    said["training"]["device"].update(type="cuda", name="NVIDIA H100")


def device_in_the_lineage(r: Repository) -> None:
    r.edit_lineage(2, on_a_gpu)


def device_in_mlflow(r: Repository) -> None:
    r.tag(2, "metashot.device", "cuda")


def device_in_the_record_and_the_lineage(r: Repository) -> None:
    path = f"{RECORD}/record.json"
    content = edited(r.read(path), lambda record: on_a_gpu({"training": record}))
    r.retold(2, r.replace(path, content), on_a_gpu)
    r.tag(2, "metashot.device", "cuda")


def better(content: bytes) -> bytes:
    """The counts of episodes, all answered."""
    table = pq.read_table(pa.BufferReader(content))
    table = table.set_column(2, "correct", table["queries"])
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def counts(r: Repository) -> None:
    r.overwrite(r.md5(EPISODES), better(r.read(EPISODES)))


def counts_in_everything(r: Repository) -> None:
    r.retold(2, r.replace(EPISODES, better(r.read(EPISODES))))


def metrics_file(r: Repository) -> None:
    r.overwrite(r.md5(METRICS), edited(r.read(METRICS), lambda said: said.update(accuracy=0.99)))


def metrics_file_in_everything(r: Repository) -> None:
    """metrics.json in the cache, a committed dvc.lock, the lineage and MLflow; but not the counts."""
    content = edited(r.read(METRICS), lambda said: said.update(accuracy=0.99))
    r.retold(2, r.replace(METRICS, content), lambda said: said["metrics"].update(accuracy=0.99))
    commit(r.root, "second", "--amend")
    shutil.rmtree(r.root / ".dvc/cache/runs")
    head = git(r.root, "rev-parse", "HEAD")
    r.sql("UPDATE model_version_tags SET value = ? WHERE key = 'metashot.commit'", head)
    for change in (metric_point, metric_in_the_table, metric_of_the_logged_model):
        change(r)


def description(r: Repository) -> None:
    r.sql("UPDATE model_versions SET description = 'The best there is.' WHERE version = 2")


def card_of_the_run(r: Repository) -> None:
    r.tag(2, "mlflow.note.content", "The best there is.")


def accuracy_tag(r: Repository) -> None:
    r.sql("UPDATE model_version_tags SET value = '99.00 ± 0.10 %' WHERE key = 'accuracy' AND version = 2")


def synthetic_tag(r: Repository) -> None:
    r.tag(2, "metashot.synthetic", "false")


def key_tag(r: Repository) -> None:
    r.tag(2, "metashot.key", "0" * 64)


def files_tag(r: Repository) -> None:
    r.set_tags(2, tracking.FILES, "0" * 64)


def lineage_file(r: Repository) -> None:
    r.edit_lineage(2, lambda said: said["origin"].update(licence="MIT"), tagged=False)


def lineage_and_its_digest(r: Repository) -> None:
    r.edit_lineage(2, lambda said: said["origin"].update(licence="MIT"))


def lineage_no_json(r: Repository) -> None:
    r.lineage(2).write_text("{")


def lineage_of_no_shape(r: Repository) -> None:
    r.edit_lineage(2, lambda said: said.update(stages=[]))


def code_of_the_model(r: Repository) -> None:
    path = r.folder(2) / carried.ZIP
    path.write_bytes(path.read_bytes().replace(b"def best_device", b"def BEST_device", 1))


def changed(code: carried.Code, **files: bytes) -> carried.Code:
    """The code with more at the end of some modules."""
    paths = {path.rpartition("/")[2].removesuffix(".py"): path for path in code.files}
    added = {paths[name]: code.files[paths[name]] + more for name, more in files.items()}
    return dataclasses.replace(code, files={**code.files, **added})


def code_of_the_model_and_all_tags(r: Repository) -> None:
    r.carry(2, changed(synthetic.carries(), runtime=b"\nprint('hello')\n"))
    r.sql("UPDATE model_version_tags SET value = 'me' WHERE key = 'metashot.publisher' AND version = 2")


def pins_of_another_time(r: Repository) -> None:
    """Packages that no commit had together with this code."""
    code = synthetic.carries()
    pins = ["pillow==9.0.0" if pin.startswith("pillow==") else pin for pin in code.requirements]
    r.carry(2, dataclasses.replace(code, requirements=pins))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def loader_of_the_model(r: Repository) -> None:
    edit(r.folder(2) / "MLmodel", '"loader_module": "metashot_', '"loader_module": "other_')
    r.refiled(2)


def weights_path_of_the_model(r: Repository) -> None:
    edit(r.folder(2) / "MLmodel", '"data": "artifacts"', '"data": "/tmp/other"')
    r.refiled(2)


def flavor_of_the_model(r: Repository) -> None:
    edit(r.folder(2) / "MLmodel", '"flavors": {', '"flavors": {"sklearn": {"pickled_model": "model.pkl"},')
    r.refiled(2)


def signature_of_the_input(r: Repository) -> None:
    column = '[{\\"type\\": \\"string\\", \\"name\\": \\"image\\"}]'
    edit(r.folder(2) / "MLmodel", '"inputs": null', f'"inputs": "{column}"')
    r.refiled(2)


def channel_of_the_model(r: Repository) -> None:
    edit(r.folder(2) / "conda.yaml", "- conda-forge", "- https://elsewhere.example")
    r.refiled(2)


def package_of_conda(r: Repository) -> None:
    edit(r.folder(2) / "conda.yaml", "- pip\n", "- pip\n- other=1.0\n")
    r.refiled(2)


def build_dependency_of_the_model(r: Repository) -> None:
    edit(r.folder(2) / "python_env.yaml", "- setuptools", "- setuptools==1.0")
    r.refiled(2)


def file_in_the_model(r: Repository) -> None:
    (r.folder(2) / "torch.py").write_text("")


def file_in_the_model_and_its_tags(r: Repository) -> None:
    file_in_the_model(r)
    r.refiled(2)


def bytecode_in_the_model(r: Repository) -> None:
    """16.9 GB for whoever unmarshals it."""
    cached = r.folder(2) / "__pycache__/pyfunc_model.cpython-311.pyc"
    cached.parent.mkdir()
    cached.write_bytes(importlib.util.MAGIC_NUMBER + bytes(12) + b"(" + b"\xff\xff\xff\x7e")
    r.refiled(2)


def requirement_of_the_model(r: Repository) -> None:
    for name in ("requirements.txt", "conda.yaml"):
        path = r.folder(2) / name
        path.write_text(path.read_text().replace("pandas==", "panda==9.9.9\npandas=="))
    r.refiled(2)


def start_of_the_run(r: Repository) -> None:
    r.sql("UPDATE runs SET start_time = start_time - 1 WHERE run_uuid = ?", r.run_of(2))


def end_of_the_run(r: Repository) -> None:
    r.sql("UPDATE runs SET end_time = end_time - 1000 WHERE run_uuid = ?", r.run_of(2))


def status_of_the_run(r: Repository) -> None:
    r.sql("UPDATE runs SET status = 'FAILED' WHERE run_uuid = ?", r.run_of(2))


def data_link(r: Repository) -> None:
    r.sql(f"UPDATE datasets SET digest = '{'0' * 32}' WHERE name = '{DATA}'")


def data_link_removed(r: Repository) -> None:
    r.sql("DELETE FROM inputs WHERE destination_id = ? AND source_type = 'DATASET'", r.run_of(2))


def second_version(r: Repository) -> None:
    with tracking.connect(r.root) as client:
        old = client.get_model_version(GROUP, "2")
        client.create_model_version(
            GROUP,
            source=old.source,
            run_id=old.run_id,
            tags=old.tags,
            model_id=r.model_of(2),
            description=old.description,
        )


def version_without_lineage(r: Repository) -> None:
    with tracking.connect(r.root) as client:
        run = client.create_run(client.get_experiment_by_name(GROUP).experiment_id)
        client.create_model_version(GROUP, source=r.version(2, "source"), run_id=run.info.run_id)


def run_cache(r: Repository) -> None:
    """The run cache says that the same evaluation once came out otherwise."""
    for path in (r.root / ".dvc/cache/runs").rglob("*"):
        if path.is_file() and "stages.evaluate glyphs 5w1s maml\n" in path.read_text():
            entry = yaml.safe_load(path.read_text())
            next(out for out in entry["outs"] if out["path"] == METRICS)["md5"] = "0" * 32
            path.with_name("0" * 64).write_text(yaml.safe_dump(entry, sort_keys=False))
            return
    raise AssertionError


def another_result_in_history(r: Repository) -> None:
    """A branch whose dvc.lock has other weights for the same training."""
    before = (r.root / "dvc.lock").read_bytes()
    git(r.root, "checkout", "-qb", "other")
    r.relock({r.md5(MODEL): f"{'0' * 32}.dir"})
    commit(r.root, "other")
    git(r.root, "checkout", "-q", "-")
    (r.root / "dvc.lock").write_bytes(before)


# What fails, by version, exactly; and how it is named
FORGERIES: dict[Callable[[Repository], None], tuple[dict[str, str], str]] = {
    weights_in_cache: ({OTHER: "bytes"}, "maml/model.safetensors: the object"),
    weights_in_mlflow: ({OTHER: "model"}, "model.safetensors of the registered model"),
    weights_in_both: ({OTHER: "bytes, model"}, "model.safetensors of the registered model"),
    weights_and_all_digests: (
        {OTHER: "registry, commit, records, card, one result", GROUP: "decision"},
        "train@glyphs-5w1s-maml gave another result",
    ),
    metric_point: ({OTHER: "metrics"}, "points of test_accuracy"),
    metric_in_the_table: ({OTHER: "metrics"}, "test_accuracy of the run is 0.99"),
    metric_of_the_logged_model: ({OTHER: "metrics"}, "test_accuracy of the logged model is [0.99]"),
    metric_added: ({OTHER: "metrics"}, "metrics of its own: test_f1"),
    metric_at_another_time: ({OTHER: "metrics"}, "points of test_accuracy"),
    metric_of_other_episodes: ({OTHER: "metrics"}, "md5 of the episodes of test_accuracy"),
    champion_moved: ({GROUP: "aliases"}, "champion is at glyphs-5w1s/2"),
    champion_moved_back: ({GROUP: "aliases"}, "champion is at glyphs-5w1s/1"),
    champion_moved_back_with_its_decision: ({GROUP: "decision, aliases"}, "follows another decision"),
    champion_deleted: ({GROUP: "aliases"}, "champion is at no version"),
    challenger_moved: ({GROUP: "aliases"}, "challenger is at glyphs-5w1s/2"),
    standing_of_another_run: ({GROUP: "aliases"}, "the run of glyphs-5w1s/2 is labelled champion"),
    decision_of_the_version: ({OTHER: "registry"}, "champion of decision"),
    decision_file: ({CHAMPION: "registry", GROUP: "decision, aliases"}, "in the DVC cache holds other bytes"),
    decision_file_with_everything_that_follows: ({GROUP: "decision"}, "challenger of the decision is"),
    image_relabelled: (
        {FIRST: "bytes, data", OTHER: "bytes, data", CHAMPION: "bytes, data"},
        "data/processed/glyphs.parquet: the object",
    ),
    image_relabelled_in_dvc_lock: (
        {FIRST: "one result", OTHER: "one result", CHAMPION: "one result"},
        "preprocess@glyphs gave another result",
    ),
    image_relabelled_in_everything: (
        {
            FIRST: "one result",
            OTHER: "registry, data, model, records, card, one result",
            CHAMPION: "commit, one result",
        },
        "made for other data",
    ),
    manifest_swapped: (
        {FIRST: "bytes, data", OTHER: "bytes, data", CHAMPION: "bytes, data"},
        "glyphs-5w1s/test.parquet: the object",
    ),
    manifest_swapped_in_everything: (
        {
            FIRST: "one result",
            OTHER: "registry, commit, data, model, records, metrics, card, one result",
            CHAMPION: "one result",
        },
        "digest of data/episodes/glyphs-5w1s/test-5w2s.parquet in MLflow",
    ),
    lock_entry: (
        {OTHER: "one result"},
        "evaluate@glyphs-5w1s-maml gave another result from the same inputs: dvc.lock",
    ),
    lock_entry_committed: ({OTHER: "one result", CHAMPION: "commit"}, "is in no branch or tag"),
    lock_entry_committed_and_named: (
        {FIRST: "commit", OTHER: "commit, one result"},
        "maml/metrics.json in dvc.lock of commit",
    ),
    commit_tag: ({OTHER: "commit"}, "has no dvc.lock that can be read"),
    history_rewritten: (
        {FIRST: "commit, code", OTHER: "commit, code", CHAMPION: "commit, code"},
        "is in no branch or tag",
    ),
    history_rewritten_and_named: (
        {FIRST: "registry, code", OTHER: "commit, code, records, card", CHAMPION: "registry, code"},
        "data.glyphs.budget.maml in params.yaml at commit",
    ),
    parameter: ({OTHER: "parameters"}, "parameter budget of the run is 600, not 6"),
    parameter_of_the_logged_model: ({OTHER: "parameters"}, "parameter budget of the logged model is 600"),
    parameter_in_the_lineage: ({OTHER: "parameters, records"}, "budget in the record is 600, not 6"),
    model_of_another_version: ({OTHER: "model"}, "code.zip of the registered model is not the code that"),
    model_of_another_version_with_its_tags: (
        {OTHER: "model"},
        "code.zip of the registered model is not the code that",
    ),
    source_of_another_version: (
        {OTHER: "registry, model, parameters, metrics, card"},
        "no logged model of its run has the files",
    ),
    storage_of_another_version: ({OTHER: "registry, model"}, "source of the version is"),
    run_of_another_version: (
        {OTHER: "registry, commit, model, parameters, metrics, card"},
        "no logged model of its run has the files",
    ),
    journal: ({OTHER: "bytes, metrics, curves"}, "journal.jsonl: the object"),
    journal_and_curve: ({OTHER: "commit, curves"}, "last step of the journal is 4, not 6"),
    curve: ({OTHER: "curves"}, "curve train_loss in MLflow"),
    device_in_the_cache: ({OTHER: "bytes, records"}, "record.json: the object"),
    device_in_the_lineage: ({OTHER: "registry, records, card"}, "record.json in the lineage"),
    device_in_mlflow: ({OTHER: "registry, records"}, "metashot.device of the run is cuda, not cpu"),
    device_in_the_record_and_the_lineage: (
        {OTHER: "commit, card"},
        "records/train/glyphs-5w1s/maml in dvc.lock of commit",
    ),
    counts: ({OTHER: "bytes, episodes", GROUP: "decision"}, "maml/episodes.parquet: the object"),
    counts_in_everything: (
        {OTHER: "commit, episodes, model, card, one result", GROUP: "decision"},
        "accuracy of 5w1s in metrics.json",
    ),
    metrics_file: ({OTHER: "bytes, episodes"}, "maml/metrics.json: the object"),
    metrics_file_in_everything: (
        {FIRST: "commit", OTHER: "registry, episodes, model, card, one result"},
        "accuracy of 5w1s in metrics.json is 0.99",
    ),
    description: ({OTHER: "card"}, "the card of the version"),
    card_of_the_run: ({OTHER: "card"}, "the card of the run"),
    accuracy_tag: ({OTHER: "registry"}, "accuracy of the version is 99.00"),
    synthetic_tag: ({OTHER: "registry"}, "metashot.synthetic of the run is false"),
    key_tag: ({OTHER: "registry"}, "metashot.key of the run"),
    files_tag: ({OTHER: "model"}, "metashot.files of the version"),
    lineage_file: ({OTHER: "lineage, data, card"}, "metashot.lineage of the run"),
    lineage_and_its_digest: ({OTHER: "data, card"}, "licence of the data is MIT"),
    lineage_no_json: ({OTHER: "lineage"}, "carries no lineage.json that can be read"),
    lineage_of_no_shape: ({OTHER: "lineage"}, "not laid out as metashot writes it"),
    code_of_the_model: ({OTHER: "model"}, "code.zip of the registered model is not the code"),
    code_of_the_model_and_all_tags: ({OTHER: "model"}, "no commit that its training or what is checked out"),
    pins_of_another_time: ({OTHER: "model"}, "no commit that its training or what is checked out"),
    loader_of_the_model: ({OTHER: "model"}, 'of MLmodel of the registered model is \'"loader_module"'),
    weights_path_of_the_model: ({OTHER: "model"}, "/tmp/other"),
    flavor_of_the_model: ({OTHER: "model"}, "sklearn"),
    signature_of_the_input: ({OTHER: "model"}, 'of MLmodel of the registered model is \'"inputs"'),
    channel_of_the_model: ({OTHER: "model"}, "line 2 of conda.yaml of the registered model is"),
    package_of_conda: ({OTHER: "model"}, "of conda.yaml of the registered model is '- other=1.0'"),
    build_dependency_of_the_model: ({OTHER: "model"}, "of python_env.yaml of the registered model is"),
    file_in_the_model: ({OTHER: "model"}, "a file of its own: 'torch.py'"),
    file_in_the_model_and_its_tags: ({OTHER: "model"}, "a file of its own: 'torch.py'"),
    bytecode_in_the_model: ({OTHER: "model"}, "a file of its own: '__pycache__/pyfunc_model"),
    requirement_of_the_model: ({OTHER: "model"}, "of requirements.txt of the registered model is 'panda"),
    start_of_the_run: ({OTHER: "records"}, "start of the run"),
    end_of_the_run: ({OTHER: "records"}, "end of the run"),
    status_of_the_run: ({OTHER: "registry"}, "status of the run"),
    data_link: (
        {FIRST: "data", OTHER: "data", CHAMPION: "data"},
        "digest of data/processed/glyphs.parquet in MLflow",
    ),
    data_link_removed: ({OTHER: "data"}, "glyphs.parquet in MLflow is missing"),
    second_version: (
        {OTHER: "registry", ADDED: "registry, model"},  # whose folder says that it is version 2
        "registered twice: glyphs-5w1s/2, glyphs-5w1s/4",
    ),
    version_without_lineage: ({ADDED: "lineage"}, "glyphs-5w1s/4 carries no lineage.json"),
    run_cache: ({OTHER: "one result"}, "same inputs: DVC's run cache"),
    another_result_in_history: ({OTHER: "one result"}, "train@glyphs-5w1s-maml gave another result"),
}
BY_DEFAULT = {  # the others are drills
    weights_in_cache,
    weights_in_mlflow,
    metric_in_the_table,
    metric_of_the_logged_model,
    champion_moved,
    champion_moved_back_with_its_decision,
    decision_file_with_everything_that_follows,
    image_relabelled,
    manifest_swapped,
    lock_entry_committed,
    parameter,
    storage_of_another_version,
    journal_and_curve,
    device_in_the_record_and_the_lineage,
    counts,
    metrics_file_in_everything,
    lineage_and_its_digest,
    code_of_the_model_and_all_tags,
    pins_of_another_time,
    signature_of_the_input,
    channel_of_the_model,
    bytecode_in_the_model,
    start_of_the_run,
    data_link_removed,
    second_version,
    version_without_lineage,
    run_cache,
    description,
}


@pytest.mark.parametrize(
    "forge",
    [
        pytest.param(forge, marks=[] if forge in BY_DEFAULT else [pytest.mark.slow], id=forge.__name__)
        for forge in FORGERIES
    ],
)
def test_a_forgery_is_refuted_and_named(repository, forge):
    wanted, named = FORGERIES[forge]
    forge(repository)
    failing = verdicts(repository.audit(), "fails")
    assert {name: ", ".join(checks) for name, checks in failing.items()} == wanted
    assert any(named in detail for checks in failing.values() for detail in checks.values())


def test_every_forgery_is_tried():
    def forges(value: object) -> bool:
        said = getattr(value, "__annotations__", {})
        return said.get("r") is Repository and said["return"] is None

    assert {value for value in globals().values() if forges(value)} == FORGERIES.keys()


def test_a_clean_repository_is_verified_and_stays_so(repository, made):
    first = repository.audit()
    assert clean(first)
    assert set(first) == {FIRST, OTHER, CHAMPION, GROUP}
    assert repository.audit() == first
    git(repository.root, "gc", "--quiet", "--prune=now")
    git(repository.root, "pack-refs", "--all")
    assert repository.audit() == first
    assert repository.audit(fresh=True) == first


def test_the_memory_of_an_audit_hides_no_later_change_of_a_file(repository):
    assert clean(repository.audit())
    weights_in_cache(repository)
    assert verdicts(repository.audit(), "fails").keys() == {OTHER}


def test_a_clone_with_the_same_cache_is_verified(repository, tmp_path):
    clone = tmp_path / "clone"
    git(repository.root, "clone", "-q", ".", str(clone))
    for name in (".dvc", "mlruns"):
        shutil.copytree(repository.root / name, clone / name, dirs_exist_ok=True)
    tracking.follow_move(clone / "mlruns/mlflow.db")
    assert all(one.verdict == "verified" for one in audit.audit(clone))


def test_a_shallow_clone_cannot_check_older_commits(repository, tmp_path):
    clone = tmp_path / "clone"
    git(repository.root, "clone", "-q", "--depth=1", repository.root.as_uri(), str(clone))
    for name in (".dvc", "mlruns"):
        shutil.copytree(repository.root / name, clone / name, dirs_exist_ok=True)
    tracking.follow_move(clone / "mlruns/mlflow.db")
    found = {one.name: one for one in audit.audit(clone)}
    unknown = {check.name: check.detail for check in found[OTHER].checks if check.verdict != "ok"}
    assert found[OTHER].verdict == "incomplete"
    assert "commit" in unknown
    assert "code" in unknown
    assert all("git fetch --unshallow" in detail for detail in unknown.values())


@pytest.mark.parametrize(
    "path", [METRICS, f"{MODEL}/model.safetensors", DATA, f"{RECORD}/journal.jsonl", GATE]
)
def test_what_is_gone_cannot_be_checked_and_is_named(repository, path):
    md5 = repository.md5(path)
    repository.object(md5).unlink()
    found = repository.audit()
    assert not verdicts(found, "fails")
    unknown = verdicts(found, "cannot check")
    assert unknown
    assert all(md5 in detail for checks in unknown.values() for detail in checks.values())
    assert (GROUP in unknown) == (path == GATE)


def test_a_folder_that_is_gone_cannot_be_checked(repository):
    repository.object(repository.md5(MODEL)).unlink()
    assert "bytes" in verdicts(repository.audit(), "cannot check")[OTHER]


def test_a_registered_model_whose_files_are_gone_cannot_be_checked(repository):
    shutil.rmtree(repository.folder(2))
    found = repository.audit()
    assert not verdicts(found, "fails")
    assert "has no files at" in verdicts(found, "cannot check")[OTHER]["model"]


@pytest.fixture
def remote(repository: Repository, tmp_path: Path) -> Path:
    """A DVC remote, a folder, that has everything the cache has."""
    folder = tmp_path / "remote"
    shutil.copytree(repository.root / ".dvc/cache", folder)
    config = repository.root / ".dvc/config.local"
    config.write_text(f"[core]\n    remote = backup\n['remote \"backup\"']\n    url = {folder}\n")
    return folder


def test_what_the_remote_has_is_fetched_and_verified(repository, remote):
    md5 = repository.md5(METRICS)
    repository.object(md5).unlink()
    assert clean(repository.audit())
    assert hashlib.md5(repository.object(md5).read_bytes()).hexdigest() == md5


def test_other_bytes_of_the_remote_are_not_taken(repository, remote):
    md5 = repository.md5(METRICS)
    repository.object(md5).unlink()
    copy = remote / "files/md5" / md5[:2] / md5[2:]
    copy.chmod(0o644)
    copy.write_bytes(b"{}")
    found = repository.audit()
    assert not verdicts(found, "fails")
    assert "the DVC remote has other bytes under" in verdicts(found, "cannot check")[OTHER]["bytes"]
    assert not repository.object(md5).exists()


# --- code that git holds elsewhere ---

EVIL = b"\nEVIL = True\n"


def evil_commit(r: Repository) -> str:
    """A commit on top of HEAD, which nothing names yet, whose code a registered model carries."""
    git(r.root, "checkout", "-q", "--", ".")
    path = r.root / "metashot/learning/models/runtime.py"
    path.write_bytes(path.read_bytes() + EVIL)
    evil = git(r.root, "stash", "create")
    git(r.root, "checkout", "-q", "--", ".")
    code = changed(synthetic.carries(), runtime=EVIL)
    r.carry(2, code)
    r.sql(
        "UPDATE model_version_tags SET value = ? WHERE key = 'metashot.publisher' AND version = 2",
        f"ann on laptop, metashot 0.1.0 at {evil}",
    )
    return evil


def test_code_that_what_is_checked_out_does_not_stand_on_is_refuted(repository):
    """However git holds it: by a branch, a ref of another kind, the stash, a replacement, or a graft."""
    evil = evil_commit(repository)
    head = git(repository.root, "rev-parse", "HEAD")
    grafts = repository.root / ".git/info/grafts"
    ways: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "branch": (
            lambda: git(repository.root, "branch", "evil", evil),
            lambda: git(repository.root, "branch", "-D", "evil"),
        ),
        "ref": (
            lambda: git(repository.root, "update-ref", "refs/evil/x", evil),
            lambda: git(repository.root, "update-ref", "-d", "refs/evil/x"),
        ),
        "stash": (
            lambda: git(repository.root, "stash", "store", evil),
            lambda: git(repository.root, "stash", "clear"),
        ),
        "replacement": (
            lambda: git(repository.root, "replace", head, evil),
            lambda: git(repository.root, "replace", "-d", head),
        ),
        "graft": (lambda: grafts.write_text(f"{head} {evil}\n"), grafts.unlink),
    }
    for way, (make, undo) in ways.items():
        make()
        failing = verdicts(repository.audit(f"{GROUP}/2", fresh=True), "fails")
        assert failing.keys() == {OTHER}, way
        assert "no commit that its training or what is checked out" in failing[OTHER]["model"], way
        undo()
    git(repository.root, "reset", "-q", "--hard", evil)  # but this is what is checked out
    assert "model" not in verdicts(repository.audit(f"{GROUP}/2", fresh=True), "fails").get(OTHER, {})
    # and of the files of several commits none stands for all
    git(repository.root, "reset", "-q", "--hard", head)
    for name in ("errors", "files"):
        path = repository.root / f"metashot/{name}.py"
        path.write_bytes(path.read_bytes() + EVIL)
        git(repository.root, "commit", "-qm", name, "-a")
        path.write_bytes(path.read_bytes().removesuffix(EVIL))
        git(repository.root, "commit", "-qm", f"{name} as before", "-a")
    for names, good in ((["errors"], True), (["files"], True), (["errors", "files"], False)):
        repository.carry(2, changed(synthetic.carries(), **dict.fromkeys(names, EVIL)))
        failing = verdicts(repository.audit(f"{GROUP}/2"), "fails")
        assert (OTHER not in failing) == good, names


# --- a hostile artifact store ---


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(20 * 2**30)


def test_what_is_no_plain_file_of_publish_is_refuted_and_named(repository, tmp_path):
    folder, elsewhere = repository.folder(2), tmp_path / "elsewhere"
    shutil.copytree(folder, elsewhere)
    kept = tmp_path / "kept"
    shutil.copytree(folder, kept)

    def linked(name: str) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(elsewhere / name)

    def linked_folder() -> None:
        shutil.rmtree(folder / "artifacts")
        (folder / "artifacts").symlink_to(elsewhere / "artifacts")

    def linked_whole() -> None:
        shutil.rmtree(folder)
        folder.symlink_to(elsewhere)

    def hard(name: str) -> None:
        (folder / name).unlink()
        (folder / name).hardlink_to(elsewhere / name)

    def within(name: str) -> Path:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        return folder / name

    def special(name: str, make: Callable[[Path], object]) -> None:
        (folder / name).unlink()
        make(folder / name)

    def listening(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(path.parent):
            server.bind(path.name)

    bomb = "a: &a [x]\n" + "".join(
        f"{n}: &{n} [{', '.join(9 * [f'*{m}'])}]\n" for m, n in itertools.pairwise("abcdefghi")
    )
    hostile: dict[str, Callable[[], object]] = {
        "'code.zip' is a symbolic link": lambda: linked("code.zip"),
        "'artifacts' is a symbolic link": linked_folder,
        "is a symbolic link, not a folder": linked_whole,
        "'code/metashot/runtime' is a symbolic link": lambda: within("code/metashot/runtime").symlink_to("/"),
        "'code/safetensors' is a symbolic link": lambda: within("code/safetensors").symlink_to("/tmp"),
        "'MLmodel' has another name elsewhere": lambda: hard("MLmodel"),
        "'MLmodel' is a named pipe": lambda: special("MLmodel", os.mkfifo),
        "'conda.yaml' is a socket": lambda: special("conda.yaml", listening),
        "'requirements.txt' is a folder": lambda: special("requirements.txt", Path.mkdir),
        "'empty' is an empty folder": lambda: (folder / "empty").mkdir(),
        "a file of its own: 'MLModel'": lambda: (folder / "MLModel").write_text("{}"),
        "lacks 'python_env.yaml'": lambda: (folder / "python_env.yaml").unlink(),
        "a file of its own: 'x\\udcff'": lambda: Path(os.fsdecode(bytes(folder) + b"/x\xff")).touch(),
        "'conda.yaml' has more than": lambda: sparse(folder / "conda.yaml"),
        "a file of its own: 'large'": lambda: sparse(folder / "large"),
        "size of model.safetensors": lambda: sparse(folder / "artifacts/model.safetensors"),
        "holds more than 1,000 files": lambda: [(folder / str(n)).touch() for n in range(1001)],
        "line 1 of MLmodel of the registered model": lambda: (folder / "MLmodel").write_text(bomb),
        "line 1 of python_env.yaml": lambda: (folder / "python_env.yaml").write_bytes(b"\xff\xfe"),
        "has other line endings": lambda: (folder / "conda.yaml").write_bytes(
            (kept / "conda.yaml").read_bytes().replace(b"\n", b"\r\n")
        ),
    }
    for named, make in hostile.items():
        make()
        found = repository.audit(OTHER)
        named = named.replace("'requirements.txt' is a folder", "'requirements.txt' is an empty folder")
        assert named in verdicts(found, "fails")[OTHER]["model"], named
        assert not verdicts(found, "fails").keys() - {OTHER}, named
        if folder.is_symlink():
            folder.unlink()
        else:
            shutil.rmtree(folder)
        shutil.copytree(kept, folder)
    assert clean(repository.audit())


def test_a_lineage_that_cannot_be_read_keeps_no_other_version_from_being_judged(repository):
    path = repository.lineage(2)
    good = path.read_text()
    document = json.loads(good)

    def other(**changes: object) -> Callable[[], object]:
        return lambda: path.write_text(json.dumps({**document, **changes}))

    nested: list = []
    for _ in range(100):
        nested = [nested]
    hostile: dict[str, Callable[[], object]] = {
        "is not JSON that can be read": lambda: path.write_text(200_000 * "["),
        "more than 32 levels": other(metrics={**document["metrics"], "nested": nested}),
        "is a named pipe": lambda: os.mkfifo(path),
        "has more than 16,777,216 bytes": lambda: sparse(path),
        "is a symbolic link": lambda: path.symlink_to("/etc/passwd"),
        "Is a directory": path.mkdir,
        "not JSON that can be read ('utf-8'": lambda: path.write_bytes(b'"\xff"'),
        "stages: Input should be": other(stages=[]),
        "(document: Input should be": lambda: path.write_text("[]"),
        "model.model.json: Input should be": other(model={"model.json": ["x"]}),
        "training.git.commit": other(
            training={**document["training"], "git": {"commit": "--all", "dirty": False}}
        ),
        "metrics.accuracy: Input should be": other(metrics={**document["metrics"], "accuracy": "0.9"}),
        "result: String should match": other(result="../../../../etc/passwd"),
        "output of train@": other(stages={}),
        "name: glyphs-9w9s, not glyphs-5w1s": other(name="glyphs-9w9s"),
        "training.started: Input should be": other(training={**document["training"], "started": 1e300}),
        "more: a document has no such part": other(more=1),
    }
    for number, (named, make) in enumerate(hostile.items()):
        path.unlink()
        make()
        found = repository.audit(None if number < 4 else OTHER)
        assert GROUP in found
        wanted = "is a folder" if named == "Is a directory" else named
        failing = verdicts(found, "fails")
        assert failing.keys() == {OTHER}, named
        assert wanted in failing[OTHER]["lineage"], (wanted, failing[OTHER])
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
            path.touch()
    path.unlink()
    path.write_text(good)
    assert clean(repository.audit())


def test_a_version_whose_number_is_none_is_a_finding(repository):
    """MLflow itself then answers nothing about any version of that model; other models are judged."""
    with closing(sqlite3.connect(repository.root / "mlruns/mlflow.db")) as connection, connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("UPDATE model_versions SET version = 'abc' WHERE version = 2")
    check = repository.audit()[GROUP]["versions"]
    assert (check.verdict, "cannot be read ('<' not supported" in check.detail) == ("fails", True)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE model_versions SET run_id = 'none' WHERE version = 2",
        "UPDATE model_versions SET run_id = NULL WHERE version = 2",
        "DELETE FROM model_version_tags WHERE version = 2",
        "DELETE FROM inputs WHERE source_type = 'RUN_OUTPUT'",
        "UPDATE model_versions SET source = 'file:///etc/../etc', storage_location = NULL WHERE version = 2",
        "UPDATE runs SET artifact_uri = 'nowhere://x' WHERE name = 'maml'",
        "UPDATE model_versions SET source = '', storage_location = NULL WHERE version = 2",
        "UPDATE runs SET artifact_uri = 'relative' WHERE name = 'maml'",
        "UPDATE runs SET artifact_uri = 'dbfs:/x' WHERE name = 'maml'",
        "UPDATE runs SET artifact_uri = 'gs://x/y' WHERE name = 'maml'",
        "UPDATE model_versions SET source = 'http://[x', storage_location = NULL WHERE version = 2",
    ],
)
def test_a_database_that_says_nonsense_of_a_version_is_a_finding_of_it(repository, statement, monkeypatch):
    (repository.root / "here").mkdir()
    monkeypatch.chdir(repository.root / "here")
    repository.sql(statement)
    found = repository.audit()
    assert OTHER in verdicts(found, "fails")
    assert found.keys() == {FIRST, OTHER, CHAMPION, GROUP}
    assert not [*Path().iterdir()]  # as a database that MLflow makes where it has no address of one
    if "RUN_OUTPUT" not in statement:  # which is of all of them
        assert not {FIRST, CHAMPION} & verdicts(found, "fails").keys()


@pytest.mark.parametrize("name", ["x'y", "../../e-vil"])
def test_a_registered_model_that_cannot_be_read_keeps_no_other_from_being_judged(repository, name):
    repository.sql("INSERT INTO registered_models(name) VALUES (?)", name)
    tag = "INSERT INTO registered_model_tags(name, key, value) VALUES (?, 'metashot.dataset', 'glyphs')"
    repository.sql(tag, name)
    assert {one.name: one.verdict for one in audit.audit(repository.root)} == {
        **dict.fromkeys((FIRST, OTHER, CHAMPION, GROUP), "verified"),
        name: "refuted" if "'" in name else "incomplete",
    }


def test_a_version_of_an_earlier_metashot_cannot_be_checked_and_says_what_to_do(repository):
    folder = repository.folder(2)
    (folder / "code/metashot").mkdir(parents=True)
    (folder / "code/metashot/__init__.py").write_text("")
    (folder / carried.ZIP).unlink()
    found = repository.audit()
    assert not verdicts(found, "fails")
    assert "make MLflow anew (docs/lineage.md, Rebuilding)" in verdicts(found, "cannot check")[OTHER]["model"]


def test_a_model_alone_an_alias_and_a_version_can_be_named(repository):
    assert set(repository.audit(GROUP)) == {FIRST, OTHER, CHAMPION, GROUP}
    assert set(repository.audit(f"{GROUP}@champion")) == {CHAMPION, GROUP}
    assert set(repository.audit(f"{GROUP}/2")) == {OTHER, GROUP}


def test_the_command_says_so_in_its_status_and_in_json(repository, monkeypatch):
    monkeypatch.chdir(repository.root)
    run = typer.testing.CliRunner().invoke
    good = run(app, ["audit", "--all", "--json"])
    assert good.exit_code == 0
    assert {one["verdict"] for one in json.loads(good.stdout)} == {"verified"}
    content = repository.read(METRICS)
    repository.object(repository.md5(METRICS)).unlink()
    gone = run(app, ["audit", f"{GROUP}/2"])
    assert gone.exit_code == 3
    assert repository.md5(METRICS) in "".join(gone.stdout.split())
    repository.object(repository.md5(METRICS)).write_bytes(content + b" ")
    bad = run(app, ["audit", "--all", "--json"])
    assert bad.exit_code == 1
    found = {one["name"]: one for one in json.loads(bad.stdout)}
    assert found[OTHER]["verdict"] == "refuted"
    assert {c["name"] for c in found[OTHER]["checks"] if c["verdict"] == "fails"} == {"bytes", "episodes"}
    neither = run(app, ["audit"])
    assert neither.exit_code == 1
    assert neither.stderr == "error: name a registered model, or use --all\n"


# --- signatures ---


def keys(folder: Path, name: str = "ann") -> tuple[Path, Ed25519PrivateKey]:
    """A private key as a file."""
    key, path = Ed25519PrivateKey.generate(), folder / f"{name}.key"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path, key


def trust(root: Path, key: Ed25519PrivateKey, name: str = "ann") -> None:
    path = root / f"signers/{name}.pem"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


@pytest.fixture
def signed(repository: Repository, tmp_path: Path) -> Path:
    """Version 2, signed by Ann."""
    path, key = keys(tmp_path)
    trust(repository.root, key)
    return signing.sign(repository.root, *audit.signable(repository.root, f"{GROUP}/2"), path)


def test_a_signature_is_one_by_dsse_and_its_statement_is_the_lineage(repository, tmp_path):
    path, key = keys(tmp_path)
    document, *rest = audit.signable(repository.root, f"{GROUP}/2")
    envelope = json.loads(signing.sign(repository.root, document, *rest, path).read_text())
    payload = base64.b64decode(envelope["payload"])
    kind = b"application/vnd.in-toto+json"
    encoded = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    (one,) = envelope["signatures"]
    key.public_key().verify(base64.b64decode(one["sig"]), encoded)
    statement = json.loads(payload)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicate"] == json.loads(repository.lineage(2).read_text())
    said = {subject["name"]: subject["digest"] for subject in statement["subject"]}
    assert said["model.safetensors"] == {"md5": repository.md5(f"{MODEL}/model.safetensors")}
    for name in ("code.zip", "conda.yaml", "python_env.yaml", "requirements.txt"):
        content = (repository.folder(2) / name).read_bytes()
        assert said[name] == {"sha256": hashlib.sha256(content).hexdigest()}
    assert said.keys() == {
        "model.json", "model.safetensors", "code.zip", "conda.yaml", "python_env.yaml", "requirements.txt",
        GROUP,
    }  # fmt: skip


def test_a_signature_does_not_stand_for_other_code(repository, signed):
    """Code of a good commit, which nobody signed; and the signature put in that one's place."""
    git(repository.root, "checkout", "-q", "--", ".")
    path = repository.root / "metashot/learning/models/runtime.py"
    path.write_bytes(path.read_bytes() + EVIL)
    git(repository.root, "commit", "-qm", "more", "-a")
    code = changed(synthetic.carries(), runtime=EVIL)
    repository.carry(2, code)
    found = repository.audit()
    assert not verdicts(found, "fails")
    assert "but not with the code of this version" in verdicts(found, "cannot check")[OTHER]["signature"]
    document = Document.parse(repository.lineage(2).read_bytes(), "lineage.json")
    shutil.copy(signed, signing.path(repository.root, document, code.digest))
    assert "or other files" in verdicts(repository.audit(), "fails")[OTHER]["signature"]


def test_a_model_that_was_changed_is_not_signed(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(repository.root)
    channel_of_the_model(repository)
    key = keys(tmp_path)[0]
    done = typer.testing.CliRunner().invoke(app, ["sign", f"{GROUP}/2", "--key", str(key)])
    assert done.exit_code == 1
    assert done.stderr.startswith("error: glyphs-5w1s/2 cannot be signed: line 2 of conda.yaml")


def test_a_signed_version_names_its_signer(repository, signed):
    found = repository.audit()
    assert clean(found)
    assert found[OTHER]["signature"].detail == "signed by ann"
    assert found[FIRST]["signature"].detail == "not signed"


def test_other_trusted_keys_can_be_named(repository, signed, tmp_path):
    _, key = keys(tmp_path, "bob")
    trust(tmp_path / "elsewhere", key, "bob")
    found = repository.audit(signers=tmp_path / "elsewhere/signers")
    assert "not signed by a key in" in found[OTHER]["signature"].detail
    assert found[OTHER]["signature"].verdict == "fails"


def test_a_signature_over_another_lineage_is_refuted(repository, signed):
    device_in_the_record_and_the_lineage(repository)
    assert "but over another lineage" in verdicts(repository.audit(), "fails")[OTHER]["signature"]


def test_a_signature_of_another_version_is_refuted(repository, signed):
    other = Document.parse(repository.lineage(3).read_bytes(), "lineage.json")
    code = repository.version(
        3, "(SELECT value FROM model_version_tags t WHERE t.key = 'metashot.code' LIMIT 1)"
    )
    shutil.copy(signed, signing.path(repository.root, other, code))
    assert "but over another lineage" in verdicts(repository.audit(), "fails")[CHAMPION]["signature"]


def test_a_signature_by_a_stranger_or_without_keys_is_refuted(repository, signed, tmp_path):
    trust(repository.root, keys(tmp_path, "bob")[1])  # in Ann's place
    assert "not signed by a key in" in verdicts(repository.audit(), "fails")[OTHER]["signature"]
    shutil.rmtree(repository.root / "signers")
    assert "holds no public key" in verdicts(repository.audit(), "fails")[OTHER]["signature"]


@pytest.mark.parametrize("change", [lambda text: text.replace("a", "b"), lambda text: "{}", lambda text: "x"])
def test_an_edited_signature_is_refuted(repository, signed, change):
    signed.write_text(change(signed.read_text()))
    assert verdicts(repository.audit(), "fails")[OTHER].keys() == {"signature"}


def test_a_key_that_cannot_be_used_is_one_line(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(repository.root)
    key, locked = Ed25519PrivateKey.generate(), tmp_path / "locked.key"
    closed = BestAvailableEncryption(b"secret")
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, closed))
    (tmp_path / "no.key").write_text("nothing")
    for name in ("locked.key", "no.key", "none.key"):
        done = typer.testing.CliRunner().invoke(app, ["sign", GROUP, "--key", str(tmp_path / name)])
        assert done.exit_code == 1
        (line,) = done.stderr.splitlines()
        assert f"{name}: no private key that can be read" in line
    assert not (repository.root / "signatures").exists()


def test_a_trusted_key_of_another_kind_is_one_line(tmp_path):
    """Of a curve that nobody supports, or no file at all."""
    body = "MDIwEAYHKoZIzj0CAQYFK4EEAAYDHgAEclsdtnI3X59yWf+dqRMvlr+IrISPINTjbDDCPw=="
    (tmp_path / "a.pem").write_text(f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
    with pytest.raises(
        MetashotError, match=r"a.pem: no public key that can be read \(Curve .* not supported"
    ):
        signing.verify(tmp_path / "none.json", {}, {}, tmp_path)
    (tmp_path / "a.pem").unlink()
    (tmp_path / "a.pem").mkdir()
    with pytest.raises(MetashotError, match=r"a.pem: no public key that can be read \(.*Is a directory"):
        signing.verify(tmp_path / "none.json", {}, {}, tmp_path)


# --- trace ---


def test_a_trace_tells_what_the_files_say(repository, monkeypatch):
    monkeypatch.chdir(repository.root)
    run = typer.testing.CliRunner().invoke
    traced = json.loads(run(app, ["trace", f"{GROUP}/2", "--json"]).stdout)
    assert traced["version"] == OTHER
    assert traced["aliases"] == []
    assert traced["commit"] in git(repository.root, "rev-list", "HEAD")
    said = traced["lineage"]
    assert said["metrics"] == json.loads(repository.read(METRICS))
    assert said["training"] == json.loads(repository.read(f"{RECORD}/record.json"))
    assert said["model"]["model.safetensors"] == repository.md5(f"{MODEL}/model.safetensors")
    assert {stage.partition("@")[0] for stage in said["stages"]} == {
        "download",
        "preprocess",
        "episodes",
        "train",
        "evaluate",
    }
    raw = json.loads(repository.object(repository.md5("data/raw/glyphs")).read_text())
    assert said["origin"]["files"] == {item["relpath"]: item["md5"] for item in raw}
    page = run(app, ["trace", f"{GROUP}/2"], env={"COLUMNS": "200"}).stdout
    for fact in (said["result"], repository.md5(DATA), traced["commit"], said["training"]["device"]["name"]):
        assert fact in page
    assert json.loads(run(app, ["trace", GROUP, "--json"]).stdout)["version"] == CHAMPION


def test_what_cannot_be_traced_is_one_line(repository, monkeypatch):
    monkeypatch.chdir(repository.root)
    repository.lineage(2).unlink()
    for name, said in {
        f"{GROUP}/2": "carries no lineage.json",
        f"{GROUP}/9": "has no version 9 (it has: 1, 2, 3)",
        f"{GROUP}@best": "has no alias 'best' (it has: challenger, champion)",
        "nothing": f"no registered model 'nothing' (there are: {GROUP})",
    }.items():
        done = typer.testing.CliRunner().invoke(app, ["trace", name])
        assert done.exit_code == 1
        (line,) = done.stderr.splitlines()
        assert said in line


# --- reproduce ---


def reproduced(repository: Repository, number: int = 2) -> reproduce.Reproduced:
    with tracking.connect(repository.root) as client:
        return reproduce.reproduce(repository.root, versions.resolve(client, f"{GROUP}/{number}"))


def worktrees(root: Path) -> int:
    return len(git(root, "worktree", "list").splitlines())


def hostile(repository: Repository, number: int, target: Path) -> None:
    """A lineage in MLflow that would run and write something else."""
    evil = f"bash -c 'touch {target}'"

    def change(said: dict) -> None:
        for entry in said["stages"].values():
            entry["cmd"] = evil
            entry["deps"].append({"path": str(target), "md5": repository.md5(DATA), "size": 1})
            entry["outs"].append({"path": "../../outside", "md5": "../" * 9, "size": 1})
        said["training"]["git"].update(commit=f"--upload-pack={evil}", dirty=True)
        said.update(name=f"../../{target.name}", dataset=str(target), setting="..", method="/")

    repository.edit_lineage(number, change)


def test_a_version_made_again_has_the_same_bits_whatever_mlflow_would_have_run(repository, tmp_path):
    target = tmp_path / "outside/target"
    hostile(repository, 2, target)
    found = reproduced(repository)
    assert found.verdict == "bit-equal"
    assert found.files[f"{MODEL}/model.safetensors"] == (repository.md5(f"{MODEL}/model.safetensors"),) * 2
    assert set(found.files) >= {METRICS, EPISODES, DATA, f"{MANIFESTS}/test.parquet"}
    assert found.accuracy[0] == found.accuracy[1]
    assert not found.differences
    assert worktrees(repository.root) == 1
    assert not target.exists()
    assert not (tmp_path / "outside").exists()


def test_a_hostile_lineage_is_refuted_by_one_check_and_leads_nowhere(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(repository.root)
    hostile(repository, 2, tmp_path / "outside/target")
    key, _ = keys(tmp_path)
    assert verdicts(repository.audit(), "fails")[OTHER].keys() == {"lineage"}
    done = typer.testing.CliRunner().invoke(app, ["sign", OTHER, "--key", str(key)])
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert "carries no lineage.json that can be read (lineage.json is not laid out as" in line
    assert "(name: " in line
    dvc.output(repository.root, "checkout")
    compared = typer.testing.CliRunner().invoke(app, ["compare", OTHER, FIRST])
    assert compared.exit_code == 0, compared.stderr  # by its result, not its lineage
    assert not list(tmp_path.rglob("outside*"))


@pytest.mark.parametrize("commit_", ["--output=outside", "HEAD", "refs/heads/master", "0" * 40, "-c"])
def test_a_commit_that_is_none_of_a_branch_or_tag_is_refused(repository, commit_):
    repository.sql("UPDATE model_version_tags SET value = ? WHERE key = 'metashot.commit'", commit_)
    with pytest.raises(MetashotError, match="is in no branch or tag"):
        reproduced(repository)
    assert not (repository.root / "outside").exists()


def test_a_command_of_another_form_in_dvc_lock_is_not_run(repository, tmp_path):
    target = tmp_path / "target"
    repository.relock({"python -m stages.train glyphs 5w1s maml": f"bash -c 'touch {target}'"})
    result = Lock(repository.root).cell("glyphs", "5w1s", "maml").result
    repository.sql(
        "UPDATE model_version_tags SET value = ? WHERE key = 'metashot.result' AND version = 2", result
    )
    repository.sql("DELETE FROM model_version_tags WHERE key = 'metashot.commit' AND version = 2")
    with pytest.raises(
        MetashotError, match=f"command of {TRAIN} in dvc.lock is bash -c .*, not python -m stages"
    ):
        reproduced(repository)
    assert not target.exists()


@pytest.mark.slow
def test_a_doctored_record_is_not_reproduced(repository):
    """Other weights, committed with everything that names them; then on record as made on a GPU."""
    path = f"{MODEL}/model.safetensors"

    def doctor(path: str, content: bytes) -> reproduce.Reproduced:
        repository.retold(2, repository.replace(path, content))
        commit(repository.root, "second", "--amend")
        head = git(repository.root, "rev-parse", "HEAD")
        repository.sql("UPDATE model_version_tags SET value = ? WHERE key = 'metashot.commit'", head)
        return reproduced(repository)

    found = doctor(path, flip(repository.read(path)))
    assert found.verdict == "differs"
    assert [name for name, (old, new) in found.files.items() if old != new] == [path]
    record = f"{RECORD}/record.json"
    gpu = edited(repository.read(record), lambda said: on_a_gpu({"training": said}))
    found = doctor(record, gpu)
    assert found.verdict == "within tolerance"
    assert "type: cuda on record, cpu now" in found.differences
    content = edited(repository.read(METRICS), lambda said: said.update(accuracy=0.99))
    assert doctor(METRICS, content).verdict == "differs"


def test_no_worktree_is_left_where_a_version_cannot_be_made_again(repository, monkeypatch):
    monkeypatch.setenv("METASHOT_MEMORY", "none")  # which the episodes need to be a number
    with pytest.raises(MetashotError, match="the train stage failed with status 1"):
        reproduced(repository)
    assert worktrees(repository.root) == 1
    (raw, *_) = json.loads(repository.object(repository.md5("data/raw/glyphs")).read_text())
    repository.object(raw["md5"]).unlink()
    with pytest.raises(MetashotError, match="has no"):
        reproduced(repository)
    assert worktrees(repository.root) == 1


# --- a repository that goes on ---


@pytest.mark.slow
def test_a_repository_that_goes_on_is_verified(made, tmp_path):
    """Retraining, a dirty tree, a change of parameters between publish and commit, MLflow made anew."""
    shutil.copytree(made, tmp_path / "repository", symlinks=True)
    project = Project.at(tmp_path / "repository")

    def audited() -> set[str]:
        """In a process of its own: a client in this one would keep a deleted database open."""
        found = json.loads(project.run("metashot", "audit", "--all", "--json").stdout)
        return {f"{one['name']} {one['verdict']} " for one in found}

    project.run("metashot", "publish")
    path = project.root / "metashot/learning/models/methods/maml.py"
    path.write_text(path.read_text() + "\n# tried out\n")  # not committed
    (project.root / "metashot/project/attempts.py").touch()
    assert f"train@{GROUP}-maml" in project.repro()
    with project.params() as params:
        params["gate"]["min_accuracy"] = 0.01
        params["setting"]["5w1s"]["val_episodes"] = 5
    project.repro()
    commit(project.root, "dirty, and another gate")
    project.run("metashot", "publish")
    first = audited()
    assert all(" verified " in one for one in first), first
    with project.params() as params:  # more episodes to be tested on: nothing is trained again
        params["setting"]["5w1s"]["test_episodes"] = 31
    assert not [stage for stage in project.repro() if stage.startswith("train@")]
    commit(project.root, "more episodes")
    project.run("metashot", "publish")
    again = audited()
    assert all(" verified " in one for one in again), again
    assert len(again) == len(first) + 2
    git(project.root, "add", "metashot")  # what carries it is published from a commit
    commit(project.root, "the code that was tried out")
    shutil.rmtree(project.root / "mlruns")
    synthetic.give_database(project.root)
    project.run("metashot", "publish")
    rebuilt = audited()  # a result that had been registered again with newer code is one version now
    assert all(" verified " in one for one in rebuilt), rebuilt


# --- clones ---


def clone_of(made: Path, target: Path) -> Project:
    """A clone by git alone."""
    git(made, "clone", "-q", ".", str(target))
    return Project.at(target)


def versions_of(root: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(root / "mlruns/mlflow.db")) as connection:
        return connection.execute(
            "SELECT t.value, v.version FROM model_versions v JOIN model_version_tags t USING (name, version)"
            " WHERE t.key = 'method' ORDER BY 1, 2"
        ).fetchall()


@pytest.mark.parametrize("locked", [True, False], ids=["by-pull", "by-run-cache"])
def test_make_run_shows_in_mlflow_what_dvc_took_from_elsewhere(made, tmp_path, locked):
    project = clone_of(made, tmp_path / "clone")
    for name in ("Makefile", "requirements.lock"):
        shutil.copy(ROOT / name, project.root)
    synthetic.give_database(project.root)
    (project.root / ".dvc/config.local").write_text(
        f"[core]\n    remote = other\n['remote \"other\"']\n    url = {made}/.dvc/cache\n"
    )
    project.run("dvc", "pull", "--run-cache")
    if not locked:
        (project.root / "dvc.lock").unlink()
    compared = project.run("metashot", "compare") if locked else None
    done = project.run("make", "-o", ".venv/installed", "run")
    assert "Running stage" not in done.stdout
    assert {method for method, _ in versions_of(project.root)} == {"maml", "prototypical"}
    assert "does not show" not in done.stderr
    if compared:
        assert (
            "MLflow does not show prototypical, maml of glyphs-5w1s as they are now: run `metashot publish`"
            in (compared.stderr)
        )
    before = versions_of(project.root)
    project.run("make", "-o", ".venv/installed", "run")
    assert versions_of(project.root) == before


def test_a_result_made_again_without_its_first_records_names_the_commit_that_has_them(repository):
    """As in a clone without DVC remote: the run is of later records than the first commit with the result."""
    record = f"{RECORD}/record.json"
    first = repository.md5(record)
    again = edited(repository.read(record), lambda said: said.update(started=said["started"] + 1000))
    repository.replace(record, again)
    commit(repository.root, "made again")
    repository.object(first).unlink()
    shutil.rmtree(repository.root / "mlruns")
    synthetic.give_database(repository.root)
    Project.at(repository.root).run("dvc", "checkout")
    publish.publish_all(repository.root)
    with tracking.connect(repository.root) as client:
        versions = client.search_model_versions(f"name = '{GROUP}'")
    (made_again,) = (version for version in versions if version.tags["method"] == "maml")
    assert made_again.tags[tracking.COMMIT] == git(repository.root, "rev-parse", "HEAD")
    assert clean(repository.audit())


@pytest.mark.slow
def test_an_honest_clone_that_makes_everything_again_is_verified(made, tmp_path):
    """Without the cache: the same results, by other runs than those that the first commits have."""
    project = clone_of(made, tmp_path / "clone")
    synthetic.give_database(project.root)
    assert f"train@{GROUP}-maml" in project.repro()
    project.run("metashot", "publish")
    early = json.loads(project.run("metashot", "audit", "--all", "--json", ok=False).stdout)
    assert {one["verdict"] for one in early if "/" in one["name"]} == {"incomplete"}
    commit(project.root, "made again")
    project.run("metashot", "publish")
    found = json.loads(project.run("metashot", "audit", "--all", "--json").stdout)
    assert {one["verdict"] for one in found} == {"verified"}


@pytest.mark.slow
def test_a_leak_that_dvc_was_told_of_is_refuted_and_not_reproduced(made, drawn, tmp_path, monkeypatch):
    """Test pictures in the place of training pictures, taken up by `dvc commit`, then an honest run."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    project = drawn.copy(tmp_path / "leak")
    synthetic.give_database(project.root)
    path = project.root / DATA
    table = pq.read_table(path)
    splits = table["split"].to_pylist()
    test, train = splits.index("test"), splits.index("train")
    for name in ("sample", "digest"):
        values = table[name].to_pylist()
        values[train : train + 40] = values[test : test + 40]
        place = table.schema.get_field_index(name)
        table = table.set_column(
            place, table.schema.field(name), pa.array(values, table.schema.field(name).type)
        )
    content = parquet(table, path.read_bytes())
    path.unlink()
    path.write_bytes(content)
    project.run("dvc", "commit", "--force", "preprocess@glyphs")
    project.repro()
    commit(project.root, "leak")
    project.run("metashot", "publish")
    found = {one.name: one for one in audit.audit(project.root)}
    failing = [check for check in found[FIRST].checks if check.verdict == "fails"]
    assert [check.name for check in failing] == ["data", "one result"]  # the run cache has what was made
    assert failing[0].detail == "80 samples of the data are in two splits"
    with tracking.connect(project.root) as client:
        again = reproduce.reproduce(project.root, versions.resolve(client, FIRST))
    assert again.verdict == "differs"
    assert again.files[DATA][0] != again.files[DATA][1]
