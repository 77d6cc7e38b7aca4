"""Changes of champion from outside the pipeline: adoption before a retraining, and rollback.

Both change files that the gate reads and git tracks, below ``champions/``: what was done stays in history.
"""

import shutil
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter
from ruamel.yaml import YAML

from metashot.config import cells, params
from metashot.errors import MetashotError
from metashot.files import replacing
from metashot.lineage import lockfile
from metashot.lineage.lockfile import CHAMPIONS, Lock
from metashot.project import dvc, git
from metashot.results import compare, gate
from metashot.results.compare import Comparison, Row
from metashot.results.gate import Ban


def adopt(root: Path, dataset: str, setting: str) -> Row | None:
    """Make the champion the incumbent that the next training has to beat; commit ``champions/`` afterwards.

    Returns:
        The champion; None if there is none, or it is the incumbent already.

    Raises:
        MetashotError: There is no decision on the present results, or DVC failed.
    """
    group = f"{dataset}-{setting}"
    folder, pointer = root / CHAMPIONS / group, f"{CHAMPIONS}/{group}.dvc"
    if (root / pointer).exists():
        with suppress(MetashotError):  # mends what a killed adoption left; what it cannot is named below
            dvc.output(root, "checkout", "--force", pointer)
    incumbent, _ = gate.latest(root, dataset, setting, gate.read_bans(root, group))
    lock, comparison = _judged(root, dataset, setting)
    champion = comparison.champion
    if champion is None or (incumbent and incumbent[1].weights == champion.model):
        return None
    source, cell = compare.sources(lock, comparison)[champion.name]
    with replacing(folder) as partial:
        partial.mkdir()
        if folder.exists():
            shutil.copytree(folder, partial, dirs_exist_ok=True)
        kept = partial / str(1 + len(list(partial.iterdir())))
        for entry in (cell.train, cell.evaluate):
            for out in entry.outs:
                path = source.file(entry, str(out["path"]))
                copy = kept / str(out["path"])
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copytree(path, copy) if path.is_dir() else shutil.copy(path, copy)
        stages = {
            entry.stage: {
                "cmd": entry.cmd,
                "deps": [dict(dep) for dep in entry.deps],
                "params": dict(entry.params),
                "outs": [dict(out) for out in entry.outs],
            }
            for entry in source.ancestry(cell.train, cell.evaluate)
        }
        with (kept / "dvc.lock").open("w", encoding="utf-8") as file:
            YAML(typ="safe").dump({"schema": "2.0", "stages": stages}, file)
    for backbone in cell.backbones(comparison.kind):
        cells.list_adopted(root, group, cell.method, backbone)
    dvc.output(root, "add", f"{CHAMPIONS}/{group}")
    return champion


def rollback(root: Path, dataset: str, setting: str, reason: str) -> Comparison:
    """Bar the champion for good and put the incumbent, or the next best model, in its place, in MLflow too.

    The ban is an entry of ``champions/<data set>-<setting>.json``; commit it with dvc.lock afterwards.

    Returns:
        What is so now.

    Raises:
        MetashotError: There is no champion, nothing else may be champion, or DVC failed.
    """
    group = f"{dataset}-{setting}"
    if not reason.strip():
        raise MetashotError("a rollback needs a reason: it is all that later readers have")
    _, comparison = _judged(root, dataset, setting)
    champion = comparison.champion
    if champion is None:
        raise MetashotError(f"{group} has no champion that could be rolled back")
    bans = gate.read_bans(root, group)
    if champion.model not in {ban.model for ban in bans}:  # else a rollback was killed half-way
        now = datetime.now(UTC).isoformat(timespec="seconds")
        bans.append(
            Ban(champion.method, champion.model, champion.result, reason.strip(), now, git.user(root))
        )
    rule: params.Gate = params.read(root / "params.yaml", "gate", params.Gate)
    threads: int = params.read(root / "params.yaml", "threads", params.Threads)
    methods = lockfile.listed(root, "methods")
    after = gate.judge(root, dataset, setting, methods, rule, bans, threads)
    if after.champion is None:
        raise MetashotError(
            f"{champion.name} stays champion of {group}, for nothing else may be: {'; '.join(after.reasons)}"
        )
    path = gate.bans_path(root, group)
    with replacing(path) as partial:
        text = TypeAdapter(list[Ban]).dump_json(bans, indent=2).decode()
        partial.write_text(text + "\n", encoding="utf-8")
    # These two alone: a rollback does not wait for what else may be out of date
    targets = f"gate@{group}", f"register@{group}"
    if dvc.run(root, "repro", "--single-item", *targets):
        raise MetashotError(
            f"see above; barred in {path.relative_to(root)}, `dvc repro {' '.join(targets)}` does the rest"
        )
    return _judged(root, dataset, setting)[1]


def _judged(root: Path, dataset: str, setting: str) -> tuple[Lock, Comparison]:
    lock = Lock(root)
    return lock, compare.compare(lock, dataset, setting, lockfile.listed(root, "methods"))
