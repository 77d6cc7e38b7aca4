"""MLflow made to agree with what git and DVC hold: results, models, versions, comparisons and aliases.

``publish`` is a reconciler. Everything it makes carries the digest of the result it shows, is looked for
before it is made, and is finished where an earlier publish was killed half-way: it may be called at any time,
any number of times, and rebuilds an emptied store from every dvc.lock in git's history and DVC's files.

A run is one result. A logged model and its version are one result and the code they carry to predict with, so
a change of that code is a new version of the same run. A comparison is a run of its own.
"""

import json
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

# Before MLflow, which reads when it is imported what this sets
from metashot.tracking import (
    COMMIT,
    DECISION,
    FILES,
    KIND,
    LINEAGE,
    LINEAGE_FILE,
    NOTE,
    PUBLISHER,
    SQLITE,
    Registered,
    pages,
    publishing,
    tracking_uri,
)

# isort: split
from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModel,
    LoggedModelInput,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from metashot import cards, carried, compare, git, lineage, provenance
from metashot.carried import CODE, PACKAGE, RESULT, Code
from metashot.compare import Comparison, Marks
from metashot.errors import MetashotError, without_credentials
from metashot.files import md5
from metashot.history import AdoptedLock, PastLock, cells, history_and_gaps
from metashot.lineage import Cell, Crossing, Lock, digest
from metashot.objects import Objects
from metashot.statistics import Difference

# isort: split


FORM = "metashot.form"  # of a finished run: digest of the modules that say how it looks
STANDING = "standing"  # of a run: whether its model is champion or challenger
STAGES = "metashot.stages"  # of a run: digest of the stages of its lineage, by which its commit is found
COMPARISON = "metashot.comparison"  # digest of what a comparison run compares
CROSSING = "metashot.crossing"  # digest of a test on another data set's episodes
METRICS_PER_BATCH, PARAMS_PER_BATCH = 1000, 100  # MLflow's limits
BEST_FIRST = {  # the UI's table of runs with the columns that matter, as its "share view" button stores it
    "orderByKey": "metrics.`test_accuracy`",
    "orderByAsc": False,
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "modelVersionFilter": "All Runs",
    "datasetsFilter": [],
    "searchFilter": "",
    "selectedColumns": [
        "attributes.`Models`",
        *(f"tags.`{key}`" for key in ("standing", "accuracy", "data")),  # no more, or these are out of sight
    ],
}


@dataclass(frozen=True)
class Published:
    """What one data set and setting looks like in MLflow after a publish.

    Attributes:
        group: Name of the experiment and of the registered model.
        uri: The tracking URI, without credentials.
        versions: The model version of each row of the present comparison, by its name.
        added: How many versions are new, those of earlier results included.
        champion: The name of the row under the alias ``champion``, None if no model passed the gate.
        gone: Results and comparisons that git knows and MLflow does not show, and why, a line each.
    """

    group: str
    uri: str
    versions: Mapping[str, int]
    added: int
    champion: str | None
    gone: Sequence[str]

    def __str__(self) -> str:
        champion = f"{self.champion} v{self.versions[self.champion]}" if self.champion else "none"
        counts = f"{len(self.versions)} models, {self.added} new"
        said = f"{self.group}: {counts}; champion {champion} (MLflow at {self.uri})"
        if self.gone:
            more = f", and {len(self.gone) - 1} more" if len(self.gone) > 1 else ""
            said += f"; not shown of earlier times: {self.gone[0]}{more}"
        return said


def publish(root: Path, groups: Sequence[tuple[str, str]], methods: Sequence[str]) -> list[Published]:
    """Make MLflow agree with dvc.lock, with every dvc.lock in git's history, and with the files they name.

    Args:
        root: The repository.
        groups: Pairs of data set and setting.
        methods: Those of the present comparison, as far as they were evaluated; earlier ones had their own.

    Returns:
        What MLflow holds now, a group each.

    Raises:
        MetashotError: Nothing to publish, files of a present result missing from the workspace, or MLflow not
            reachable.
    """
    present, (past, gaps) = Lock(root), history_and_gaps(root)
    with publishing(root) as client:
        return [_Group(client, present, past, gaps, d, s, methods).publish() for d, s in groups]


def publish_all(root: Path) -> list[Published]:
    """Publish every data set and setting that dvc.lock or git's history knows. Raises as `publish`."""
    present, (past, gaps) = Lock(root), history_and_gaps(root)
    listed = lineage.listed(root, "methods")
    published = []
    with publishing(root) as client:
        for dataset, setting in dict.fromkeys(group for lock in (present, *past) for group in lock.groups()):
            try:
                published.append(_Group(client, present, past, gaps, dataset, setting, listed).publish())
            except MetashotError as error:
                if (dataset, setting) in present.groups():
                    raise
                name, uri = f"{dataset}-{setting}", without_credentials(tracking_uri(root))
                published.append(Published(name, uri, {}, 0, None, [str(error)]))
    return published


def publish_pair(root: Path, first: Registered, second: Registered, difference: Difference) -> None:
    """Show the comparison of two versions of a registered model as a run, linked to both.

    Args:
        root: The repository.
        first: One.
        second: The other.
        difference: First minus second.

    Raises:
        MetashotError: MLflow is not reachable.
    """
    identity = digest({"results": [version.entry.tags[RESULT] for version in (first, second)]})
    with publishing(root) as client:
        experiment = first.run.info.experiment_id
        this = f"tags.`{COMPARISON}` = '{identity}'"
        found = client.search_runs([experiment], this, max_results=1)
        when = max(version.run.info.end_time for version in (first, second))
        name = f"comparison: {first.name} against {second.name}"
        tags = {KIND: "comparison", "mlflow.source.type": "JOB", COMPARISON: identity}
        run = found[0] if found else client.create_run(experiment, when, tags, run_name=name)
        models = [LoggedModelInput(version.model.model_id) for version in (first, second)]
        client.log_inputs(run.info.run_id, models=models)
        shown = lead(difference, difference.p_value)
        client.log_batch(run.info.run_id, [Metric(*value, when, 0) for value in shown.items()])
        client.set_tag(run.info.run_id, NOTE, cards.versus(first.name, second.name, difference))
        client.set_terminated(run.info.run_id, "FINISHED", when)


def lead(difference: Difference, p_value: float) -> dict[str, float]:
    """Return what MLflow shows of a model's lead over another, as fractions, and how sure it is."""
    shown = {"lead": difference.mean, "lead_low": difference.low, "lead_high": difference.high}
    needed = {"episodes_needed": float(difference.needed)} if difference.needed else {}
    return {**shown, "lead_p": p_value, **needed}


class _Group:
    """One data set and setting as an experiment and a registered model.

    Where dvc.lock has it no more, its last dvc.lock in history stands for the present.
    """

    def __init__(
        self,
        client: MlflowClient,
        present: Lock,
        past: Sequence[PastLock],
        gaps: Sequence[str],
        dataset: str,
        setting: str,
        methods: Sequence[str],
    ) -> None:
        self.client, self.root = client, present.root
        self.dataset, self.setting, self.name = dataset, setting, f"{dataset}-{setting}"
        self.past = [lock for lock in past if (dataset, setting) in lock.groups()]
        self.judged = [lock for lock in self.past if f"gate@{self.name}" in lock.entries]
        here = (dataset, setting) in present.groups() or not self.judged
        self.present: Lock = present if here else self.judged[-1]
        self.comparison = compare.compare(
            self.present, dataset, setting, methods if here else _methods(self.present, self.name)
        )
        self.carried, self.form = Code.present(self.comparison.kind), _form()
        self.code = self.carried.digest
        self.experiment = _experiment(client, tracking_uri(self.root), self.comparison)
        _registered_model(client, self.comparison)
        found = pages(lambda token: client.search_runs([self.experiment], max_results=1000, page_token=token))
        self.results = {run.data.tags[RESULT]: run for run in found if RESULT in run.data.tags}
        self.comparisons = {run.data.tags[COMPARISON]: run for run in found if COMPARISON in run.data.tags}
        self.crossings = {run.data.tags[CROSSING]: run for run in found if CROSSING in run.data.tags}
        registered = pages(
            lambda token: client.search_model_versions(f"name = '{self.name}'", page_token=token)
        )
        self.versions = {
            (v.tags[RESULT], v.tags[CODE]): v for v in registered if RESULT in v.tags and CODE in v.tags
        }
        self.gone = list(gaps)

    def publish(self) -> Published:
        """Bring all of it up to date."""
        before = len(self.versions)
        self._publish_results()
        # The present one first, for its files need not be in the cache
        self._publish_comparison(self.present, self.comparison)
        for lock in self.judged:
            try:
                self._publish_comparison(lock)
            except MetashotError as error:
                self.gone.append(f"the comparison of commit {lock.commit[:10]} ({error})")
        for source in (self.present, *self.past):
            for crossing in source.crossings(self.dataset, self.setting):
                try:
                    self._publish_crossing(source, crossing)
                except MetashotError as error:
                    name = f"{crossing.cell.method} on {crossing.other}, {crossing.result[:12]}"
                    self.gone.append(f"{name} ({error})")
        numbers = {
            row.name: int(self.versions[row.result, self.code].version) for row in self.comparison.rows
        }
        self._follow_decision(numbers)
        champion = self.comparison.champion.name if self.comparison.champion else None
        uri = without_credentials(tracking_uri(self.root))
        added = len(self.versions) - before
        return Published(self.name, uri, numbers, added, champion, self.gone)

    def _publish_results(self) -> None:
        commits: dict[str, str] = {}  # the first with the very stages, records of a run among their outputs
        for lock in self.past:
            for cell in cells(lock, self.dataset, self.setting):
                commits.setdefault(digest(provenance.stages(lock, cell)), lock.commit)
        current = {row.result for row in self.comparison.rows}
        todo = []
        for result, places in self._places().items():
            run, version = self.results.get(result), self._version(result, result in current)
            complete = version and FILES in version.tags
            if version and complete and run and run.data.tags.get(FORM) == self.form:
                self._tag(version, COMMIT, commits.get(run.data.tags.get(STAGES, "")))
                continue
            try:
                todo.append((*_whole(places), run, version))
            except MetashotError as error:
                if result in current:
                    raise
                if not (version and run):
                    self.gone.append(f"{places[0][1].method}, result {result[:12]} ({error})")
        # In the order of training, so that a rebuilt registry numbers its versions as the first one did
        todo.sort(key=lambda item: (item[0]["training"]["started"], item[0]["evaluation"]["started"]))
        for document, source, cell, run, version in todo:
            publisher = _ResultPublisher(
                self.client, self.experiment, source, cell, document, self.carried, self.form
            )
            self.results[cell.result], version = publisher.publish(run, version)
            self._tag(version, COMMIT, commits.get(digest(document["stages"])))
            self.versions[cell.result, version.tags[CODE]] = version

    def _places(self) -> dict[str, list[tuple[Lock, Cell]]]:
        """Where each result may be read, its earliest records first, the workspace last."""
        past: dict[tuple[str, str], tuple[Lock, Cell]] = {}
        for lock in self.past:
            for cell in cells(lock, self.dataset, self.setting):
                past.setdefault((cell.result, str([cell.train.outs, cell.evaluate.outs])), (lock, cell))
        objects = Objects(self.root)
        adopted = [
            (AdoptedLock(lock, objects), cell)
            for lock, cell in lineage.adopted(self.root, self.dataset, self.setting)
        ]
        here = compare.sources(self.present, self.comparison).values()
        found: dict[str, list[tuple[Lock, Cell]]] = {}
        for source, cell in (*past.values(), *adopted, *here):
            found.setdefault(cell.result, []).append((source, cell))
        return found

    def _version(self, result: str, current: bool) -> ModelVersion | None:
        """The version of a result: with the present code if it is current, else the newest of any code."""
        if current:
            return self.versions.get((result, self.code))
        found = [version for (held, _), version in self.versions.items() if held == result]
        return max(found, key=lambda version: int(version.version), default=None)

    def _model(self, version: ModelVersion) -> str:
        """The logged model of a version: MLflow does not keep which it is."""
        for output in self.results[version.tags[RESULT]].outputs.model_outputs:
            if self.client.get_logged_model(output.model_id).artifact_location == version.source:
                return str(output.model_id)
        raise MetashotError(f"MLflow has no logged model with the files of {version.name}/{version.version}")

    def _publish_comparison(self, lock: Lock, comparison: Comparison | None = None) -> None:
        """A comparison as a run, linked to the models that it compares."""
        methods = _methods(lock, self.name)
        results = [cell.result for cell in lock.cells(self.dataset, self.setting, methods)]
        decision = _decision(lock, self.name)
        identity = digest({"results": sorted(results), "decision": decision})
        run = self.comparisons.get(identity)
        if run and run.data.tags.get(FORM) == self.form:
            return
        comparison = comparison or compare.compare(lock, self.dataset, self.setting, methods)
        ended = [self.results[r.result].info.end_time for r in comparison.rows if r.result in self.results]
        if not ended:
            raise MetashotError("nothing of what it compares is left")
        publisher = _ComparisonPublisher(self.client, self.experiment, comparison, self.form)
        versions = [self._version(row.result, False) for row in comparison.rows]
        models = [self._model(version) for version in versions if version]
        tags = {COMPARISON: identity, DECISION: decision}
        self.comparisons[identity] = publisher.publish(run, tags, models, max(ended))

    def _publish_crossing(self, lock: Lock, crossing: Crossing) -> None:
        """A test on another data set's episodes as a run of its own, linked to the model and to both data."""
        run, result = self.crossings.get(crossing.result), crossing.cell.result
        if run and run.data.tags.get(FORM) == self.form:
            return
        version = self._version(result, False)
        if version is None:
            raise MetashotError("its model is not registered")
        document = provenance.crossing(lock, crossing)
        when = self.results[result].info.end_time  # the test itself has no clock times
        method, tested = crossing.cell.method, document["tested"]
        name = f"{method} on {crossing.other}"
        run = run or self.client.create_run(self.experiment, when, {CROSSING: crossing.result}, run_name=name)
        run_id = run.info.run_id
        self.client.log_inputs(
            run_id,
            list(_data({str(dep["path"]): dep for dep in crossing.entry.deps}, crossing.other).values()),
            [LoggedModelInput(self._model(version))],
        )
        shown = {"cross_accuracy": tested["accuracy"], "cross_ci95": tested["ci95"]}
        self.client.log_batch(run_id, metrics=[Metric(*value, when, 0) for value in shown.items()])
        self.client.log_dict(run_id, document, LINEAGE_FILE)
        self.client.set_terminated(run_id, "FINISHED", when)
        tags = {**cards.crossing_labels(document), NOTE: cards.crossing(document), FORM: self.form}
        for key, value in ({KIND: "cross", "mlflow.source.type": "JOB"} | tags).items():
            self.client.set_tag(run_id, key, value)
        self.crossings[crossing.result] = self.client.get_run(run_id)

    def _follow_decision(self, numbers: Mapping[str, int]) -> None:
        """Point the aliases where the gate's decision says, and show in the runs' table what they are."""
        decision = self.comparison.decision
        standings: dict[str, str] = {}
        for alias, standing in (("challenger", decision.challenger), ("champion", decision.champion)):
            named = self.comparison.row(standing)
            _alias(self.client, self.name, alias, numbers[named.name] if named else None)
            if named:
                standings[named.result] = alias
        for result, run in self.results.items():
            said, now = run.data.tags.get(STANDING), standings.get(result)
            if now and said != now:
                self.client.set_tag(run.info.run_id, STANDING, now)
            elif said and not now:
                self.client.delete_tag(run.info.run_id, STANDING)
        file = _decision(self.present, self.name)
        if self.client.get_registered_model(self.name).tags.get(DECISION) != file:
            self.client.set_registered_model_tag(self.name, DECISION, file)
        if champion := self.comparison.champion:
            self._tag(self.versions[champion.result, self.code], DECISION, file)

    def _tag(self, version: ModelVersion, key: str, value: str | None) -> None:
        if value and version.tags.get(key) != value:
            self.client.set_model_version_tag(self.name, version.version, key, value)


@dataclass(frozen=True)
class _ResultPublisher:
    """One result as a run, a logged model and a version, each step looked for before it is done."""

    client: MlflowClient
    experiment: str
    lock: Lock
    cell: Cell
    document: Mapping[str, Any]  # the result's lineage
    carried: Code  # by the model
    form: str

    @property
    def trained(self) -> Mapping[str, Any]:
        record: Mapping[str, Any] = self.document["training"]
        return record

    def publish(self, run: Run | None, version: ModelVersion | None) -> tuple[Run, ModelVersion]:
        """Complete the run, the logged model and the version."""
        run = run or self._run()
        run_id = run.info.run_id
        evaluated = self.document["evaluation"]
        data = _data({**evaluated["inputs"], **self.trained["inputs"]})
        journal = self.lock.file(self.cell.train, self.cell.journal).read_text().splitlines()
        points = [json.loads(line) for line in journal]
        self.client.log_batch(
            run_id, tags=[RunTag(*tag) for tag in run_tags(self.document).items()]
        )  # as they look now
        self._log_params(run_id)
        self._log_curves(run_id, points)
        self.client.log_inputs(run_id, list(data.values()))
        model = self._model(run, version)
        self._log_results(run_id, model, data)
        self._log_files(run_id, points)
        version = self._complete(version or self._version(run_id, model), model)
        linked = json.dumps([{"name": version.name, "version": int(version.version)}])
        labels = cards.labels(self.document)
        told = {**labels, "mlflow.modelVersions": linked, NOTE: self._card}  # the second is the UI's link
        self.client.set_logged_model_tags(model.model_id, told)
        if version.description != self._card:
            self.client.update_model_version(version.name, version.version, self._card)
        for key, value in labels.items():
            if version.tags.get(key) != value:
                self.client.set_model_version_tag(version.name, version.version, key, value)
        end = _ms(self.trained["started"] + self.trained["seconds"])
        self.client.set_terminated(run_id, "FINISHED", end)
        for key, value in {NOTE: self._card, LINEAGE: digest(self.document), FORM: self.form}.items():
            self.client.set_tag(run_id, key, value)
        return self.client.get_run(run_id), version

    @property
    def _card(self) -> str:
        return cards.model_card(self.document)

    @property
    def _labels(self) -> dict[str, str]:
        """The few tags that models and versions are listed with; the run has all."""
        return {**cards.labels(self.document), RESULT: self.cell.result, CODE: self.carried.digest}

    def _run(self) -> Run:
        started = _ms(self.trained["started"])
        return self.client.create_run(
            self.experiment, started, run_tags(self.document), run_name=self.cell.method
        )

    def _log_params(self, run_id: str) -> None:
        params = [Param(key, value) for key, value in flat(self.trained["params"])]
        for start in range(0, len(params), PARAMS_PER_BATCH):
            self.client.log_batch(run_id, params=params[start : start + PARAMS_PER_BATCH])

    def _log_curves(self, run_id: str, points: Sequence[Mapping[str, Any]]) -> None:
        metrics = [
            Metric(key, value, _ms(point["time"]), point["step"])
            for point in points
            for key, value in point["metrics"].items()
        ]
        for start in range(0, len(metrics), METRICS_PER_BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_BATCH])

    def _model(self, run: Run, version: ModelVersion | None) -> LoggedModel:
        """The logged model: found or made, its files uploaded, linked to the run."""
        code = version.tags[CODE] if version else self.carried.digest
        this = f"tags.`{RESULT}` = '{self.cell.result}' AND tags.`{CODE}` = '{code}'"
        found = self.client.search_logged_models([self.experiment], this, max_results=1)
        model = found[0] if found else None
        if model is None:
            model = self.client.create_logged_model(
                self.experiment,
                name=self.cell.method,
                source_run_id=run.info.run_id,
                tags=self._labels,
                params=dict(flat(self.trained["params"])),
                model_type="few-shot classifier",
            )
        if model.status != LoggedModelStatus.READY:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name) / "model"
                files = self._save(folder, model)
                self.client.log_model_artifacts(model.model_id, str(folder))
                self.client.set_logged_model_tags(model.model_id, {FILES: files})
            model = self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        linked = run.outputs.model_outputs if run.outputs else []
        if model.model_id not in [output.model_id for output in linked]:
            output = LoggedModelOutput(model.model_id, self.trained["best_step"])
            self.client.log_outputs(run.info.run_id, [output])
        return model

    def _save(self, folder: Path, model: LoggedModel) -> str:
        """Write an MLflow model (`metashot.carried`); returns the digest of its files."""
        created = (model.model_id, model.source_run_id, model.creation_timestamp)
        described = carried.described(self.carried, self.document, *created)
        weights = folder / carried.ARTIFACTS
        weights.mkdir(parents=True)
        for name, content in described.items():
            (folder / name).write_bytes(content)
        for name in self.document["model"]:  # in the cache their names are digests
            shutil.copyfile(self.lock.file(self.cell.train, f"{self.cell.model}/{name}"), weights / name)
        return carried.files_digest(described, self.document["model"])

    def _log_results(self, run_id: str, model: LoggedModel, data: Mapping[str, DatasetInput]) -> None:
        """The evaluation, linked to the model and to the episodes it was measured on, and what it took.

        All at step 0, which the UI compares as bars.
        """
        evaluated, episodes = self.document["evaluation"], f"data/episodes/{self.cell.group}"
        when = _ms(evaluated["started"] + evaluated["seconds"])
        metrics = []
        for manifest, values in measured(self.document["metrics"]).items():
            test = data[f"{episodes}/{manifest}.parquet"].dataset
            linked = {"model_id": model.model_id, "dataset_name": test.name, "dataset_digest": test.digest}
            metrics += [Metric(key, value, when, 0, **linked) for key, value in values.items()]
        metrics += [Metric(key, value, when, 0) for key, value in taken(self.document).items()]
        self.client.log_batch(run_id, metrics=metrics)

    def _log_files(self, run_id: str, points: Sequence[Mapping[str, Any]]) -> None:
        """Learning curve and lineage, as files of the run."""
        from metashot import plots  # matplotlib is slow to import

        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            curve = [{"step": point["step"], **point["metrics"]} for point in points]
            title = f"{self.cell.method} on {self.cell.dataset}, {self.cell.setting}"
            (folder / "learning-curve.png").write_bytes(plots.learning_curve(title, curve))
            (folder / LINEAGE_FILE).write_text(json.dumps(self.document, indent=2))
            self.client.log_artifacts(run_id, name)

    def _version(self, run_id: str, model: LoggedModel) -> ModelVersion:
        return self.client.create_model_version(
            self.cell.group,
            source=model.artifact_location,
            run_id=run_id,
            model_id=model.model_id,
            tags={**self._labels, PUBLISHER: _publisher(self.lock.root)},
            description=self._card,
        )

    def _complete(self, version: ModelVersion, model: LoggedModel) -> ModelVersion:
        """Add to a version's files what names it; its digest of the files says that this is done."""
        if FILES in version.tags:
            return version
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, carried.META).write_bytes(carried.meta(version.name, version.version))
            self.client.log_model_artifacts(model.model_id, folder)
        self.client.set_model_version_tag(version.name, version.version, FILES, model.tags[FILES])
        return self.client.get_model_version(version.name, version.version)


@dataclass(frozen=True)
class _ComparisonPublisher:
    """A comparison as a run of its own: what the gate saw, and what it decided."""

    client: MlflowClient
    experiment: str
    comparison: Comparison
    form: str

    def publish(self, run: Run | None, tags: Mapping[str, str], models: Sequence[str], when: int) -> Run:
        """Complete the run.

        Args:
            run: As far as it is there.
            tags: What it is found by.
            models: Logged models that are compared.
            when: In ms, the end of the last training among them.
        """
        named = {KIND: "comparison", "mlflow.source.type": "JOB", **tags}
        name = f"comparison: {cards.headline(self.comparison)}"
        run = run or self.client.create_run(self.experiment, when, named, run_name=name)
        run_id = run.info.run_id
        if run.info.run_name != name:  # it was called so by another form
            self.client.update_run(run_id, name=name)
        self.client.log_inputs(run_id, models=[LoggedModelInput(model) for model in models])
        with tempfile.TemporaryDirectory() as folder:
            cards.write_report(self.comparison, Path(folder))
            decision = Path(folder, Path(compare.decision_path(self.comparison.group)).name)
            decision.write_text(self.comparison.decision.json, encoding="utf-8")
            if self.comparison.pairs:
                from metashot import plots  # matplotlib is slow to import

                Path(folder, "differences.png").write_bytes(plots.differences_plot(self.comparison))
            self.client.log_artifacts(run_id, folder)
        self.client.log_batch(run_id, metrics=[Metric(*value, when, 0) for value in self._lead().items()])
        self.client.set_terminated(run_id, "FINISHED", when)
        for key, value in {NOTE: cards.overview(self.comparison), FORM: self.form}.items():
            self.client.set_tag(run_id, key, value)
        return self.client.get_run(run_id)

    def _lead(self) -> dict[str, float]:
        """The best model's lead over the second."""
        if not self.comparison.pairs:
            return {}
        pair = self.comparison.pairs[0]
        return lead(pair.difference, pair.p_corrected)


def measured(metrics: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return what MLflow shows of an evaluation, by the name of the manifest it was measured on.

    Args:
        metrics: The evaluation's metrics.json.
    """
    shown = {
        "test": {
            "test_accuracy": metrics["accuracy"],
            "test_ci95": metrics["ci95"],
            "untrained_accuracy": metrics["untrained"]["accuracy"],
            "untrained_ci95": metrics["untrained"]["ci95"],
        }
    }
    for name, extra in metrics["extra"].items():
        values = {f"test_accuracy_{name}": extra["accuracy"], f"test_ci95_{name}": extra["ci95"]}
        shown[f"test-{name}"] = values
    return shown


def run_tags(document: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags that the run of a result begins with."""
    name, method, tree = document["name"], document["method"], document["training"]["git"]
    stages = [f"{stage}@{name}-{method}" for stage in ("train", "evaluate")]
    tags = {
        KIND: "result",
        **cards.labels(document),
        "metashot.dataset": document["dataset"],
        "metashot.setting": document["setting"],
        "metashot.method": method,
        "metashot.stage": " ".join(stages),
        "metashot.key": document["key"],
        STAGES: digest(document["stages"]),
        RESULT: document["result"],
        "metashot.git_commit": str(tree["commit"]),
        "metashot.git_dirty": str(tree["dirty"]).lower(),
        **{
            f"metashot.{key}": str(true).lower()
            for key, true in Marks.of(document["origin"])._asdict().items()
        },
        "metashot.transductive": str(document["metrics"]["transductive"]).lower(),
        "metashot.device": document["training"]["device"]["type"],
        "mlflow.source.name": stages[0],
        "mlflow.source.type": "JOB",
    }
    return tags | ({"mlflow.source.git.commit": tree["commit"]} if tree["commit"] else {})


def taken(document: Mapping[str, Any]) -> dict[str, float]:
    """Return what MLflow shows of what a training took."""
    trained = document["training"]
    return {
        "best_step": float(trained["best_step"]),
        "parameters": float(document["metrics"]["parameters"]),
        "train_seconds": float(trained["seconds"]),
        "peak_memory_mb": float(trained["peak_memory_mb"]),
    }


def flat(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested parameters as ``outer.inner`` and value, as MLflow shows them."""
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def _experiment(client: MlflowClient, uri: str, comparison: Comparison) -> str:
    found = client.get_experiment_by_name(comparison.group)
    if found is None:
        artifacts = None  # a server has its own place for them
        if uri.startswith(SQLITE):
            artifacts = (Path(uri.removeprefix(SQLITE)).parent / "artifacts" / comparison.group).as_uri()
        found = client.get_experiment(client.create_experiment(comparison.group, artifacts))
    elif found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    runs = (
        f"#/experiments/{found.experiment_id}/runs?workflowType=machine_learning&viewStateShareKey=metashot"
    )
    tags = {
        NOTE: f"{cards.overview(comparison)}\n\n[All runs, best first]({runs})",
        "mlflow.experimentKind": "custom_model_development",  # runs and models, not traces and prompts
        "mlflow.sharedViewState.metashot": json.dumps(BEST_FIRST),
    }
    for key, value in tags.items():
        if found.tags.get(key) != value:
            client.set_experiment_tag(found.experiment_id, key, value)
    return str(found.experiment_id)


def _registered_model(client: MlflowClient, comparison: Comparison) -> None:
    description = f"{cards.overview(comparison)}\n\n{cards.usage(comparison.group, comparison.kind)}"
    tags = {
        "metashot.dataset": comparison.dataset,
        "metashot.setting": comparison.setting,
        "metashot.synthetic": str(comparison.synthetic).lower(),
        "metashot.known_classes": str(comparison.known_classes).lower(),
    }
    try:
        found = client.get_registered_model(comparison.group)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        client.create_registered_model(comparison.group, tags=tags, description=description)
    else:
        if found.description != description:
            client.update_registered_model(comparison.group, description)


def _alias(client: MlflowClient, group: str, alias: str, version: int | None) -> None:
    """Point an alias at a version, or take it away."""
    now = client.get_registered_model(group).aliases.get(alias)
    if version is None:
        if now is not None:
            client.delete_registered_model_alias(group, alias)
    elif now is None or int(now) != version:
        client.set_registered_model_alias(group, alias, str(version))


def _whole(places: Sequence[tuple[Lock, Cell]]) -> tuple[dict[str, Any], Lock, Cell]:
    """The lineage of a result, and the first place that has all that a run and a model need.

    Raises:
        MetashotError: None has; why the last one has not.
    """
    problem: MetashotError | None = None
    for source, cell in places:
        try:
            document = provenance.document(source, cell)
            for path in (cell.journal, *(f"{cell.model}/{name}" for name in document["model"])):
                source.file(cell.train, path)
        except MetashotError as error:
            problem = error
        else:
            return document, source, cell
    assert problem
    raise problem


def _methods(lock: Lock, group: str) -> list[str]:
    """The methods that the gate was to judge."""
    methods: list[str] = lock.entries[f"gate@{group}"].params["params.yaml"]["methods"]
    return methods


def _decision(lock: Lock, group: str) -> str:
    """DVC's md5 of the decision file."""
    return str(lock.entries[f"gate@{group}"].outs[0]["md5"])


def _form() -> str:
    """Digest of the modules that say how a run looks: where they change, all runs are written again."""
    return digest(
        [md5(PACKAGE / name) for name in ("cards.py", "provenance.py", "publishing.py", "plots.py")]
    )


def _publisher(root: Path) -> str:
    """Who publishes: person, machine, and the commit of this code."""
    tree = git.state(root)
    commit = f"{tree['commit']}{' (changed)' if tree['dirty'] else ''}" if tree["commit"] else "no commit"
    return f"{git.user(root)} on {socket.gethostname()}, metashot {metadata.version('metashot')} at {commit}"


def _data(inputs: Mapping[str, Mapping[str, Any]], other: str = "") -> dict[str, DatasetInput]:
    """The data among files that were read: name and digest are DVC's path and md5.

    The samples of an ``other`` data set were tested on alone.
    """
    # train.parquet and the samples: training
    contexts = {"val": "validation", "test": "evaluation", other: "evaluation"}
    return {
        path: DatasetInput(
            Dataset(
                name=path,
                digest=file["md5"],
                source_type="local",
                source=json.dumps({"uri": path, "get": f"dvc checkout {path}"}),
                profile=json.dumps({"bytes": file["size"]}),
            ),
            [InputTag("mlflow.data.context", contexts.get(Path(path).stem.split("-")[0], "training"))],
        )
        for path, file in sorted(inputs.items(), reverse=True)  # data/processed before data/episodes
        if path.startswith("data/")
    }


def _ms(seconds: float) -> int:
    """Unix seconds as MLflow's milliseconds."""
    return round(1000 * seconds)
