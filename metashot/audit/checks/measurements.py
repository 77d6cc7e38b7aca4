"""Checks of what MLflow shows of a training and its evaluation: parameters, records, metrics, curves."""

from collections import defaultdict
from pathlib import PurePosixPath

from metashot.audit.claim import Claim
from metashot.audit.verdict import Differs, same
from metashot.config import params
from metashot.lineage.document import flat
from metashot.lineage.record import Record
from metashot.registry import runs
from metashot.registry.runs import milliseconds


def parameters(claim: Claim) -> str:
    """MLflow shows the parameters of the record, which are those of dvc.lock."""
    resolved, cell = claim.document.training.params, claim.cell
    expected = dict(flat(resolved))
    for holder, shown in (
        ("run", claim.version.run.data.params),
        ("logged model", claim.version.model.params),
    ):
        for key in {**expected, **shown}:
            same(f"parameter {key} of the {holder}", shown.get(key), expected.get(key))
    locked = cell.train.params["params.yaml"]
    same("seed in the record", resolved["seed"], locked["seed"])
    steps, own = params.budgeted(locked[f"data.{cell.dataset}.budget.{cell.method}"])
    same("budget in the record", resolved["budget"], steps)
    for key, value in {**locked[f"method.{cell.method}"], **own}.items():
        same(f"{key} in the record", resolved["method"].get(key), value)
    parts = {"backbone", "augment"}
    if params.maker(resolved["method"]) == "choosing":
        parts.remove("backbone")
        name, known = resolved["backbone"]["name"], cell.backbones(claim.document.origin.kind)
        same("backbone.name in the record", name, name if name in known else ", ".join(known))
    for part in sorted(parts):
        for key, value in locked[f"data.{cell.dataset}.{part}"].items():
            same(f"{part}.{key} in the record", resolved[part].get(key), value)
    return f"{len(expected)} as dvc.lock has them"


def records(claim: Claim) -> str:
    """The records are those that DVC keeps; inputs, code, packages and device as elsewhere."""
    held = claim.held
    for stage, path, record in claim.records:
        kept: Record = held.document(type(record), stage, path)
        same(f"{path} in the lineage", record.digest, kept.digest)
        deps = {str(dep["path"]): str(dep["md5"]) for dep in stage.deps}
        for name, file in record.inputs.items():
            folder = next((dep for dep in deps if PurePosixPath(name).is_relative_to(dep)), None)
            md5 = deps.get(name)
            if folder and md5 is None:
                inner = PurePosixPath(name).relative_to(folder).as_posix()
                md5 = held.listing(deps[folder]).get(inner)
            same(f"{name} in {path}", file.md5, md5)
        ran = claim.evidence.trees.ran(stage)
        for name, md5 in record.code.items():
            if ran and name in ran.parts:  # of whose lines those count that the stage uses
                same(f"{name} in {path}", name in ran.modules, True)
            else:
                same(f"{name} in {path}", md5, ran.modules.get(name) if ran else deps.get(name))
        pins = stage.params.get("pyproject.toml", {})
        for name in ("torch", "numpy", "pyarrow"):
            pin = ran.packages.get(name) if ran else pins[f"tool.metashot.pins.{name}"]
            same(f"{name} in {path}", record.versions[name], pin)
    trained, run = claim.document.training, claim.version.run
    same("metashot.device of the run", run.data.tags.get("metashot.device"), trained.device.type)
    same("steps in the record", trained.steps, trained.params["budget"])
    same("start of the run", run.info.start_time, milliseconds(trained.started))
    same("end of the run", run.info.end_time, milliseconds(trained.ended))
    packages = ", ".join(f"{name} {version}" for name, version in trained.versions.items())
    return f"{trained.device.name}, {trained.device.threads} threads; {packages}"


def metrics(claim: Claim) -> str:
    """MLflow's metrics, where it lists, plots and links them, are those of metrics.json."""
    document, shown = claim.document, claim.version.run.data.metrics
    when = milliseconds(document.evaluation.ended)
    linked = defaultdict(list)
    for metric in claim.version.model.metrics or []:
        linked[metric.key].append(metric)
    expected: dict[str, float] = dict(runs.taken(document))
    for manifest, measured in runs.measured(document.metrics).items():
        path = f"data/episodes/{document.name}/{manifest}.parquet"
        for key, value in measured.items():
            points = linked.pop(key, [])
            same(f"{key} of the logged model", [point.value for point in points], [value])
            same(f"episodes of {key}", [point.dataset_name for point in points], [path])
            md5 = document.evaluation.inputs[path].md5
            same(f"md5 of the episodes of {key}", [point.dataset_digest for point in points], [md5])
        expected |= measured
    for key, value in expected.items():
        same(f"{key} of the run", shown.get(key), value)
        logged = [(point.value, point.step, point.timestamp) for point in claim.version.history(key)]
        same(f"points of {key}", logged, [(value, 0, when)])
    if linked:
        raise Differs(f"the logged model has metrics of its own: {', '.join(sorted(linked))}")
    journalled = {key for point in claim.journal for key in point.metrics}
    if strange := set(shown) - set(expected) - journalled:
        raise Differs(f"MLflow has metrics of its own: {', '.join(sorted(strange))}")
    return f"{len(expected)} as measured"


def curves(claim: Claim) -> str:
    """The journal is whole, agrees with the learning curve of the result, and is what MLflow shows."""
    points, trained = claim.journal, claim.document.training
    same("last step of the journal", points[-1].step, trained.steps)
    path = f"results/{claim.cell.group}/{claim.cell.method}/curve.csv"
    curve = claim.held.content(claim.cell.train, path).decode()
    _, *rows = (line.split(",") for line in curve.splitlines())
    validated = [(p.step, p.metrics["val_accuracy"]) for p in points if "val_accuracy" in p.metrics]
    same("validations in the journal", validated, [(int(row[0]), float(row[2])) for row in rows])
    best = max(validated, key=lambda point: (point[1], -point[0]))[0]
    same("best step in the record", trained.best_step, best)
    expected: dict[str, list[tuple[int, int, float]]] = defaultdict(list)
    for point in points:
        for key, value in point.metrics.items():
            expected[key].append((point.step, milliseconds(point.time), value))
    for key, values in expected.items():
        logged = sorted((m.step, m.timestamp, m.value) for m in claim.version.history(key))
        if logged != sorted(values):
            raise Differs(f"curve {key} in MLflow is not the journal's {len(values)} points")
        latest = claim.version.run.data.metrics.get(key)
        same(f"latest {key} of the run", latest, max(values)[2])
    return f"{len(points)} points"
