"""What MLflow claims of a registered version, each claim recomputed from what git and DVC hold."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from metashot import untrusted
from metashot.audit import leaks
from metashot.audit.evidence import Differs, Evidence, Unknown, where
from metashot.audit.evidence import same as _same
from metashot.config import params
from metashot.data import store
from metashot.data.kinds import KINDS
from metashot.errors import MetashotError
from metashot.files import digest
from metashot.learning.models.episodes import load_manifest
from metashot.lineage import documents
from metashot.lineage.lockfile import Cell, Lock
from metashot.lineage.objects import FOLDER, Missing
from metashot.project.entries import Entry, stages
from metashot.registry import carried, runs, signing, tracking
from metashot.registry.versions import Registered
from metashot.results import cards


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
        try:
            return stages(self.document["stages"], tracking.LINEAGE_FILE, "`metashot publish`")
        except MetashotError as error:
            raise Differs(str(error)) from None

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
            _same(f"command of {stage}", entry.cmd, " ".join(entry.command))
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
        labels = {**cards.labels(said), carried.RESULT: said["result"]}
        _same("registered model", entry.name, said["name"])
        holders = {
            "version": (entry.tags, labels),
            "logged model": (model.tags, {**labels, carried.CODE: entry.tags[carried.CODE]}),
            "run": (run.data.tags, runs.run_tags(said)),
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
            found = next(filter(self._in, self.evidence.history), None)
            if found is None:
                raise Unknown(
                    "no commit has this result with its records: commit dvc.lock, then `metashot publish`"
                )
            lock = found
        for stage, entry in self.entries.items():
            there = lock.entries.get(stage)
            if there is None:
                raise Differs(f"{where(lock)} has no {stage}")
            _same(f"{stage} in {where(lock)}: inputs", digest(there.inputs), digest(entry.inputs))
            outs = _outs(there)
            for path, md5 in _outs(entry).items():
                _same(f"{path} in {where(lock)}", outs.get(path), md5)
        return f"{where(lock)} has it"

    def _in(self, lock: Lock) -> bool:
        """Whether a dvc.lock has the stages of the lineage, inputs and outputs, records as well."""
        for stage, entry in self.entries.items():
            there = lock.entries.get(stage)
            if there is None or digest(there.inputs) != digest(entry.inputs) or _outs(there) != _outs(entry):
                return False
        return True

    def code(self) -> str:
        """The files that stages depended on, and their parameters, are those of the commit they ran at."""
        trees: list[tuple[str, str | None]] = []
        for stage, record in self._records():
            commit, dirty = record["git"]["commit"], record["git"]["dirty"]
            if commit is None:
                raise Unknown("it was not made in a git repository")
            patch = self.evidence.patch(stage) if dirty else None
            tree = self.evidence.tree(commit, patch)
            trees.append((commit, patch))
            self.evidence.made_of(stage, self._made, commit, patch)
            for path, md5 in record["code"].items():
                _same(f"{path} as {stage.stage} loaded it", md5, tree.get(path))
        committed = self.version.entry.tags.get(tracking.COMMIT)
        # An earlier stage may have run since, with the same outcome for this training
        later = [(committed, None)] if committed in self.evidence.reachable else []
        for stage in self.entries.values():
            if stage not in (self.cell.train, self.cell.evaluate):
                self.evidence.fitting(stage, self._made, [*trees, *later])
        tags = self.version.run.data.tags
        git_ = self.document["training"]["git"]
        _same("metashot.git_commit of the run", tags.get("metashot.git_commit"), git_["commit"])
        _same("mlflow.source.git.commit of the run", tags.get("mlflow.source.git.commit"), git_["commit"])
        _same("metashot.git_dirty of the run", tags.get("metashot.git_dirty"), str(git_["dirty"]).lower())
        changed = ", with the stored changes of a dirty tree" if git_["dirty"] else ""
        return f"commit {', '.join(sorted({commit[:10] for commit, _ in trees}))}{changed}"

    @cached_property
    def _made(self) -> set[str]:
        """Every output of the stages."""
        return {str(out["path"]) for entry in self.entries.values() for out in entry.outs}

    def _records(self) -> Iterator[tuple[Entry, dict[str, Any]]]:
        yield self.cell.train, self.document["training"]
        yield self.cell.evaluate, self.document["evaluation"]

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
        self._apart(evidence.path(made[processed]), origin)
        _same("manifest in metrics.json", said["metrics"]["manifest"], manifests.get("test.parquet"))
        linked = {i.dataset.name: i.dataset.digest for i in self.version.run.inputs.dataset_inputs}
        read = {**said["training"]["inputs"], **said["evaluation"]["inputs"]}
        wanted = {path: file["md5"] for path, file in read.items() if path.startswith("data/")}
        for path in {**linked, **wanted}:
            _same(f"digest of {path} in MLflow", linked.get(path), wanted.get(path))
        return f"{said['dataset']} {made[processed][:8]}, {len(manifests)} manifests index it"

    def _apart(self, data: Path, origin: Mapping[str, Any]) -> None:
        """No sample is in two splits, and no class where they are disjoint: else tests were trained on."""
        key = f"shared {data.parent.name}{data.name}"  # an object's name is its digest
        if key not in self.evidence.memory:
            self.evidence.memory[key] = leaks.shared(data)
        found = leaks.Shared(*self.evidence.memory[key])
        if found.digests:
            raise Differs(f"{found.digests:,} samples of the data are in two splits")
        if found.classes and origin.get("classes") != "shared":
            raise Differs(f"{len(found.classes):,} classes are in two splits, such as {found.classes[0]}")
        if found.contents and not KINDS[origin["kind"]].USE.merged:
            raise Unknown(
                f"{found.contents:,} samples of the data have the bytes of a sample of another split, under "
                "other digests: `metashot reproduce` makes the data again"
            )

    def episodes(self) -> str:
        """metrics.json says what the counts of every episode come to."""
        metrics = self.evidence.json(self.cell.evaluate, self.cell.metrics)
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

    @cached_property
    def weights(self) -> dict[str, str]:
        """The md5 of each file of the model that DVC has."""
        return self.evidence.listing(self.cell.weights)

    @cached_property
    def described(self) -> carried.Files:
        """The other files of the registered model, as publish writes them of git, DVC and MLflow's ids."""
        records = [*self._trees()]
        code, model = self.version.entry.tags[carried.CODE], self.version.model
        try:
            kind = self.document["origin"]["kind"]
            held = self.evidence.code(code, kind, carried.parts(kind, self.cell), records)
        except Differs as error:
            if str(self.version.entry.tags.get(tracking.PUBLISHER)).endswith("(changed)"):
                raise Unknown(f"{error}; it was published from uncommitted code: commit that") from None
            raise
        created = model.model_id, self.version.entry.run_id, model.creation_timestamp
        return carried.described(held, self.document, *created)

    def _trees(self) -> Iterator[tuple[str, str | None]]:
        """Commit and patch of the trees that training and evaluation ran in."""
        for stage, record in self._records():
            if record["git"]["commit"]:
                yield record["git"]["commit"], self.evidence.patch(stage) if record["git"]["dirty"] else None

    def model(self) -> str:
        """The files of the registered model are the ones that publish writes, and no others."""
        entry, weights = self.version.entry, self.weights
        _same("files of the model in the lineage", self.document["model"], weights)
        try:
            folder = self.version.folder
            sizes = carried.sizes(folder, weights)
        except untrusted.Refused as error:
            raise Differs(f"the registered model: {error}") from None
        except (MetashotError, OSError) as error:
            raise Unknown(str(error)) from None
        wanted = {**self.described, carried.META: carried.meta(entry.name, entry.version)}
        for name, content in wanted.items():
            held = untrusted.read(folder, name, max(len(content), untrusted.DOCUMENT))
            if name != carried.META or held not in carried.metas(entry.name, entry.version):
                _equal(name, held, content)
        largest = next(int(out["size"]) for out in self.cell.train.outs if out["path"] == self.cell.model)
        for name, md5 in weights.items():
            if (size := sizes[f"{carried.ARTIFACTS}/{name}"]) > largest:
                raise Differs(f"size of {name} of the registered model is {size:,} bytes, more than DVC has")
            with untrusted.opened(folder, f"{carried.ARTIFACTS}/{name}") as file:
                _same(f"{name} of the registered model", hashlib.file_digest(file, "md5").hexdigest(), md5)
        digest_ = carried.files_digest(self.described, weights)
        for holder, tags in (("version", entry.tags), ("logged model", self.version.model.tags)):
            _same(f"{tracking.FILES} of the {holder}", tags.get(tracking.FILES), digest_)
        return f"{len(sizes)} files are what publish writes, the code is {entry.tags[carried.CODE][:12]}"

    def parameters(self) -> str:
        """MLflow shows the parameters of the record, which are those of dvc.lock."""
        resolved = self.document["training"]["params"]
        shown = dict(documents.flat(resolved))
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
            kept = self.evidence.json(stage, path)
            _same(f"{path} in the lineage", digest(record), digest(kept))
            deps = {str(dep["path"]): str(dep["md5"]) for dep in stage.deps}
            for name, file in record["inputs"].items():
                folder = next((dep for dep in deps if PurePosixPath(name).is_relative_to(dep)), None)
                held = deps.get(name)
                if folder and held is None:
                    inner = PurePosixPath(name).relative_to(folder).as_posix()
                    held = self.evidence.listing(deps[folder]).get(inner)
                _same(f"{name} in {path}", file["md5"], held)
            ran = self.evidence.ran(stage)
            for name, md5 in record["code"].items():
                if ran and name in ran.parts:  # of whose lines those count that the stage uses
                    _same(f"{name} in {path}", name in ran.modules, True)
                else:
                    _same(f"{name} in {path}", md5, ran.modules.get(name) if ran else deps.get(name))
            pins = stage.params.get("pyproject.toml", {})
            for name in ("torch", "numpy", "pyarrow"):
                pin = ran.packages.get(name) if ran else pins[f"tool.metashot.pins.{name}"]
                _same(f"{name} in {path}", record["versions"][name], pin)
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
        values: dict[str, float] = dict(runs.taken(self.document))
        for manifest, shown in runs.measured(self.document["metrics"]).items():
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
        path = f"results/{self.cell.group}/{self.cell.method}/curve.csv"
        curve = self.evidence.content(self.cell.train, path).decode()
        _, *rows = (line.split(",") for line in curve.splitlines())
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
        path = self.cell.journal
        lines = self.evidence.content(self.cell.train, path).splitlines()
        return [untrusted.parsed(line, f"line {number} of {path}") for number, line in enumerate(lines, 1)]

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
        path = signing.path(self.evidence.root, self.document, self.version.entry.tags[carried.CODE])
        if not path.exists():
            if others := sorted(path.parent.glob(f"{self.document['result']}*.json")):
                raise Unknown(
                    f"{others[0].name} signs this result, but not with the code of this version: "
                    f"`metashot sign {self.version.name}`"
                )
            return "not signed"
        try:
            return f"signed by {signing.verify(path, self.document, self.described, self.signers)}"
        except MetashotError as error:
            raise Differs(str(error)) from None


def _outs(entry: Entry) -> dict[str, str]:
    return {str(out["path"]): str(out["md5"]) for out in entry.outs}


def _found(evidence: Evidence, name: str, md5: str) -> None:
    """Hash a file of a folder, and say which it is where it is not right."""
    try:
        evidence.path(md5)
    except Differs as error:
        raise Differs(f"{name}: {error}") from None


def _equal(name: str, found: bytes, wanted: bytes) -> None:
    """Compare a file of a registered model whole, and say where a text differs first."""
    if found == wanted:
        return
    if name == carried.ZIP:
        raise Differs(f"{name} of the registered model is not the code that it names")
    held, expected = (content.decode(errors="replace").splitlines() for content in (found, wanted))
    for number, (one, other) in enumerate(zip_longest(held, expected), 1):
        if one != other:
            one, other = (None if line is None else ascii(line.strip()) for line in (one, other))
            _same(f"line {number} of {name} of the registered model", one, other)
    raise Differs(f"{name} of the registered model has other line endings than publish writes")


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
