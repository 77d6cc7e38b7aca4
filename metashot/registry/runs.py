"""MLflow runs: one for each result, with its model and version, and one for each comparison."""

import json
import shutil
import socket
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from metashot.registry.tracking import FILES, LINEAGE, LINEAGE_FILE, NOTE, PUBLISHER, RUN_TYPE

# Before MLflow, which reads when it is imported what this sets
from metashot.results.decision import decision_path

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

from metashot.files import digest, md5
from metashot.learning.statistics import Difference
from metashot.lineage import record
from metashot.lineage.document import Document, encoder_files, flat
from metashot.lineage.lockfile import Cell, Lock
from metashot.lineage.metrics import Metrics
from metashot.lineage.record import Point, TrainingRecord
from metashot.project import closure, git
from metashot.registry import carried
from metashot.registry.carried import CODE, PACKAGE, RESULT, Code
from metashot.results import cards
from metashot.results.compare import Comparison

# isort: split


FORM = "metashot.form"  # of a finished run: digest of the modules that say how it looks
STANDING = "standing"  # of a run: whether its model is champion or challenger
STAGES = "metashot.stages"  # of a run: digest of the stages of its lineage, by which its commit is found
GAIN = "metashot.gain"  # of a comparison: what meta-training gained
COMPARISON = "metashot.comparison"  # digest of what a comparison run compares
CROSS_TEST = "metashot.crossing"  # digest of a test on another data set's episodes
METRICS_PER_BATCH, PARAMS_PER_BATCH = 1000, 100  # MLflow's limits


@dataclass(frozen=True)
class ResultRun:
    """Publishes one result as a run, a logged model and a version; steps already done are skipped."""

    client: MlflowClient
    experiment: str
    lock: Lock
    cell: Cell
    document: Document  # the result's lineage
    carried: Code  # by the model
    form: str

    @property
    def trained(self) -> TrainingRecord:
        """The record of the training."""
        return self.document.training

    def publish(self, run: Run | None, version: ModelVersion | None) -> tuple[Run, ModelVersion]:
        """Complete the run, the logged model and the version."""
        run = run or self._run()
        run_id = run.info.run_id
        read = {**self.document.evaluation.inputs, **self.trained.inputs}
        data = data_inputs({path: (file.md5, file.size) for path, file in read.items()})
        journal = self.lock.file(self.cell.train, self.cell.journal).read_bytes()
        points = record.points(journal, self.cell.journal)
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
        # The UI links the version by the second
        tags = {**labels, "mlflow.modelVersions": linked, NOTE: self._card}
        self.client.set_logged_model_tags(model.model_id, tags)
        if version.description != self._card:
            self.client.update_model_version(version.name, version.version, self._card)
        for key, value in labels.items():
            if version.tags.get(key) != value:
                self.client.set_model_version_tag(version.name, version.version, key, value)
        self.client.set_terminated(run_id, "FINISHED", milliseconds(self.trained.ended))
        for key, value in {NOTE: self._card, LINEAGE: self.document.digest, FORM: self.form}.items():
            self.client.set_tag(run_id, key, value)
        return self.client.get_run(run_id), version

    @property
    def _card(self) -> str:
        return cards.model_card(self.document)

    @property
    def _labels(self) -> dict[str, str]:
        """The few tags of models and versions; the run has them all."""
        return {**cards.labels(self.document), RESULT: self.cell.result, CODE: self.carried.digest}

    def _run(self) -> Run:
        started = milliseconds(self.trained.started)
        return self.client.create_run(
            self.experiment, started, run_tags(self.document), run_name=self.cell.method
        )

    def _log_params(self, run_id: str) -> None:
        params = [Param(key, value) for key, value in flat(self.trained.params)]
        for start in range(0, len(params), PARAMS_PER_BATCH):
            self.client.log_batch(run_id, params=params[start : start + PARAMS_PER_BATCH])

    def _log_curves(self, run_id: str, points: Sequence[Point]) -> None:
        metrics = [
            Metric(key, value, milliseconds(point.time), point.step)
            for point in points
            for key, value in point.metrics.items()
        ]
        for start in range(0, len(metrics), METRICS_PER_BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_BATCH])

    def _model(self, run: Run, version: ModelVersion | None) -> LoggedModel:
        """The logged model: found or made, its files uploaded, linked to the run."""
        code = version.tags[CODE] if version else self.carried.digest
        this = f"tags.`{RESULT}` = '{self.cell.result}' AND tags.`{CODE}` = '{code}'"
        models = self.client.search_logged_models([self.experiment], this, max_results=1)
        model = models[0] if models else None
        if model is None:
            model = self.client.create_logged_model(
                self.experiment,
                name=self.cell.method,
                source_run_id=run.info.run_id,
                tags=self._labels,
                params=dict(flat(self.trained.params)),
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
            output = LoggedModelOutput(model.model_id, self.trained.best_step)
            self.client.log_outputs(run.info.run_id, [output])
        return model

    def _save(self, folder: Path, model: LoggedModel) -> str:
        """Write an MLflow model (`metashot.registry.carried`); returns the digest of its files."""
        created = (model.model_id, model.source_run_id, model.creation_timestamp)
        described = carried.described(self.carried, self.document, *created)
        weights = folder / carried.ARTIFACTS
        weights.mkdir(parents=True)
        for name, content in described.items():
            (folder / name).write_bytes(content)
        for name in self.document.model:  # in the cache their names are digests
            shutil.copyfile(self.lock.file(self.cell.train, f"{self.cell.model}/{name}"), weights / name)
        paths = encoder_files(self.lock, self.cell, self.document.encoder)
        encoder = carried.encoder(self.document, paths)
        for name in encoder:
            (weights / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(paths[name], weights / name)
        return carried.files_digest(described, {**self.document.model, **encoder})

    def _log_results(self, run_id: str, model: LoggedModel, data: Mapping[str, DatasetInput]) -> None:
        """The evaluation, linked to the model and to the episodes it was measured on, and what it took.

        All at step 0, which the UI compares as bars.
        """
        episodes = f"data/episodes/{self.cell.group}"
        when = milliseconds(self.document.evaluation.ended)
        metrics = []
        for manifest, values in measured(self.document.metrics).items():
            test = data[f"{episodes}/{manifest}.parquet"].dataset
            linked = {"model_id": model.model_id, "dataset_name": test.name, "dataset_digest": test.digest}
            metrics += [Metric(key, value, when, 0, **linked) for key, value in values.items()]
        metrics += [Metric(key, value, when, 0) for key, value in taken(self.document).items()]
        self.client.log_batch(run_id, metrics=metrics)

    def _log_files(self, run_id: str, points: Sequence[Point]) -> None:
        """Learning curve and lineage, as files of the run."""
        from metashot.results import plots  # matplotlib is slow to import

        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            curve = [{"step": point.step, **point.metrics} for point in points]
            title = f"{self.cell.method} on {self.cell.dataset}, {self.cell.setting}"
            (folder / "learning-curve.png").write_bytes(plots.learning_curve(title, curve))
            (folder / LINEAGE_FILE).write_text(json.dumps(self.document.written, indent=2))
            self.client.log_artifacts(run_id, name)

    def _version(self, run_id: str, model: LoggedModel) -> ModelVersion:
        return self.client.create_model_version(
            self.cell.group,
            source=model.artifact_location,
            run_id=run_id,
            model_id=model.model_id,
            tags={**self._labels, PUBLISHER: publisher(self.lock.root)},
            description=self._card,
        )

    def _complete(self, version: ModelVersion, model: LoggedModel) -> ModelVersion:
        """Add the file that names the version; its tag with the digest of the files marks this as done."""
        if FILES in version.tags:
            return version
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, carried.META).write_bytes(carried.meta(version.name, version.version))
            self.client.log_model_artifacts(model.model_id, folder)
        self.client.set_model_version_tag(version.name, version.version, FILES, model.tags[FILES])
        return self.client.get_model_version(version.name, version.version)


@dataclass(frozen=True)
class ComparisonRun:
    """Publishes a comparison as a run of its own, with the gate's decision."""

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
        named = {RUN_TYPE: "comparison", "mlflow.source.type": "JOB", **tags}
        name = f"comparison: {cards.headline(self.comparison)}"
        run = run or self.client.create_run(self.experiment, when, named, run_name=name)
        run_id = run.info.run_id
        if run.info.run_name != name:  # it was called so by another form
            self.client.update_run(run_id, name=name)
        self.client.log_inputs(run_id, models=[LoggedModelInput(model) for model in models])
        with tempfile.TemporaryDirectory() as folder:
            cards.write_report(self.comparison, Path(folder))
            decision = Path(folder, Path(decision_path(self.comparison.group)).name)
            decision.write_text(self.comparison.decision.json, encoding="utf-8")
            if self.comparison.pairs:
                from metashot.results import plots  # matplotlib is slow to import

                Path(folder, "differences.png").write_bytes(plots.differences_plot(self.comparison))
            self.client.log_artifacts(run_id, folder)
        values = {**self._lead(), **self.comparison.gain_metrics}
        self.client.log_batch(run_id, metrics=[Metric(*value, when, 0) for value in values.items()])
        self.client.set_terminated(run_id, "FINISHED", when)
        headline = {GAIN: self.comparison.headline} if self.comparison.gains else {}
        for key, text in {**headline, NOTE: cards.overview(self.comparison), FORM: self.form}.items():
            self.client.set_tag(run_id, key, text)
        return self.client.get_run(run_id)

    def _lead(self) -> dict[str, float]:
        """The best model's lead over the second."""
        if not self.comparison.pairs:
            return {}
        pair = self.comparison.pairs[0]
        return lead(pair.difference, pair.p_corrected)


def measured(metrics: Metrics) -> dict[str, dict[str, float]]:
    """Return the metrics of an evaluation for MLflow, by the manifest they were measured on."""
    shown = {"test": {"test_accuracy": metrics.accuracy, "test_ci95": metrics.ci95}}
    if metrics.untrained:
        shown["test"] |= {
            "untrained_accuracy": metrics.untrained.accuracy,
            "untrained_ci95": metrics.untrained.ci95,
        }
    for name, extra in metrics.extra.items():
        values = {f"test_accuracy_{name}": extra.accuracy, f"test_ci95_{name}": extra.ci95}
        shown[f"test-{name}"] = values
    return shown


def run_tags(document: Document) -> dict[str, str]:
    """Return the tags of a result's run."""
    tree, origin = document.training.git, document.origin
    stages = [document.address(stage) for stage in ("train", "evaluate")]
    tags = {
        RUN_TYPE: "result",
        **cards.labels(document),
        "metashot.dataset": document.dataset,
        "metashot.setting": document.setting,
        "metashot.method": document.method,
        "metashot.stage": " ".join(stages),
        "metashot.key": document.key,
        STAGES: document.stages_digest,
        RESULT: document.result,
        "metashot.git_commit": str(tree.commit),
        "metashot.git_dirty": str(tree.dirty).lower(),
        "metashot.synthetic": str(origin.synthetic).lower(),
        "metashot.known_classes": str(origin.known_classes).lower(),
        **({"metashot.encoder": origin.encoder.mark} if origin.encoder else {}),
        "metashot.transductive": str(document.metrics.transductive).lower(),
        "metashot.device": document.training.device.type,
        "mlflow.source.name": stages[0],
        "mlflow.source.type": "JOB",
    }
    return tags | ({"mlflow.source.git.commit": tree.commit} if tree.commit else {})


def taken(document: Document) -> dict[str, float]:
    """Return the cost of a training for MLflow: steps, parameters, seconds, memory."""
    trained = document.training
    return {
        "best_step": float(trained.best_step),
        "parameters": float(document.metrics.parameters),
        "train_seconds": float(trained.seconds),
        "peak_memory_mb": float(trained.peak_memory_mb),
    }


def lead(difference: Difference, p_value: float) -> dict[str, float]:
    """Return a model's lead over another as MLflow metrics: fractions, interval, p-value."""
    shown = {"lead": difference.mean, "lead_low": difference.low, "lead_high": difference.high}
    needed = {"episodes_needed": float(difference.needed)} if difference.needed else {}
    return {**shown, "lead_p": p_value, **needed}


def data_inputs(read: Mapping[str, tuple[str, int]], other: str = "") -> dict[str, DatasetInput]:
    """Return the data among files that were read: name and digest are DVC's path and md5.

    Args:
        read: md5 and size of each file, by path.
        other: Data set whose samples are for evaluation alone.
    """
    # train.parquet and the samples: training
    contexts = {"val": "validation", "test": "evaluation", other: "evaluation"}
    return {
        path: DatasetInput(
            Dataset(
                name=path,
                digest=md5_,
                source_type="local",
                source=json.dumps({"uri": path, "get": f"dvc checkout {path}"}),
                profile=json.dumps({"bytes": size}),
            ),
            [InputTag("mlflow.data.context", contexts.get(Path(path).stem.split("-")[0], "training"))],
        )
        for path, (md5_, size) in sorted(read.items(), reverse=True)  # data/processed before data/episodes
        if not path.startswith(f"{closure.FOLDER}/")
        if path.startswith("data/")
    }


def milliseconds(seconds: float) -> int:
    """Unix seconds as MLflow's milliseconds."""
    return round(1000 * seconds)


def form(kind: str) -> str:
    """Digest of all that determines how runs of a kind of samples look: if it changes, they are rewritten."""
    modules = (
        "results/cards.py",
        "results/compare.py",
        "results/differences.py",
        "results/plots.py",
        "lineage/document.py",
        "lineage/metrics.py",
        "lineage/origin.py",
        "lineage/record.py",
        "registry/group.py",
        "registry/publish.py",
        "registry/runs.py",
    )
    return digest([*(md5(PACKAGE / name) for name in modules), cards.usage("", kind)])


def publisher(root: Path) -> str:
    """Who publishes: person, machine, and the commit of this code."""
    tree = git.state(root)
    commit = f"{tree['commit']}{' (changed)' if tree['dirty'] else ''}" if tree["commit"] else "no commit"
    return f"{git.user(root)} on {socket.gethostname()}, metashot {metadata.version('metashot')} at {commit}"
