"""What MLflow claims of a registered version, each claim recomputed from what git and DVC hold."""

import hashlib
import json
import marshal
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.util import MAGIC_NUMBER
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from metashot import cards, files, params, publishing, signing, tracking
from metashot.data import store
from metashot.declared import below
from metashot.episodes import load_manifest
from metashot.errors import MetashotError
from metashot.evidence import PATCH, Differs, Evidence, Unknown, where
from metashot.lineage import Cell, Entry, Lock, digest
from metashot.objects import FOLDER, Missing
from metashot.tracking import Registered

FLAVOR = {  # of a registered model, as MLflow lays down what to load and how
    **{f"path of {name}": f"artifacts/{name}" for name in ("model.json", "model.safetensors")},
    "code": "code",
    "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
    "loader_module": "mlflow.pyfunc.loaders.code_model",
    "model_code_path": tracking.BUILDER,
}
DESCRIBING = "MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt"


class Claim:
    """What MLflow claims of a version, each method a check of it.

    A check returns what was found. It raises `Differs`, or `Unknown` or `Missing` where it cannot be made.

    Args:
        evidence: What git and DVC hold.
        version: The version.
        twins: The names of all versions of its result and code.
        signers: Folder of trusted public keys.
    """

    def __init__(self, evidence: Evidence, version: Registered, twins: list[str], signers: Path) -> None:
        self.evidence, self.version, self.twins, self.signers = evidence, version, twins, signers

    @cached_property
    def document(self) -> dict[str, Any]:
        """The lineage that its run carries."""
        try:
            return self.version.lineage
        except MetashotError as error:
            raise Differs(str(error)) from None

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """The stages of the lineage."""
        return {
            stage: Entry(stage, entry["cmd"], entry["deps"], entry["params"], entry["outs"])
            for stage, entry in self.document["stages"].items()
        }

    @cached_property
    def cell(self) -> Cell:
        """Training and evaluation of the lineage."""
        said = self.document
        where = f"{said['name']}-{said['method']}"
        train, evaluate = (self.entries[f"{stage}@{where}"] for stage in ("train", "evaluate"))
        return Cell(said["dataset"], said["setting"], said["method"], train, evaluate)

    def lineage(self) -> str:
        """The document is the one the run names, hangs together, and has the key and result it claims."""
        said, tags = self.document, self.version.run.data.tags
        _same(f"{tracking.LINEAGE} of the run", tags.get(tracking.LINEAGE), digest(said))
        for stage, entry in self.entries.items():
            _same(f"key of {stage}", said["stages"][stage]["key"], entry.key)
        _same("key", said["key"], self.cell.key)
        _same("result", said["result"], self.cell.result)
        made = {out["path"]: (stage, out["md5"]) for stage, e in self.entries.items() for out in e.outs}
        for stage, entry in self.entries.items():
            for dep in entry.deps:
                if dep["path"] in made and made[dep["path"]][1] != dep["md5"]:
                    raise Differs(f"{stage} used another {dep['path']} than {made[dep['path']][0]} made")
        return f"result {said['result'][:12]}, key {said['key'][:12]}, {len(self.entries)} stages"

    def registry(self) -> str:
        """Version, run and logged model are of one result, and labelled as it is."""
        entry, run, model = self.version.entry, self.version.run, self.version.model
        said = self.document
        labels = {**cards.labels(said), tracking.RESULT: said["result"]}
        _same("registered model", entry.name, said["name"])
        holders = {
            "version": (entry.tags, labels),
            "logged model": (model.tags, {**labels, tracking.CODE: entry.tags[tracking.CODE]}),
            "run": (run.data.tags, publishing.run_tags(said)),
        }
        for holder, (tags, wanted) in holders.items():
            for key, value in wanted.items():
                _same(f"{key} of the {holder}", tags.get(key), value)
        _same("source of the version", self.version.source, entry.source)
        _same("run of the logged model", model.source_run_id, entry.run_id)
        _same("name of the run", run.info.run_name, said["method"])
        _same("status of the run", (run.info.status, run.info.lifecycle_stage), ("FINISHED", "active"))
        if len(self.twins) > 1:
            raise Differs(f"the same result and code are registered twice: {', '.join(self.twins)}")
        self._decided(entry.tags.get(tracking.DECISION))
        return f"{labels['method']}, {labels['accuracy']}, {labels['data']}"

    def _decided(self, told: str | None) -> None:
        """A version that names a decision was made champion by it."""
        if told is None:
            return
        decisions = [md5 for _, md5 in self.evidence.decisions(self.document["name"])]
        if told not in decisions:
            raise Differs(f"{tracking.DECISION} of the version is {told[:12]}, which no dvc.lock here names")
        champion = self.evidence.decision(told).champion
        _same(f"champion of decision {told[:12]}", champion.model if champion else None, self.cell.weights)

    def commit(self) -> str:
        """dvc.lock at the recorded commit has these stages."""
        told = self.version.entry.tags.get(tracking.COMMIT)
        if told:
            lock = self.evidence.lock(told)
        else:
            having = (lock for lock in self.evidence.history if self._in(lock))
            found = next(having, None)
            if found is None:
                raise Unknown("no commit has this result: commit dvc.lock, then `metashot publish`")
            lock = found
        for stage, entry in self.entries.items():
            there = lock.entries.get(stage)
            if there is None:
                raise Differs(f"{where(lock)} has no {stage}")
            _same(f"{stage} in {where(lock)}: inputs", digest(there.inputs), digest(entry.inputs))
            outs = {out["path"]: out["md5"] for out in there.outs}
            for out in entry.outs:
                _same(f"{out['path']} in {where(lock)}", outs.get(out["path"]), out["md5"])
        return f"{where(lock)} has it"

    def _in(self, lock: Lock) -> bool:
        stages = (self.cell.train, self.cell.evaluate)
        return all(s.stage in lock.entries and lock.entries[s.stage].result == s.result for s in stages)

    def code(self) -> str:
        """The files that stages depended on, and their parameters, are those of the commit they ran at."""
        trees: list[tuple[str, str | None]] = []
        for stage, record in self._records():
            commit, dirty = record["git"]["commit"], record["git"]["dirty"]
            if commit is None:
                raise Unknown("it was not made in a git repository")
            patch = self._patch(stage) if dirty else None
            tree = self.evidence.tree(commit, patch)
            trees.append((commit, patch))
            self._made_of(stage, commit, patch)
            for path, md5 in record["code"].items():
                _same(f"{path} as {stage.stage} loaded it", md5, tree.get(path))
        committed = self.version.entry.tags.get(tracking.COMMIT)
        # An earlier stage may have run since, with the same outcome for this training
        later = [(committed, None)] if committed in self.evidence.reachable else []
        for stage in self.entries.values():
            if stage not in (self.cell.train, self.cell.evaluate):
                self._made_of_one(stage, [*trees, *later])
        tags = self.version.run.data.tags
        git_ = self.document["training"]["git"]
        _same("metashot.git_commit of the run", tags.get("metashot.git_commit"), git_["commit"])
        _same("mlflow.source.git.commit of the run", tags.get("mlflow.source.git.commit"), git_["commit"])
        _same("metashot.git_dirty of the run", tags.get("metashot.git_dirty"), str(git_["dirty"]).lower())
        changed = ", with the stored changes of a dirty tree" if git_["dirty"] else ""
        return f"commit {', '.join(sorted({commit[:10] for commit, _ in trees}))}{changed}"

    def _made_of(self, stage: Entry, commit: str, patch: str | None) -> None:
        """The code and parameters that a stage depends on are those of a commit, and a patch."""
        tree = self.evidence.tree(commit, patch)
        made = {str(out["path"]) for entry in self.entries.values() for out in entry.outs}
        for dep in stage.deps:
            if dep["path"].endswith(".py") and dep["path"] not in made:
                what = f"{dep['path']} of {stage.stage} at commit {commit[:10]}"
                _same(what, tree.get(dep["path"]), dep["md5"])
        for file, values in stage.params.items():
            there = self.evidence.parameters(commit, patch, file)
            for key, value in values.items():
                _same(f"{key} in {file} at commit {commit[:10]}", below(there, key), value)

    def _made_of_one(self, stage: Entry, trees: list[tuple[str, str | None]]) -> None:
        """The same for a stage that keeps no record of where it ran: one of several trees has it."""
        first = None
        for commit, patch in trees:
            try:
                return self._made_of(stage, commit, patch)
            except Differs as error:
                first = first or error
        if first:
            raise first

    def _records(self) -> Iterator[tuple[Entry, dict[str, Any]]]:
        yield self.cell.train, self.document["training"]
        yield self.cell.evaluate, self.document["evaluation"]

    def _patch(self, stage: Entry) -> str | None:
        """Digest of the changes that the tree had."""
        for out in stage.outs:
            if str(out["path"]).startswith("records/"):
                return self.evidence.listing(str(out["md5"])).get(PATCH)
        return None

    def bytes(self) -> str:
        """Every output of every stage is in the DVC cache or remote, and hashes to its name."""
        count, gone = 0, []
        for entry in self.entries.values():
            for out in entry.outs:
                try:
                    self.evidence.path(str(out["md5"]))
                    held = self.evidence.listing(str(out["md5"])) if str(out["md5"]).endswith(FOLDER) else {}
                    for name, md5 in held.items():
                        count += 1
                        _found(self.evidence, f"{out['path']}/{name}", md5)
                    count += not held
                except Differs as error:
                    raise Differs(f"{out['path']}: {error}") from None
                except Missing as error:
                    gone.append(f"{out['path']}: {error}")
        if gone:
            raise Unknown("; ".join(gone))
        return f"{count} files hash to their names"

    def data(self) -> str:
        """Raw files and origin are those of the data, and every manifest indexes that very data."""
        said, evidence = self.document, self.evidence
        stages = list(self.entries.values())
        raw, processed = f"data/raw/{said['dataset']}", f"data/processed/{said['dataset']}.parquet"
        made = {str(out["path"]): str(out["md5"]) for entry in stages for out in entry.outs}
        origin = {**store.about(evidence.path(made[processed])), "files": evidence.listing(made[raw])}
        for key in {**origin, **said["origin"]}:
            _same(f"{key} of the data", said["origin"].get(key), origin.get(key))
        episodes = f"data/episodes/{said['name']}"
        manifests = evidence.listing(made[episodes])
        for name, md5 in manifests.items():
            key = f"manifest {md5} {made[processed]}"
            if key not in evidence.memory:
                split = "test" if name.startswith("test") else Path(name).stem
                _indexes(evidence.path(md5), evidence.path(made[processed]), split, f"{episodes}/{name}")
                evidence.memory[key] = True
        _same("manifest in metrics.json", said["metrics"]["manifest"], manifests.get("test.parquet"))
        linked = {i.dataset.name: i.dataset.digest for i in self.version.run.inputs.dataset_inputs}
        read = {**said["training"]["inputs"], **said["evaluation"]["inputs"]}
        wanted = {path: file["md5"] for path, file in read.items() if path.startswith("data/")}
        for path in {**linked, **wanted}:
            _same(f"digest of {path} in MLflow", linked.get(path), wanted.get(path))
        return f"{said['dataset']} {made[processed][:8]}, {len(manifests)} manifests index it"

    def episodes(self) -> str:
        """metrics.json says what the counts of every episode come to."""
        metrics = json.loads(self.evidence.inside(self.cell.evaluate, self.cell.metrics).read_text())
        _same("metrics.json in the lineage", digest(self.document["metrics"]), digest(metrics))
        found = self.evidence.summary(self.cell)
        said = {self.cell.setting: metrics, **metrics["extra"]}
        for setting in {**said, **found}:
            if setting not in said or setting not in found:
                raise Differs(f"{setting} is in one of metrics.json and episodes.parquet only")
            for name in ("accuracy", "ci95", "episodes"):
                held, counted = said[setting][name], found[setting][name]
                if not math.isclose(held, counted, rel_tol=1e-9):  # another numpy may round otherwise
                    raise Differs(f"{name} of {setting} in metrics.json is {held}, not {counted}")
        queries = metrics["n_way"] * metrics["n_query"]
        _same("queries of an episode", found[self.cell.setting]["queries"], queries)
        return f"{cards.labels(self.document)['accuracy']} is the mean over {metrics['episodes']:,} episodes"

    def model(self) -> str:
        """The files of the registered model are DVC's weights, and the code that its digest names."""
        said = self.document
        try:
            folder = self.version.folder
        except MetashotError as error:
            raise Unknown(str(error)) from None
        weights = next(str(o["md5"]) for o in self.cell.train.outs if o["path"] == self.cell.model)
        listed = self.evidence.listing(weights)
        _same("files of the model in the lineage", said["model"], listed)
        for name, md5 in listed.items():
            path = folder / "artifacts" / name
            _same(f"{name} of the registered model", files.md5(path) if path.exists() else None, md5)
        code = folder / "code" / tracking.PACKAGE.name
        held = tracking.code_digest(code, folder / tracking.BUILDER)
        _same("code of the registered model", held, self.version.entry.tags[tracking.CODE])
        listed_files = tracking.files_digest(folder)
        for holder, tags in (("version", self.version.entry.tags), ("logged model", self.version.model.tags)):
            _same(f"{tracking.FILES} of the {holder}", tags.get(tracking.FILES), listed_files)
        carried = {path.relative_to(code).as_posix(): path for path in tracking.code_files(code)}
        carried[tracking.BUILDER] = folder / tracking.BUILDER
        known = {*carried.values(), *(folder / "artifacts" / name for name in listed)}
        known |= {folder / name for name in DESCRIBING}
        if strange := [path for path in tracking.model_files(folder) if path not in known]:
            raise Differs(f"the registered model has a file of its own: {strange[0].relative_to(folder)}")
        for path in folder.rglob("*.pyc"):
            _bytecode(path, set(carried.values()), folder)
        self._described(folder)
        self._committed(carried)
        return f"{len(listed)} files are DVC's, the code is {held[:12]}"

    def _described(self, folder: Path) -> None:
        """MLmodel and the requirements have MLflow load these files, with this code and these packages."""
        described = YAML(typ="safe").load((folder / "MLmodel").read_text(encoding="utf-8"))
        flavor: dict[str, Any] = described["flavors"].pop("python_function")
        _same("further flavors in MLmodel", described["flavors"], {})
        for name, item in flavor.pop("artifacts").items():
            flavor[f"path of {name}"] = item["path"]
        flavor["model_code_path"] = PurePosixPath(flavor["model_code_path"]).name
        for key in ("cloudpickle_version", "python_version", "streamable"):  # of no effect here
            flavor.pop(key, None)
        for key in {**flavor, **FLAVOR}:
            _same(f"{key} in MLmodel", flavor.get(key), FLAVOR.get(key))
        said = {
            tracking.RESULT: self.document["result"],
            tracking.CODE: self.version.entry.tags[tracking.CODE],
        }
        for key in {**described["metadata"], **said}:
            _same(f"{key} in MLmodel", described["metadata"].get(key), said.get(key))
        asked = (folder / "requirements.txt").read_text(encoding="utf-8").split()
        pins = dict(line.split("==") for line in asked)
        needed = publishing.required(self.document["origin"]["kind"])
        _same("packages in requirements.txt", sorted(pins), sorted(needed))
        for key, number in self.cell.train.params.get("pyproject.toml", {}).items():
            name = key.rpartition(".")[2]
            _same(f"{name} in requirements.txt", pins.get(name), number)
        conda = YAML(typ="safe").load((folder / "conda.yaml").read_text(encoding="utf-8"))
        _same("packages in conda.yaml", conda["dependencies"][-1]["pip"], asked)
        python = YAML(typ="safe").load((folder / "python_env.yaml").read_text(encoding="utf-8"))
        _same("packages in python_env.yaml", python["dependencies"], ["-r requirements.txt"])

    def _committed(self, carried: Mapping[str, Path]) -> None:
        """Each file of the code that the model carries is of a commit, or of a recorded dirty tree."""
        for name, path in carried.items():
            content = path.read_bytes()
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            md5 = hashlib.md5(content).hexdigest()
            if (name, blob) not in self.evidence.code and (name, md5) not in self.evidence.tried:
                said = f"no commit here has {name} as the registered model carries it"
                changed = str(self.version.entry.tags.get(tracking.PUBLISHER)).endswith("(changed)")
                raise Unknown(f"{said}: commit the code") if changed else Differs(said)

    def parameters(self) -> str:
        """MLflow shows the parameters of the record, which are those of dvc.lock."""
        resolved = self.document["training"]["params"]
        shown = dict(publishing.flat(resolved))
        for holder, found in (
            ("run", self.version.run.data.params),
            ("logged model", self.version.model.params),
        ):
            for key in {**shown, **found}:
                _same(f"parameter {key} of the {holder}", found.get(key), shown.get(key))
        said, cell = self.cell.train.params["params.yaml"], self.cell
        _same("seed in the record", resolved["seed"], said["seed"])
        steps, own = params.budgeted(said[f"data.{cell.dataset}.budget.{cell.method}"])
        _same("budget in the record", resolved["budget"], steps)
        for key, value in {**said[f"method.{cell.method}"], **own}.items():
            _same(f"{key} in the record", resolved["method"].get(key), value)
        for part in ("backbone", "augment"):
            for key, value in said[f"data.{cell.dataset}.{part}"].items():
                _same(f"{part}.{key} in the record", resolved[part].get(key), value)
        return f"{len(shown)} as dvc.lock has them"

    def records(self) -> str:
        """The records are those that DVC keeps; inputs, code, packages and device as elsewhere."""
        for stage, record in self._records():
            path = self.cell.train_record if stage is self.cell.train else self.cell.evaluate_record
            kept = json.loads(self.evidence.inside(stage, path).read_text())
            _same(f"{path} in the lineage", digest(record), digest(kept))
            deps = {str(dep["path"]): str(dep["md5"]) for dep in stage.deps}
            for name, file in record["inputs"].items():
                folder = next((dep for dep in deps if PurePosixPath(name).is_relative_to(dep)), None)
                held = deps.get(name)
                if folder and held is None:
                    inner = PurePosixPath(name).relative_to(folder).as_posix()
                    held = self.evidence.listing(deps[folder]).get(inner)
                _same(f"{name} in {path}", file["md5"], held)
            for name, md5 in record["code"].items():
                _same(f"{name} in {path}", md5, deps.get(name))
            pins = stage.params.get("pyproject.toml", {})
            for name in ("torch", "numpy", "pyarrow"):
                _same(f"{name} in {path}", record["versions"][name], pins[f"tool.metashot.pins.{name}"])
        trained, run = self.document["training"], self.version.run
        device = trained["device"]
        _same("metashot.device of the run", run.data.tags.get("metashot.device"), device["type"])
        _same("steps in the record", trained["steps"], trained["params"]["budget"])
        _same("start of the run", run.info.start_time, round(1000 * trained["started"]))
        end = round(1000 * (trained["started"] + trained["seconds"]))
        _same("end of the run", run.info.end_time, end)
        packages = ", ".join(f"{name} {number}" for name, number in trained["versions"].items())
        return f"{device['name']}, {device['threads']} threads; {packages}"

    def metrics(self) -> str:
        """MLflow's metrics, where it lists, plots and links them, are those of metrics.json."""
        run, model = self.version.run.data.metrics, self.version.model
        evaluated, data = self.document["evaluation"], f"data/episodes/{self.document['name']}"
        when = round(1000 * (evaluated["started"] + evaluated["seconds"]))
        linked = defaultdict(list)
        for metric in model.metrics or []:
            linked[metric.key].append(metric)
        values: dict[str, float] = dict(publishing.taken(self.document))
        for manifest, shown in publishing.measured(self.document["metrics"]).items():
            path = f"{data}/{manifest}.parquet"
            for key, value in shown.items():
                points = linked.pop(key, [])
                _same(f"{key} of the logged model", [point.value for point in points], [value])
                _same(f"episodes of {key}", [point.dataset_name for point in points], [path])
                md5 = evaluated["inputs"][path]["md5"]
                _same(f"md5 of the episodes of {key}", [point.dataset_digest for point in points], [md5])
            values |= shown
        for key, value in values.items():
            _same(f"{key} of the run", run.get(key), value)
            held = [(point.value, point.step, point.timestamp) for point in self.version.history(key)]
            _same(f"points of {key}", held, [(value, 0, when)])
        if linked:
            raise Differs(f"the logged model has metrics of its own: {', '.join(sorted(linked))}")
        strange = set(run) - set(values) - set(self._journal()[0]["metrics"]) - {"val_accuracy"}
        if strange:
            raise Differs(f"MLflow has metrics of its own: {', '.join(sorted(strange))}")
        return f"{len(values)} as measured"

    def curves(self) -> str:
        """The journal is whole, agrees with the learning curve of the result, and is what MLflow shows."""
        points, trained = self._journal(), self.document["training"]
        _same("last step of the journal", points[-1]["step"], trained["steps"])
        curve = self.evidence.inside(
            self.cell.train, f"results/{self.cell.group}/{self.cell.method}/curve.csv"
        )
        _, *rows = (line.split(",") for line in curve.read_text().splitlines())
        validated = [
            (p["step"], p["metrics"]["val_accuracy"]) for p in points if "val_accuracy" in p["metrics"]
        ]
        _same("validations in the journal", validated, [(int(row[0]), float(row[2])) for row in rows])
        best = max(validated, key=lambda point: (point[1], -point[0]))[0]
        _same("best step in the record", trained["best_step"], best)
        wanted: dict[str, list[tuple[int, int, float]]] = defaultdict(list)
        for point in points:
            for key, value in point["metrics"].items():
                wanted[key].append((point["step"], round(1000 * point["time"]), value))
        for key, expected in wanted.items():
            found = sorted((m.step, m.timestamp, m.value) for m in self.version.history(key))
            if found != sorted(expected):
                raise Differs(f"curve {key} in MLflow is not the journal's {len(expected)} points")
            latest = self.version.run.data.metrics.get(key)
            _same(f"latest {key} of the run", latest, max(expected)[2])
        return f"{len(points)} points"

    def _journal(self) -> list[dict[str, Any]]:
        path = self.evidence.inside(self.cell.train, self.cell.journal)
        return [json.loads(line) for line in path.read_text().splitlines()]

    def card(self) -> str:
        """What people read is what metashot writes of this lineage."""
        wanted = cards.model_card(self.document)
        shown = {
            "version": self.version.entry.description,
            "run": self.version.run.data.tags.get(tracking.NOTE),
            "logged model": self.version.model.tags.get(tracking.NOTE),
        }
        for holder, text in shown.items():
            if (text or "").strip() != wanted.strip():
                raise Differs(
                    f"the card of the {holder} is not what this metashot writes: `metashot publish`"
                )
        return f"{len(wanted):,} characters"

    def one_result(self) -> str:
        """No stage it stands on ever gave another result from the same inputs."""
        for entry in self.entries.values():
            self.evidence.one_result(entry)
        return f"{len(self.entries)} keys, a result each"

    def signature(self) -> str:
        """If it is signed, the signature is by a trusted key and over this lineage."""
        path = signing.path(self.evidence.root, self.document)
        if not path.exists():
            return "not signed"
        try:
            return f"signed by {signing.verify(path, self.document, self.signers)}"
        except MetashotError as error:
            raise Differs(str(error)) from None


def _same(what: str, found: Any, wanted: Any) -> None:
    if found != wanted:
        raise Differs(f"{what} is {_short(found)}, not {_short(wanted)}")


def _short(value: Any) -> str:
    text = "missing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _found(evidence: Evidence, name: str, md5: str) -> None:
    """Hash a file of a folder, and say which it is where it is not right."""
    try:
        evidence.path(md5)
    except Differs as error:
        raise Differs(f"{name}: {error}") from None


def _bytecode(path: Path, sources: set[Path], folder: Path) -> None:
    """What Python left beside a source, and would load in its place, is that source compiled."""
    name, content = path.relative_to(folder), path.read_bytes()
    source = path.parents[1] / f"{path.name.partition('.')[0]}.py"
    if path.parent.name != "__pycache__" or source not in sources:
        raise Differs(f"the registered model has a file of its own: {name}")
    if content[:4] != MAGIC_NUMBER:
        raise Unknown(f"{name} of the registered model is of another Python: delete it")
    if marshal.loads(content[16:]) != compile(source.read_bytes(), str(source), "exec", dont_inherit=True):
        raise Differs(f"{name} of the registered model is not {source.name} compiled")


def _indexes(manifest: Path, data: Path, split: Any, name: str) -> None:
    """Every image that a manifest numbers exists and is of the class that the manifest says, and once."""
    try:
        samples = store.load(data, split, within=0)
        episodes = load_manifest(manifest, samples)
    except MetashotError as error:
        raise Differs(f"{name}: {error}") from None
    for rows in (episodes.support, episodes.query):
        if rows.size and (rows.min() < 0 or rows.max() >= len(samples.labels)):
            raise Differs(f"{name} numbers images that {data.name} does not have")
        if (samples.labels[rows] != episodes.classes[..., None]).any():
            raise Differs(f"{name} has images under other classes than theirs")
    both = np.concatenate([episodes.support, episodes.query], axis=2).reshape(len(episodes), -1)
    if (np.diff(np.sort(both, axis=1), axis=1) == 0).any():
        raise Differs(f"{name} has an image twice in an episode")
