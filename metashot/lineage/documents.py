"""Where a result came from, in one document: back to the raw download, and on to what was measured.

The document is computed from dvc.lock and the files that it names, and from nothing else: whoever holds them
gets the same one. It goes to MLflow with each run, is what a signature signs, and what an audit holds
everything else against.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AllowInfNan, BaseModel, ConfigDict, Field, ValidationError

from metashot.data import store
from metashot.errors import MetashotError
from metashot.lineage.lockfile import Cell, Crossing, Lock
from metashot.project.entries import Entry

FORMAT = 1
CHECK = "check"  # the stage that says the same whatever goes in, and is part of no lineage

Name = Annotated[str, Field(pattern=r"^\w[\w.-]{0,200}$")]
Md5 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Output = Annotated[str, Field(pattern=r"^[0-9a-f]{32}(\.dir)?$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Commit = Annotated[str, Field(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$")]
Version = Annotated[str, Field(pattern=r"^[\w.+!-]{1,60}$")]
Number = Annotated[float, AllowInfNan(False), Field(ge=0, lt=1e12)]
Count = Annotated[int, Field(ge=0, lt=2**53)]


class Part(BaseModel):
    """A part of the document, which may say more than is checked here."""

    model_config = ConfigDict(strict=True, extra="allow")


class Item(Part):
    """A file or folder that a stage read or made."""

    path: str
    md5: Output


class Made(Part):
    """A stage, as dvc.lock has it, with its key."""

    key: Sha256
    cmd: str
    deps: list[Item]
    params: dict[str, dict[str, Any]]
    outs: list[Item]


class Input(Part):
    """A file as a stage read it."""

    md5: Md5


class Device(Part):
    """What a stage ran on."""

    type: str
    name: str
    threads: Count


class Tree(Part):
    """The commit that was checked out, and whether the tree differed from it."""

    commit: Commit | None
    dirty: bool


class Evaluation(Part):
    """The record of an evaluation."""

    params: dict[str, Any]
    inputs: dict[str, Input]
    versions: dict[str, Version]
    device: Device
    code: dict[str, Md5] = {}
    git: Tree
    started: Number
    seconds: Number


class Training(Evaluation):
    """The record of a training."""

    steps: Count
    best_step: Count
    peak_memory_mb: Number


class Measured(Part):
    """What came out on the test episodes of a setting."""

    accuracy: Number
    ci95: Number
    episodes: Count


class Metrics(Measured):
    """metrics.json."""

    n_way: Annotated[int, Field(ge=2, lt=10**6)]
    k_shot: Count
    n_query: Count
    transductive: bool
    parameters: Count
    untrained: Measured
    extra: dict[Name, Measured]
    manifest: Md5


class Origin(Part):
    """Where the data come from."""

    kind: Name
    source: str
    licence: str
    citation: str
    files: dict[str, Md5]


class Document(BaseModel):
    """The lineage of a result: see `document`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    format: Literal[1]
    name: Name
    dataset: Name
    setting: Name
    method: Name
    key: Sha256
    result: Sha256
    model: dict[Name, Md5]
    metrics: Metrics
    training: Training
    evaluation: Evaluation
    origin: Origin
    stages: dict[str, Made]


def validated(value: Any) -> dict[str, Any]:
    """Return a lineage document that comes from elsewhere, once every part of it has the shape it has here.

    Raises:
        MetashotError: It has not; the message names the first part that differs.
    """
    try:
        Document.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(ascii(part)[1:-1] if isinstance(part, str) else str(part) for part in first["loc"])
        raise MetashotError(
            f"not laid out as metashot writes it ({place or 'document'}: {first['msg']})"
        ) from None
    name, method = f"{value['dataset']}-{value['setting']}", value["method"]
    _same("name", value["name"], name)
    for stage, paths in {
        "train": (f"models/{name}/{method}",),
        "evaluate": (f"results/{name}/{method}/metrics.json", f"results/{name}/{method}/episodes.parquet"),
    }.items():
        made = [out["path"] for out in value["stages"].get(f"{stage}@{name}-{method}", {}).get("outs", [])]
        for path in paths:
            _same(f"output of {stage}@{name}-{method}", path if path in made else None, path)
    found: dict[str, Any] = value
    return found


def _same(what: str, found: Any, wanted: Any) -> None:
    if found != wanted:
        raise MetashotError(
            f"not laid out as metashot writes it ({what}: {found or 'missing'}, not {wanted})"
        )


def document(lock: Lock, cell: Cell) -> dict[str, Any]:
    """Return the lineage of a result.

    Returns:
        Of which ``stages`` holds every stage it stands on as dvc.lock has it, with its key; ``origin``
        source, licence and citation of the data, and the md5 of each raw file; ``training`` and
        ``evaluation`` the records: resolved parameters, inputs as read, packages, device, code and commit;
        ``model`` the md5 of each file of the model; ``metrics`` what was measured.

    Raises:
        MetashotError: A file that dvc.lock names is missing, or is another one.
    """
    stages = _ancestry(lock, cell.train, cell.evaluate)
    processed, raw = f"data/processed/{cell.dataset}.parquet", f"data/raw/{cell.dataset}"
    about = store.about(lock.file(maker(stages, processed), processed))
    return {
        "format": FORMAT,
        "name": cell.group,
        "dataset": cell.dataset,
        "setting": cell.setting,
        "method": cell.method,
        "key": cell.key,
        "result": cell.result,
        "model": lock.listing(cell.train, cell.model),
        "metrics": json.loads(lock.file(cell.evaluate, cell.metrics).read_text()),
        "training": json.loads(lock.file(cell.train, cell.train_record).read_text()),
        "evaluation": json.loads(lock.file(cell.evaluate, cell.evaluate_record).read_text()),
        "origin": {**about, "files": lock.listing(maker(stages, raw), raw)},
        "stages": _listed(stages),
    }


def stages(lock: Lock, cell: Cell) -> dict[str, Any]:
    """Return the part ``stages`` of the lineage of a result, which dvc.lock alone says."""
    return _listed(_ancestry(lock, cell.train, cell.evaluate))


def crossing(lock: Lock, crossing: Crossing) -> dict[str, Any]:
    """Return the lineage of a test on another data set's episodes.

    Returns:
        Of which ``stages`` holds every stage that model, data and episodes stand on, ``tested`` what came
        out, ``origin`` the origins of both data sets by name.

    Raises:
        MetashotError: A file that dvc.lock names is missing, or is another one.
    """
    stages = _ancestry(lock, crossing.cell.train, crossing.cell.evaluate, crossing.entry)
    processed = {name: f"data/processed/{name}.parquet" for name in (crossing.cell.dataset, crossing.other)}
    return {
        "format": FORMAT,
        "name": crossing.cell.group,
        "method": crossing.cell.method,
        "other": crossing.other,
        "model": crossing.cell.result,
        "result": crossing.result,
        "tested": json.loads(lock.file(crossing.entry, crossing.metrics).read_text()),
        "origin": {n: store.about(lock.file(maker(stages, path), path)) for n, path in processed.items()},
        "stages": _listed(stages),
    }


def maker(stages: list[Entry], path: str) -> Entry:
    """Return the stage that makes an output.

    Raises:
        MetashotError: None does.
    """
    for entry in stages:
        if any(out["path"] == path for out in entry.outs):
            return entry
    raise MetashotError(f"no stage in dvc.lock makes {path}: run `dvc repro`")


def _ancestry(lock: Lock, *entries: Entry) -> list[Entry]:
    return [entry for entry in lock.ancestry(*entries) if entry.stage != CHECK]


def _listed(stages: Sequence[Entry]) -> dict[str, Any]:
    return {e.stage: {"key": e.key, **e.inputs, "outs": _sorted(e.outs)} for e in stages}


def _sorted(items: Any) -> list[dict[str, Any]]:
    return sorted((dict(item) for item in items), key=lambda item: str(item["path"]))


def flat(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested parameters as ``outer.inner`` and value, as MLflow shows them."""
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)
