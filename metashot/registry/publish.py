"""MLflow made to agree with what git and DVC hold: results, models, versions, comparisons and aliases.

``publish`` is a reconciler. Everything it makes carries the digest of the result it shows, is looked for
before it is made, and is finished where an earlier publish was killed half-way: it may be called at any time,
any number of times, and rebuilds an emptied store from every dvc.lock in git's history and DVC's files.

A run is one result. A logged model and its version are one result and the code they carry to predict with, so
a change of that code is a new version of the same run. A comparison is a run of its own.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before MLflow, which reads when it is imported what this sets
from metashot.registry.tracking import (
    COMMIT,
    DECISION,
    FILES,
    KIND,
    LINEAGE_FILE,
    NOTE,
    SQLITE,
    pages,
    publishing,
    tracking_uri,
)
from metashot.registry.versions import Registered

# isort: split
from mlflow import MlflowClient
from mlflow.entities import (
    LoggedModelInput,
    Metric,
)
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from metashot.errors import MetashotError, without_credentials
from metashot.files import digest
from metashot.learning.statistics import Difference
from metashot.lineage import documents, lockfile
from metashot.lineage.history import AdoptedLock, PastLock, cells, history_and_gaps
from metashot.lineage.lockfile import Cell, Crossing, Lock
from metashot.lineage.objects import Objects
from metashot.registry import carried
from metashot.registry.carried import CODE, RESULT, Code
from metashot.registry.runs import (
    COMPARISON,
    CROSSING,
    FORM,
    STAGES,
    STANDING,
    ComparisonRun,
    ResultRun,
    data_inputs,
    form,
    lead,
)
from metashot.results import cards, compare
from metashot.results.compare import Comparison

# isort: split


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
    listed = lockfile.listed(root, "methods")
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
        self.form, self.codes = form(), dict[str, Code]()
        present_cells = compare.sources(self.present, self.comparison).values()
        self.code = {cell.result: self._code(cell).digest for _, cell in present_cells}
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
            row.name: int(self.versions[row.result, self.code[row.result]].version)
            for row in self.comparison.rows
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
                commits.setdefault(digest(documents.stages(lock, cell)), lock.commit)
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
            publisher = ResultRun(
                self.client, self.experiment, source, cell, document, self._code(cell), self.form
            )
            self.results[cell.result], version = publisher.publish(run, version)
            self._tag(version, COMMIT, commits.get(digest(document["stages"])))
            self.versions[cell.result, version.tags[CODE]] = version

    def _code(self, cell: Cell) -> Code:
        """What a model of a cell would carry now."""
        parts = carried.parts(self.comparison.kind, cell)
        if (key := str(parts)) not in self.codes:
            self.codes[key] = Code.present(parts)
        return self.codes[key]

    def _places(self) -> dict[str, list[tuple[Lock, Cell]]]:
        """Where each result may be read, its earliest records first, the workspace last."""
        past: dict[tuple[str, str], tuple[Lock, Cell]] = {}
        for lock in self.past:
            for cell in cells(lock, self.dataset, self.setting):
                past.setdefault((cell.result, str([cell.train.outs, cell.evaluate.outs])), (lock, cell))
        objects = Objects(self.root)
        adopted = [
            (AdoptedLock(lock, objects), cell)
            for lock, cell in lockfile.adopted(self.root, self.dataset, self.setting)
        ]
        here = compare.sources(self.present, self.comparison).values()
        found: dict[str, list[tuple[Lock, Cell]]] = {}
        for source, cell in (*past.values(), *adopted, *here):
            found.setdefault(cell.result, []).append((source, cell))
        return found

    def _version(self, result: str, current: bool) -> ModelVersion | None:
        """The version of a result: with the present code if it is current, else the newest of any code."""
        if current:
            return self.versions.get((result, self.code[result]))
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
        publisher = ComparisonRun(self.client, self.experiment, comparison, self.form)
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
        document = documents.crossing(lock, crossing)
        when = self.results[result].info.end_time  # the test itself has no clock times
        method, tested = crossing.cell.method, document["tested"]
        name = f"{method} on {crossing.other}"
        run = run or self.client.create_run(self.experiment, when, {CROSSING: crossing.result}, run_name=name)
        run_id = run.info.run_id
        self.client.log_inputs(
            run_id,
            list(
                data_inputs({str(dep["path"]): dep for dep in crossing.entry.deps}, crossing.other).values()
            ),
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
            self._tag(self.versions[champion.result, self.code[champion.result]], DECISION, file)

    def _tag(self, version: ModelVersion, key: str, value: str | None) -> None:
        if value and version.tags.get(key) != value:
            self.client.set_model_version_tag(self.name, version.version, key, value)


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
            document = documents.document(source, cell)
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
