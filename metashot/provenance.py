"""Where a result came from, in one document: back to the raw download, and on to what was measured.

The document is computed from dvc.lock and the files that it names, and from nothing else: whoever holds them
gets the same one. It goes to MLflow with each run, is what a signature signs, and what an audit holds
everything else against.
"""

import json
from collections.abc import Sequence
from typing import Any

from metashot.data import store
from metashot.errors import MetashotError
from metashot.lineage import Cell, Crossing, Entry, Lock

FORMAT = 1
CHECK = "check"  # the stage that says the same whatever goes in, and is part of no lineage


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
