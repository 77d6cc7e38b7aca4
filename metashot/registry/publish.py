"""Publishing to MLflow: results, models, versions, comparisons and aliases are made to match git and DVC.

``publish`` is a reconciler. Everything it makes carries the digest of the result it shows, is looked for
before it is made, and is finished where an earlier publish was killed half-way: it may be called at any time,
any number of times, and rebuilds an emptied store from every dvc.lock in git's history and DVC's files.

A run is one result. A logged model and its version are one result and the code they carry to predict with, so
a change of that code is a new version of the same run. A comparison is a run of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Before MLflow, which reads when it is imported what this sets
from metashot.registry.tracking import (
    COMMIT,
    DECISION,
    FILES,
    LINEAGE_FILE,
    NOTE,
    RUN_TYPE,
    pages,
    publishing,
    tracking_uri,
)
from metashot.registry.versions import Registered

# isort: split
from mlflow import MlflowClient
from mlflow.entities import LoggedModelInput, Metric
from mlflow.entities.model_registry import ModelVersion

from metashot.errors import MetashotError, without_credentials
from metashot.files import digest
from metashot.learning.statistics import Difference
from metashot.lineage import lockfile
from metashot.lineage.document import CrossDocument, Document, encoder_files, stages_digest
from metashot.lineage.history import AdoptedLock, PastLock, cells, history_and_gaps
from metashot.lineage.lockfile import Cell, CrossTest, Lock
from metashot.lineage.objects import Objects
from metashot.registry import carried, group
from metashot.registry.carried import CODE, RESULT, Code
from metashot.registry.runs import (
    COMPARISON,
    CROSS_TEST,
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


@dataclass(frozen=True)
class Published:
    """The state of one data set and setting in MLflow after a publish.

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
        text = f"{self.group}: {counts}; champion {champion} (MLflow at {self.uri})"
        if self.gone:
            more = f", and {len(self.gone) - 1} more" if len(self.gone) > 1 else ""
            text += f"; not shown of earlier times: {self.gone[0]}{more}"
        return text


def publish(root: Path, groups: Sequence[tuple[str, str]], methods: Sequence[str]) -> list[Published]:
    """Make MLflow match dvc.lock, every dvc.lock in git's history, and the files they name.

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
    """Publish every data set and setting in dvc.lock or git's history. Raises as `publish`."""
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
        runs = client.search_runs([experiment], this, max_results=1)
        when = max(version.run.info.end_time for version in (first, second))
        name = f"comparison: {first.name} against {second.name}"
        tags = {RUN_TYPE: "comparison", "mlflow.source.type": "JOB", COMPARISON: identity}
        run = runs[0] if runs else client.create_run(experiment, when, tags, run_name=name)
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
        self.form, self.codes = form(self.comparison.kind), dict[str, Code]()
        present_cells = compare.sources(self.present, self.comparison).values()
        self.code = {cell.result: self._code(cell).digest for _, cell in present_cells}
        self.experiment = group.experiment(client, tracking_uri(self.root), self.comparison)
        group.registered_model(client, self.comparison)
        runs = pages(lambda token: client.search_runs([self.experiment], max_results=1000, page_token=token))
        self.results = {run.data.tags[RESULT]: run for run in runs if RESULT in run.data.tags}
        self.comparisons = {run.data.tags[COMPARISON]: run for run in runs if COMPARISON in run.data.tags}
        self.cross_tests = {run.data.tags[CROSS_TEST]: run for run in runs if CROSS_TEST in run.data.tags}
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
            for test in source.cross_tests(self.dataset, self.setting):
                try:
                    self._publish_cross_test(source, test)
                except MetashotError as error:
                    name = f"{test.cell.method} on {test.other}, {test.result[:12]}"
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
                commits.setdefault(stages_digest(lock, cell), lock.commit)
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
        todo.sort(key=lambda item: (item[0].training.started, item[0].evaluation.started))
        for document, source, cell, run, version in todo:
            publisher = ResultRun(
                self.client, self.experiment, source, cell, document, self._code(cell), self.form
            )
            self.results[cell.result], version = publisher.publish(run, version)
            self._tag(version, COMMIT, commits.get(document.stages_digest))
            self.versions[cell.result, version.tags[CODE]] = version

    def _code(self, cell: Cell) -> Code:
        """The code that a cell's model would carry if it were registered now."""
        parts = carried.parts(self.comparison.kind, cell)
        if (key := str(parts)) not in self.codes:
            self.codes[key] = Code.present(parts)
        return self.codes[key]

    def _places(self) -> dict[str, list[tuple[Lock, Cell]]]:
        """The places to read each result from: earliest records first, the workspace last."""
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
        places: dict[str, list[tuple[Lock, Cell]]] = {}
        for source, cell in (*past.values(), *adopted, *here):
            places.setdefault(cell.result, []).append((source, cell))
        return places

    def _version(self, result: str, current: bool) -> ModelVersion | None:
        """The version of a result: with the present code if it is current, else the newest of any code."""
        if current:
            return self.versions.get((result, self.code[result]))
        versions = [version for (held, _), version in self.versions.items() if held == result]
        return max(versions, key=lambda version: int(version.version), default=None)

    def _model(self, version: ModelVersion) -> str:
        """The logged model of a version, which MLflow does not record."""
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

    def _publish_cross_test(self, lock: Lock, test: CrossTest) -> None:
        """A test on another data set's episodes as a run of its own, linked to the model and to both data."""
        run, result = self.cross_tests.get(test.result), test.cell.result
        if run and run.data.tags.get(FORM) == self.form:
            return
        version = self._version(result, False)
        if version is None:
            raise MetashotError("its model is not registered")
        document = CrossDocument.of_test(lock, test)
        when = self.results[result].info.end_time  # the test itself has no clock times
        name = f"{test.cell.method} on {test.other}"
        run = run or self.client.create_run(self.experiment, when, {CROSS_TEST: test.result}, run_name=name)
        run_id = run.info.run_id
        read = {str(dep["path"]): (str(dep["md5"]), int(dep["size"])) for dep in test.entry.deps}
        self.client.log_inputs(
            run_id,
            list(data_inputs(read, test.other).values()),
            [LoggedModelInput(self._model(version))],
        )
        shown = {"cross_accuracy": document.tested.accuracy, "cross_ci95": document.tested.ci95}
        self.client.log_batch(run_id, metrics=[Metric(*value, when, 0) for value in shown.items()])
        self.client.log_dict(run_id, document.written, LINEAGE_FILE)
        self.client.set_terminated(run_id, "FINISHED", when)
        tags = {**cards.cross_labels(document), NOTE: cards.cross_card(document), FORM: self.form}
        for key, value in ({RUN_TYPE: "cross", "mlflow.source.type": "JOB"} | tags).items():
            self.client.set_tag(run_id, key, value)
        self.cross_tests[test.result] = self.client.get_run(run_id)

    def _follow_decision(self, numbers: Mapping[str, int]) -> None:
        """Point the aliases at the gate's champion and challenger, and label their runs."""
        decision = self.comparison.decision
        standings: dict[str, str] = {}
        for alias, standing in (("challenger", decision.challenger), ("champion", decision.champion)):
            named = self.comparison.row(standing)
            group.alias(self.client, self.name, alias, numbers[named.name] if named else None)
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


def _whole(places: Sequence[tuple[Lock, Cell]]) -> tuple[Document, Lock, Cell]:
    """The lineage of a result, and the first place with every file that its run and model need.

    Raises:
        MetashotError: None has; why the last one has not.
    """
    problem: MetashotError | None = None
    for source, cell in places:
        try:
            document = Document.of_cell(source, cell)
            for path in (cell.journal, *(f"{cell.model}/{name}" for name in document.model)):
                source.file(cell.train, path)
            encoder_files(source, cell, document.encoder)
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
