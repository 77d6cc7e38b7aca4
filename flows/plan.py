"""What a run would do, and why: each stage's state, the reason, and the expected time. Nothing is run.

``dvc status`` says which stages have changed, but not which of these were made before from the same inputs,
here or elsewhere. DVC's run cache, which holds an entry for every run, answers that.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from metashot.config import cells
from metashot.config.params import budgeted
from metashot.errors import MetashotError
from metashot.files import md5
from metashot.lineage.lockfile import Lock
from metashot.lineage.objects import Store
from metashot.lineage.record import Record
from metashot.project import attempts, declared, dvc
from metashot.project.closure import CodeList
from metashot.project.declared import below, contents
from metashot.project.entries import Entry

State = Literal["up to date", "cached locally", "cached on the remote", "must run"]

LISTED = 3  # reasons that are spelled out


@dataclass(frozen=True)
class Step:
    """What a run would do about one stage.

    Attributes:
        stage: Its address, such as ``train@glyphs-5w1s-maml``.
        state: Whether it must run, or where its outputs are already.
        reason: Which dependency, parameter (old → new) or code file changed; empty where nothing did.
        seconds: Expected duration, from the latest run on this machine or from its record; 0 if it need not
            run, None if it never ran.
        needs: The addresses of the stages it depends on directly.
    """

    stage: str
    state: State
    reason: str
    seconds: float | None
    needs: tuple[str, ...]


def plan(root: Path, targets: Sequence[str] = ()) -> list[Step]:
    """Plan targets and the stages that they need; all stages if no target is given.

    Returns:
        A step for each stage, in topological order.

    Raises:
        MetashotError: DVC cannot read the pipeline, or there is no such target.
    """
    graph = dvc.graph(root)
    order = dvc.ancestry(graph, targets or list(graph))
    changed = dvc.status(root)
    entries = Lock(root).entries if (root / "dvc.lock").exists() else {}
    declarations = {declared.address(name, cell): entry for name, cell, entry in declared.cells(root)}
    stores: list[tuple[State, Store]] = [("cached locally", Store.local(root))]
    if remote := Store.remote(root):
        stores.append(("cached on the remote", remote))
    steps: dict[str, Step] = {}
    cached: dict[str, tuple[str, Store]] = {}  # outputs that are in a store only: md5 and store, by path
    code_lists = cells.files(root) if "code" in order and ("code" in changed or "code" not in entries) else {}
    for stage, needed in order.items():
        entry, needs = entries.get(stage), tuple(sorted(needed))
        pending = [name for name in needs if steps[name].state == "must run"]
        pending = [name for name in pending if not (declarations[name].get("meta") or {}).get("constant")]
        restored = [name for name in needs if steps[name].state.startswith("cached")]
        if code_lists:  # what the stage code would write is known already
            pending, restored = ([name for name in names if name != "code"] for names in (pending, restored))
            if modified := _changed_code(root, declarations[stage], entry, code_lists):
                change = {"changed deps": dict.fromkeys(modified, "modified")}
                changed[stage] = [*changed.get(stage, []), change]
        if entry and stage not in changed and not pending and not restored:
            steps[stage] = Step(stage, "up to date", "", 0.0, needs)
            continue
        reason = _reason(root, changed.get(stage, []), entry, pending or restored)
        inputs = None if pending else _inputs(root, declarations[stage], cached, code_lists)
        for state, store in stores:
            outs = _earlier_outputs(store, inputs) if inputs else None
            if outs is not None:
                cached |= {path: (digest, store) for path, digest in outs.items()}
                steps[stage] = Step(stage, state, reason, 0.0, needs)
                break
        else:
            steps[stage] = Step(stage, "must run", reason, _expected_seconds(root, stage, entry), needs)
    return list(steps.values())


@dataclass(frozen=True)
class _Inputs:
    """The inputs by which DVC's run cache identifies an earlier run: md5 by path, values by file and key."""

    cmd: str
    deps: Mapping[str, str]
    params: Mapping[str, Mapping[str, Any]]
    outs: frozenset[str]


def _earlier_outputs(store: Store, inputs: _Inputs) -> dict[str, str] | None:
    """Return the outputs (path to md5) of an earlier run with these inputs, if a store holds all of them."""
    for entry in store.runs(inputs.cmd):
        outs = {str(out["path"]): str(out["md5"]) for out in entry.outs}
        deps = {str(dep["path"]): str(dep.get("md5")) for dep in entry.deps}
        same = deps == inputs.deps and entry.params == inputs.params and set(outs) == inputs.outs
        if same and all(store.has(digest) for digest in outs.values()):
            return outs
    return None


def _changed_code(
    root: Path, declaration: Mapping[str, Any], entry: Entry | None, code_lists: Mapping[str, bytes]
) -> list[str]:
    """Return the modules and packages of a stage that have changed since it was made."""
    recorded = {str(dep["path"]): dep.get("md5") for dep in entry.deps} if entry else {}
    for path in declaration.get("deps", []):
        if path in code_lists and path in recorded:
            content = code_lists[path]
            if hashlib.md5(content).hexdigest() != recorded[path]:
                return _list_difference(root / path, content)
    return []


def _list_difference(path: Path, content: bytes) -> list[str]:
    """Return the modules and packages in which a file of data/code differs from its future content."""
    try:
        old = CodeList.parse(path.read_bytes(), str(path))
    except (OSError, MetashotError):
        return [path.name]
    new = CodeList.parse(content, str(path))
    pairs = ((old.modules, new.modules), (old.packages, new.packages))
    return [
        name
        for before, after in pairs
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def _inputs(
    root: Path,
    declaration: Mapping[str, Any],
    cached: Mapping[str, tuple[str, Store]],
    code_lists: Mapping[str, bytes],
) -> _Inputs | None:
    """Return the inputs that a stage would have if it ran now; None if these are unknown before a run."""
    deps: dict[str, str] = {}
    if not declaration.get("deps"):  # DVC runs such a stage every time
        return None
    for path in declaration["deps"]:
        if path in code_lists:
            digest: str | None = hashlib.md5(code_lists[path]).hexdigest()
        else:
            digest = _digest(root, path, cached)
        if digest is None:
            return None
        deps[path] = digest
    params: dict[str, dict[str, Any]] = {}
    for file, keys in declared.params(declaration):
        content = contents(root / file)
        for key in keys or content:
            value = below(content, key, _MISSING)
            if value is _MISSING:
                return None
            params.setdefault(file, {})[key] = value
    return _Inputs(declaration["cmd"], deps, params, frozenset(declared.outputs(declaration)))


def _digest(root: Path, path: str, cached: Mapping[str, tuple[str, Store]]) -> str | None:
    """Return the md5 that a dependency will have; None if it is unknown."""
    for out in (PurePosixPath(path), *PurePosixPath(path).parents):
        if str(out) in cached:
            digest, store = cached[str(out)]
            relative = PurePosixPath(path).relative_to(out).as_posix()
            return digest if relative == "." else store.listing(digest).get(relative)
    if any(PurePosixPath(out).is_relative_to(path) for out in cached) or not (root / path).exists():
        return None
    return md5(root / path)


_MISSING = object()


def _reason(root: Path, changes: Sequence[Any], entry: Entry | None, needs: Sequence[str]) -> str:
    """Put DVC's status of a stage into words."""
    if entry is None:
        return "never made"
    reasons = []
    for change in changes:
        if isinstance(change, str):  # "changed command", or "always changed" where it has no dependencies
            reasons.append(change)
            continue
        for path, status in change.get("changed deps", {}).items():
            if path in entry.params:
                reasons += _changed_params(entry.params[path], contents(root / path), status)
            else:
                reasons.append(f"{path} {'changed' if status == 'modified' else status}")
        reasons += [f"{path} is {status}" for path, status in change.get("changed outs", {}).items()]
    reasons += [f"needs {name}" for name in needs]
    more = len(reasons) - LISTED
    return "; ".join(reasons[:LISTED] + ([f"{more} more"] if more > 0 else []))


def _changed_params(old: Mapping[str, Any], content: Mapping[str, Any], status: Any) -> list[str]:
    """Return ``key: old → new`` for each value that differs below the changed keys."""
    changed = list(status) if isinstance(status, Mapping) else list(old)
    before = dict(_leaves("", {key: old[key] for key in changed if key in old}))
    now = {key: value for key in changed if (value := below(content, key, _MISSING)) is not _MISSING}
    after = dict(_leaves("", now))
    return [
        f"{key}: {_shown(before, key)} → {_shown(after, key)}"
        for key in dict.fromkeys([*before, *after])
        if before.get(key, _MISSING) != after.get(key, _MISSING)
    ]


def _shown(values: Mapping[str, Any], key: str) -> str:
    return str(values[key]) if key in values else "none"


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(f"{prefix}.{key}" if prefix else str(key), inner)
    else:
        yield prefix, value


def _expected_seconds(root: Path, stage: str, entry: Entry | None) -> float | None:
    """Return how long a stage took when it was last made; a training's time is scaled by its budget."""
    status = attempts.read_status(root, stage)
    seconds = status.seconds if status and status.state == "ok" else None
    for out in entry.outs if entry and seconds is None else ():
        record = root / str(out["path"]) / "record.json"
        if record.exists():
            seconds = Record.parse(record.read_bytes(), str(record)).seconds
    if seconds is None or entry is None:
        return seconds
    for key, budget in entry.params.get("params.yaml", {}).items():
        now = below(contents(root / "params.yaml"), key, _MISSING)
        if ".budget." in key and now is not _MISSING:
            seconds *= budgeted(now)[0] / budgeted(budget)[0]
    return seconds
