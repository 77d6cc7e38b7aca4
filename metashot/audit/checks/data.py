"""Checks of the bytes behind a version: outputs, samples, episodes, and what was counted on them."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from metashot.audit import leaks
from metashot.audit.claim import Claim
from metashot.audit.held import Held
from metashot.audit.verdict import Differs, Unknown, same
from metashot.data import store
from metashot.data.kinds import KINDS
from metashot.errors import MetashotError
from metashot.files import folder_md5
from metashot.learning.models.episodes import load_manifest
from metashot.lineage.metrics import Metrics
from metashot.lineage.objects import FOLDER, Missing
from metashot.lineage.origin import DataFacts, Origin


def stored_bytes(claim: Claim) -> str:
    """Every output of every stage is in the DVC cache or remote, and hashes to its name."""
    held, count, gone = claim.held, 0, []
    for path, md5 in ((str(out["path"]), str(out["md5"])) for e in claim.entries.values() for out in e.outs):
        try:
            held.path(md5)
            inside = held.listing(md5) if md5.endswith(FOLDER) else {}
            for name, inner in inside.items():
                count += 1
                _hash(held, f"{path}/{name}", inner)
            count += not inside
        except Differs as error:
            raise Differs(f"{path}: {error}") from None
        except Missing as error:
            gone.append(f"{path}: {error}")
    if gone:
        raise Unknown("; ".join(gone))
    return f"{count} files hash to their names"


def samples(claim: Claim) -> str:
    """Raw files and origin are those of the data, and every manifest indexes that very data."""
    document, held, made = claim.document, claim.held, claim.outputs
    data_md5, data = made[document.data], held.path(made[document.data])
    files = held.listing(made[f"data/raw/{document.dataset}"])
    origin = Origin(**{**vars(DataFacts.read(data)), "files": files}).written
    recorded = document.origin.written
    for key in {**origin, **recorded}:
        same(f"{key} of the data", recorded.get(key), origin.get(key))
    if (encoder := document.origin.encoder) and encoder.md5:
        named = {name.partition("/")[2]: md5 for name, md5 in document.encoder.items()}
        same("encoder of the data", encoder.md5, folder_md5(named))
    episodes = f"data/episodes/{document.name}"
    manifests = held.listing(made[episodes])
    for name, md5 in manifests.items():
        key = f"manifest {md5} {data_md5}"
        if key not in held.memory:
            split = "test" if name.startswith("test") else Path(name).stem
            _indexes(held.path(md5), data, split, f"{episodes}/{name}")
            held.memory[key] = True
    _apart(held, data, document.origin)
    same("manifest in metrics.json", document.metrics.manifest, manifests.get("test.parquet"))
    linked = {i.dataset.name: i.dataset.digest for i in claim.version.run.inputs.dataset_inputs}
    read = {**document.training.inputs, **document.evaluation.inputs}
    expected = {path: file.md5 for path, file in read.items() if path.startswith("data/")}
    for path in {**linked, **expected}:
        same(f"digest of {path} in MLflow", linked.get(path), expected.get(path))
    return f"{document.dataset} {data_md5[:8]}, {len(manifests)} manifests index it"


def episodes(claim: Claim) -> str:
    """metrics.json says what the counts of every episode come to."""
    metrics = claim.held.document(Metrics, claim.cell.evaluate, claim.cell.metrics)
    same("metrics.json in the lineage", claim.document.metrics.digest, metrics.digest)
    counts = claim.held.summary(claim.cell)
    measured = {claim.cell.setting: metrics, **metrics.extra}
    for setting in {**measured, **counts}:
        if setting not in measured or setting not in counts:
            raise Differs(f"{setting} is in one of metrics.json and episodes.parquet only")
        for name in ("accuracy", "ci95", "episodes"):
            recorded, counted = getattr(measured[setting], name), counts[setting][name]
            if not math.isclose(recorded, counted, rel_tol=1e-9):  # another numpy may round otherwise
                raise Differs(f"{name} of {setting} in metrics.json is {recorded}, not {counted}")
    queries = metrics.n_way * metrics.n_query
    same("queries of an episode", counts[claim.cell.setting]["queries"], queries)
    return f"{metrics.shown} is the mean over {metrics.episodes:,} episodes"


def _hash(held: Held, name: str, md5: str) -> None:
    """Hash a file of a folder, and name it where it is not right."""
    try:
        held.path(md5)
    except Differs as error:
        raise Differs(f"{name}: {error}") from None


def _apart(held: Held, data: Path, origin: Origin) -> None:
    """No sample is in two splits, and no class where they are disjoint: else tests were trained on."""
    key = f"shared {data.parent.name}{data.name}"  # an object's name is its digest
    if key not in held.memory:
        held.memory[key] = leaks.shared(data)
    shared = leaks.Shared(*held.memory[key])
    if shared.digests:
        raise Differs(f"{shared.digests:,} samples of the data are in two splits")
    if shared.classes and not origin.known_classes:
        raise Differs(f"{len(shared.classes):,} classes are in two splits, such as {shared.classes[0]}")
    if shared.contents and not KINDS[origin.kind].USE.merged:
        raise Unknown(
            f"{shared.contents:,} samples of the data have the bytes of a sample of another split, under "
            "other digests: `metashot reproduce` makes the data again"
        )


def _indexes(manifest: Path, data: Path, split: Any, name: str) -> None:
    """Every sample that a manifest numbers exists and is of the class that the manifest says, and once."""
    try:
        samples = store.load(data, split, within=0)
        episodes = load_manifest(manifest, samples)
    except MetashotError as error:
        raise Differs(f"{name}: {error}") from None
    for rows in (episodes.support, episodes.query):
        if rows.size and (rows.min() < 0 or rows.max() >= len(samples.labels)):
            raise Differs(f"{name} numbers samples that {data.name} does not have")
        if (samples.labels[rows] != episodes.classes[..., None]).any():
            raise Differs(f"{name} has samples under other classes than theirs")
    both = np.concatenate([episodes.support, episodes.query], axis=2).reshape(len(episodes), -1)
    if (np.diff(np.sort(both, axis=1), axis=1) == 0).any():
        raise Differs(f"{name} has a sample twice in an episode")
