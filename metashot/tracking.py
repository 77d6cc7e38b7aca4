"""MLflow made to agree with dvc.lock. The only module that talks to a tracking store.

``publish`` is a reconciler. Everything it makes carries the digest of the result it shows, is looked for
before it is made, and is finished where an earlier publish was killed half-way: it may be called at any time,
any number of times, and rebuilds an emptied store from the journals and records that DVC keeps.

A run is one result. A logged model and its version are one result and the code they carry to predict with, so
a change of that code is a new version of the same run.
"""

import json
import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock

from metashot import cards, compare
from metashot.compare import Comparison, Row, accuracy
from metashot.errors import MetashotError
from metashot.files import md5
from metashot.lineage import Cell, Lock, digest

# Set before the import, which reads some of them. A server that is down is reported in seconds, not minutes.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_UV_AUTO_DETECT": "false",  # what a model needs does not depend on the current folder
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",  # below it are remarks on pip and on input examples
}.items():
    os.environ.setdefault(_name, _value)

import mlflow  # noqa: E402
from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import (  # noqa: E402
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModel,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    Run,
)
from mlflow.entities.model_registry import ModelVersion  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.models import Model, ModelSignature  # noqa: E402
from mlflow.types.schema import ColSpec, DataType, Map, Schema  # noqa: E402
from sqlalchemy.exc import SQLAlchemyError  # noqa: E402

SQLITE = "sqlite:///"
DEFAULT_URI = f"{SQLITE}mlruns/mlflow.db"
RESULT, CODE = "metashot.result", "metashot.code"
PUBLISHED = "metashot.published"
DECISION = "metashot.decision"  # DVC's md5 of the decision file that made a version champion
NOTE = "mlflow.note.content"
REQUIRED = (
    "mlflow",
    "numpy",
    "pandas",
    "pillow",
    "pyarrow",
    "safetensors",
    "torch",
)  # to load and run a model
PACKAGE = Path(__file__).parent
BUILDER = "pyfunc_model.py"  # the file that MLflow runs to build a model
CARRIED = (  # the code that a model takes along, as patterns in the package
    "__init__.py",
    "backbones.py",
    "data/__init__.py",
    "data/store.py",
    "episodes.py",
    "errors.py",
    "files.py",
    "methods/*.py",
    "runtime.py",
)
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
        *(
            f"metrics.`{key}`"
            for key in ("test_accuracy", "test_ci95", "untrained_accuracy", "train_seconds")
        ),
    ],
}
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.binary, "image"), ColSpec(DataType.string, "label", required=False)]),
    outputs=Schema(
        [
            ColSpec(DataType.string, "label"),
            ColSpec(DataType.double, "probability"),
            ColSpec(Map(DataType.double), "probabilities"),
        ]
    ),
)


@dataclass(frozen=True)
class Published:
    """What one data set and setting looks like in MLflow after a publish.

    Attributes:
        group: Name of the experiment and of the registered model.
        uri: The tracking URI, without credentials.
        versions: The model version of each row of the comparison, by its name.
        added: How many of them are new.
        champion: The name of the row under the alias ``champion``, None if no model passed the gate.
    """

    group: str
    uri: str
    versions: Mapping[str, int]
    added: int
    champion: str | None

    def __str__(self) -> str:
        champion = f"{self.champion} v{self.versions[self.champion]}" if self.champion else "none"
        counts = f"{len(self.versions)} models, {self.added} new"
        return f"{self.group}: {counts}; champion {champion} (MLflow at {self.uri})"


def tracking_uri(root: Path) -> str:
    """Return where MLflow is: ``MLFLOW_TRACKING_URI`` or ``mlruns/mlflow.db``, relative to the repository."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    scheme, found, path = uri.partition(SQLITE)
    return f"{SQLITE}{(root / path).resolve()}" if found and not scheme else uri


def without_credentials(text: str) -> str:
    """Return the text with ``user:password@`` taken out of the addresses in it."""
    return re.sub(r"(?<=://)[^/\s]*@", "", text)


def publish(root: Path, groups: Sequence[tuple[str, str]], methods: Sequence[str]) -> list[Published]:
    """Make MLflow agree with dvc.lock and the files it names.

    Args:
        root: The repository.
        groups: Pairs of data set and setting.
        methods: Their methods, as far as they were evaluated.

    Returns:
        What MLflow holds now, a group each.

    Raises:
        MetashotError: Nothing to publish, files missing from the workspace, or MLflow not reachable.
    """
    lock = Lock(root)
    with _client(root) as (client, uri):
        return [_publish(client, uri, lock, *group, methods) for group in groups]


def versions(root: Path, comparison: Comparison) -> dict[str, int]:
    """Return the version of each row that is registered as it is now; none where MLflow was never used.

    Raises:
        MetashotError: MLflow is not reachable.
    """
    uri = tracking_uri(root)
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists():
        return {}
    with _client(root) as (client, _):
        found = _versions(client, comparison.group, code_digest())
    return {row.name: int(found[row.result].version) for row in comparison.rows if row.result in found}


def code_digest() -> str:
    """Return the digest of the code that a model registered now would carry."""
    carried = [PACKAGE / BUILDER, *_carried()]
    return digest({path.relative_to(PACKAGE).as_posix(): md5(path) for path in carried})


def _carried() -> list[Path]:
    return sorted(path for pattern in CARRIED for path in PACKAGE.glob(pattern))


@contextmanager
def _client(root: Path) -> Iterator[tuple[MlflowClient, str]]:
    """One publisher at a time: two at once would make the database, a run or a version twice."""
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells of every migration of a new database
    uri = tracking_uri(root)
    try:
        if uri.startswith(SQLITE):
            Path(uri.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
        (root / "mlruns").mkdir(exist_ok=True)
        with FileLock(root / "mlruns" / ".publish.lock"):
            yield MlflowClient(uri, uri), uri
    # the database or its folder cannot be used, or its driver is not installed
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        what = " ".join(str(error).split())
        raise MetashotError(
            without_credentials(f"MLflow at {uri} failed; run `metashot publish` when it is well: {what}")
        ) from error


def _publish(
    client: MlflowClient, uri: str, lock: Lock, dataset: str, setting: str, methods: Sequence[str]
) -> Published:
    comparison = compare.compare(lock, dataset, setting, methods)
    experiment = _experiment(client, uri, comparison)
    _registered_model(client, comparison)
    code = code_digest()
    before = _versions(client, comparison.group, code)
    found = {}
    for row in comparison.rows:
        source, cell = compare.sources(lock, comparison)[row.name]
        record = json.loads(source.file(cell.train, cell.train_record).read_text())
        found[row.name] = source, cell, record
    made = {}
    # In the order of training, so that a rebuilt registry numbers its versions as the first one did
    for row in sorted(comparison.rows, key=lambda row: (found[row.name][2]["started"], row.name)):
        source, cell, record = found[row.name]
        shown = comparison
        if row.incumbent:  # as when it was trained: its run shows no later episodes
            shown = compare.as_tested(comparison, source, cell)
            (row,) = shown.rows
        publisher = _CellPublisher(client, experiment, source, cell, row, record, shown, code)
        made[row.name] = int(publisher.publish(before.get(row.result)).version)
    for alias, standing in (
        ("challenger", comparison.decision.challenger),
        ("champion", comparison.decision.champion),
    ):
        named = comparison.row(standing)
        _alias(client, comparison.group, alias, made[named.name] if named else None)
    champion = comparison.champion
    if champion:
        decision = lock.root / compare.decision_path(comparison.group)
        _show_decision(client, comparison.group, made[champion.name], decision)
    added = sum(row.result not in before for row in comparison.rows)
    name = champion.name if champion else None
    return Published(comparison.group, without_credentials(uri), made, added, name)


@dataclass(frozen=True)
class _CellPublisher:
    """One cell as a run, a logged model and a registered version, each step looked for before it is done."""

    client: MlflowClient
    experiment: str
    lock: Lock
    cell: Cell
    row: Row
    trained: Mapping[str, Any]  # the training's record
    comparison: Comparison
    code: str  # digest of what the model carries

    def publish(self, version: ModelVersion | None) -> ModelVersion:
        """Complete the run, the logged model and the version, and return the version."""
        run = self._run()
        done = run.data.tags.get(PUBLISHED)
        # A run that showed an incumbent among the methods of its time goes on to do so
        if version and (done == self._state or (done and self.row.incumbent)):
            return version
        run_id = run.info.run_id
        evaluated = json.loads(self.lock.file(self.cell.evaluate, self.cell.evaluate_record).read_text())
        data = _data({**evaluated["inputs"], **self.trained["inputs"]})
        journal = self.lock.file(self.cell.train, self.cell.journal).read_text().splitlines()
        points = [json.loads(line) for line in journal]
        self._log_params(run_id)
        self._log_curves(run_id, points)
        self.client.log_inputs(run_id, list(data.values()))
        model = self._model(run)
        self._log_results(run_id, model, evaluated, data)
        self._log_files(run_id, points)
        version = version or self._version(run_id, model)
        linked = json.dumps([{"name": version.name, "version": int(version.version)}])
        self.client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": linked})  # the UI's link
        self.client.set_terminated(run_id, "FINISHED", _ms(self.trained["started"] + self.trained["seconds"]))
        self.client.set_tag(run_id, PUBLISHED, self._state)
        return version

    @property
    def _state(self) -> str:
        """All that a run shows beyond its result: once published, there is nothing left to do."""
        return digest([self.comparison.digest, self.code])

    @property
    def _description(self) -> str:
        return cards.result(self.comparison, self.row, self.trained)

    @property
    def _labels(self) -> dict[str, str]:
        """The few tags that models and versions are listed with; the run has all."""
        trained = accuracy(self.row.accuracy, self.row.ci95)
        return {"method": self.cell.method, "accuracy": trained, RESULT: self.cell.result, CODE: self.code}

    def _run(self) -> Run:
        this = f"tags.`{RESULT}` = '{self.cell.result}'"
        found = self.client.search_runs([self.experiment], this, max_results=1)
        if found:
            return found[0]
        ancestry = [{"stage": entry.stage, **entry.inputs} for entry in self.lock.ancestry(self.cell)]
        git = self.trained["git"]
        tags = {
            "metashot.dataset": self.cell.dataset,
            "metashot.setting": self.cell.setting,
            "metashot.method": self.cell.method,
            "metashot.stage": f"{self.cell.train.stage} {self.cell.evaluate.stage}",
            "metashot.key": self.cell.key,
            RESULT: self.cell.result,
            "metashot.git_commit": str(git["commit"]),
            "metashot.git_dirty": str(git["dirty"]).lower(),
            "metashot.lineage": digest(ancestry),
            # The whole file as it was when the run was made: where it came from, no part of what it is
            "metashot.dvc_lock": md5(self.lock.root / "dvc.lock"),
            "metashot.synthetic": str(self.comparison.synthetic).lower(),
            "metashot.transductive": str(self.row.transductive).lower(),
            "metashot.device": self.trained["device"]["type"],
            "mlflow.source.name": self.cell.train.stage,
            "mlflow.source.type": "JOB",
            NOTE: self._description,
        }
        if git["commit"]:
            tags["mlflow.source.git.commit"] = git["commit"]
        started = _ms(self.trained["started"])
        return self.client.create_run(self.experiment, started, tags, run_name=self.cell.method)

    def _log_params(self, run_id: str) -> None:
        params = [Param(key, value) for key, value in _flat(self.trained["params"])]
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

    def _model(self, run: Run) -> LoggedModel:
        """The logged model: found or made, its files uploaded, linked to the run."""
        this = f"tags.`{RESULT}` = '{self.cell.result}' AND tags.`{CODE}` = '{self.code}'"
        found = self.client.search_logged_models([self.experiment], this, max_results=1)
        model = found[0] if found else None
        if model is None:
            model = self.client.create_logged_model(
                self.experiment,
                name=self.cell.method,
                source_run_id=run.info.run_id,
                tags={**self._labels, NOTE: self._description},
                params=dict(_flat(self.trained["params"])),
                model_type="few-shot classifier",
            )
        if model.status != LoggedModelStatus.READY:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name) / "model"
                self._save(folder, model)
                self.client.log_model_artifacts(model.model_id, str(folder))
            model = self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        linked = run.outputs.model_outputs if run.outputs else []
        if model.model_id not in [output.model_id for output in linked]:
            output = LoggedModelOutput(model.model_id, self.trained["best_step"])
            self.client.log_outputs(run.info.run_id, [output])
        return model

    def _save(self, folder: Path, model: LoggedModel) -> None:
        """Write an MLflow model: our two files, the code that reads them, and what it needs to run."""
        code = folder.with_name("code") / PACKAGE.name
        for path in _carried():
            copy = code / path.relative_to(PACKAGE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
        paths = {name: f"{self.cell.model}/{name}" for name in ("model.json", "model.safetensors")}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*input example", UserWarning)  # it would be run to check it
            mlflow.pyfunc.save_model(
                path=folder,
                python_model=PACKAGE / BUILDER,
                artifacts={name: str(self.lock.file(self.cell.train, path)) for name, path in paths.items()},
                code_paths=[str(code)],
                pip_requirements=requirements(),
                signature=SIGNATURE,
                mlflow_model=Model(
                    artifact_path=model.artifact_location,
                    run_id=model.source_run_id,
                    model_uuid=model.model_id,
                    model_id=model.model_id,
                    metadata={RESULT: self.cell.result, CODE: self.code},
                ),
            )

    def _log_results(
        self, run_id: str, model: LoggedModel, evaluated: Mapping[str, Any], data: Mapping[str, DatasetInput]
    ) -> None:
        """The evaluation, linked to the model and to the episodes it was measured on, and what it took.

        All at step 0, which the UI compares as bars.
        """
        when, row = _ms(evaluated["started"] + evaluated["seconds"]), self.row
        episodes = f"data/episodes/{self.cell.group}"

        def tested(path: str, values: Mapping[str, float]) -> list[Metric]:
            test = data[path].dataset
            linked = {"model_id": model.model_id, "dataset_name": test.name, "dataset_digest": test.digest}
            return [Metric(key, value, when, 0, **linked) for key, value in values.items()]

        metrics = tested(
            f"{episodes}/test.parquet",
            {
                "test_accuracy": row.accuracy,
                "test_ci95": row.ci95,
                "untrained_accuracy": row.untrained_accuracy,
                "untrained_ci95": row.untrained_ci95,
            },
        )
        for name, extra in row.extra.items():
            values = {f"test_accuracy_{name}": extra["accuracy"], f"test_ci95_{name}": extra["ci95"]}
            metrics += tested(f"{episodes}/test-{name}.parquet", values)
        took = {
            "best_step": self.trained["best_step"],
            "parameters": row.parameters,
            "train_seconds": self.trained["seconds"],
            "peak_memory_mb": self.trained["peak_memory_mb"],
        }
        metrics += [Metric(key, float(value), when, 0) for key, value in took.items()]
        self.client.log_batch(run_id, metrics=metrics)

    def _log_files(self, run_id: str, points: Sequence[Mapping[str, Any]]) -> None:
        """Comparison, learning curve, lineage and record, as files of the run."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            cards.write_report(self.comparison, folder)
            (folder / Path(compare.decision_path(self.cell.group)).name).write_text(
                self.comparison.decision.json, encoding="utf-8"
            )
            curve = [{"step": point["step"], **point["metrics"]} for point in points]
            title = f"{self.cell.method} on {self.comparison.data}, {self.cell.setting}"
            from metashot import plots  # matplotlib is slow to import

            (folder / "learning-curve.png").write_bytes(plots.learning_curve(title, curve))
            lineage = {e.stage: {**e.inputs, "outs": e.outs} for e in self.lock.ancestry(self.cell)}
            (folder / "lineage.json").write_text(json.dumps(lineage, indent=2))
            (folder / "train-record.json").write_text(json.dumps(self.trained, indent=2))
            self.client.log_artifacts(run_id, name)

    def _version(self, run_id: str, model: LoggedModel) -> ModelVersion:
        return self.client.create_model_version(
            self.comparison.group,
            source=model.artifact_location,
            run_id=run_id,
            model_id=model.model_id,
            tags=self._labels,
            description=self._description,
        )


def requirements() -> list[str]:
    """Return the pins of metashot that a registered model needs."""
    return [pin for pin in metadata.requires("metashot") or [] if pin.split("==")[0] in REQUIRED]


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
    description = f"{cards.overview(comparison)}\n\n{cards.usage(comparison)}"
    tags = {
        "metashot.dataset": comparison.dataset,
        "metashot.setting": comparison.setting,
        "metashot.synthetic": str(comparison.synthetic).lower(),
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


def _versions(client: MlflowClient, group: str, code: str) -> dict[str, ModelVersion]:
    """The versions of a registered model that carry the code, by the result they hold."""
    found: dict[str, ModelVersion] = {}
    token = None
    while True:
        page = client.search_model_versions(f"name = '{group}'", page_token=token)
        found |= {version.tags[RESULT]: version for version in page if version.tags.get(CODE) == code}
        token = page.token
        if not token:
            return found


def _alias(client: MlflowClient, group: str, alias: str, version: int | None) -> None:
    """Point an alias at a version, or take it away."""
    now = client.get_registered_model(group).aliases.get(alias)
    if version is None:
        if now is not None:
            client.delete_registered_model_alias(group, alias)
    elif now is None or int(now) != version:
        client.set_registered_model_alias(group, alias, str(version))


def _show_decision(client: MlflowClient, group: str, version: int, path: Path) -> None:
    """Tag the champion's version with the decision that made it so, and show the file in its run."""
    found, decision = client.get_model_version(group, str(version)), md5(path)
    if found.tags.get(DECISION) != decision:
        client.log_artifact(found.run_id, str(path))
        client.set_model_version_tag(group, str(version), DECISION, decision)


def _data(inputs: Mapping[str, Mapping[str, Any]]) -> dict[str, DatasetInput]:
    """The data among the files a record says were read: name and digest are DVC's path and md5."""
    contexts = {"val": "validation", "test": "evaluation"}  # train.parquet and the images: training
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


def _flat(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested parameters as ``outer.inner`` and value."""
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def _ms(seconds: float) -> int:
    """Unix seconds as MLflow's milliseconds."""
    return round(1000 * seconds)
