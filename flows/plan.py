"""What a run would do, and why, without doing it: each stage's state, the reason, and the time to expect.

DVC says which stages have changed. What it cannot say beforehand is which of the changed ones were made
before, here or elsewhere, from the very inputs they have now: its run cache knows, an entry for every run.
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

LISTED = 3  # reasons named, of many


@dataclass(frozen=True)
class Step:
    """What a run would do about one stage.

    Attributes:
        stage: Its address, such as ``train@glyphs-5w1s-maml``.
        state: Whether it must run, or where its outputs lie already.
        reason: Which dependency, parameter (old → new) or code file changed; empty where nothing did.
        seconds: The time to expect, from past runs on this machine or from its record; 0 where nothing runs,
            None where it never ran.
        needs: The addresses of the stages it depends on directly.
    """

    stage: str
    state: State
    reason: str
    seconds: float | None
    needs: tuple[str, ...]


def plan(root: Path, targets: Sequence[str] = ()) -> list[Step]:
    """Look at every stage that targets stand on, and at the targets; at all stages where none is named.

    Returns:
        In an order they can be made in.

    Raises:
        MetashotError: DVC cannot read the pipeline, or there is no such target.
    """
    graph = dvc.graph(root)
    order = dvc.ancestry(graph, targets or list(graph))
    changed = dvc.status(root)
    entries = Lock(root).entries if (root / "dvc.lock").exists() else {}
    written = {declared.address(name, cell): entry for name, cell, entry in declared.cells(root)}
    stores: list[tuple[State, Store]] = [("cached locally", Store.local(root))]
    if remote := Store.remote(root):
        stores.append(("cached on the remote", remote))
    steps: dict[str, Step] = {}
    elsewhere: dict[str, tuple[str, Store]] = {}  # outputs that are not in the workspace: md5, and where
    codes = cells.files(root) if "code" in order and ("code" in changed or "code" not in entries) else {}
    for stage, needed in order.items():
        entry, needs = entries.get(stage), tuple(sorted(needed))
        waits = [name for name in needs if steps[name].state == "must run"]
        waits = [name for name in waits if not (written[name].get("meta") or {}).get("constant")]
        moved = [name for name in needs if steps[name].state.startswith("cached")]
        if codes:  # what the stage code would write is known
            waits, moved = ([name for name in names if name != "code"] for names in (waits, moved))
            if told := _changed_code(root, written[stage], entry, codes):
                changed[stage] = [*changed.get(stage, []), {"changed deps": dict.fromkeys(told, "modified")}]
        if entry and stage not in changed and not waits and not moved:
            steps[stage] = Step(stage, "up to date", "", 0.0, needs)
            continue
        reason = _reason(root, changed.get(stage, []), entry, waits or moved)
        found = None if waits else _inputs(root, written[stage], elsewhere, codes)
        for state, store in stores:
            outs = _made(store, found) if found else None
            if outs is not None:
                elsewhere |= {path: (digest, store) for path, digest in outs.items()}
                steps[stage] = Step(stage, state, reason, 0.0, needs)
                break
        else:
            steps[stage] = Step(stage, "must run", reason, _expected(root, stage, entry), needs)
    return list(steps.values())


@dataclass(frozen=True)
class _Inputs:
    """What DVC's run cache finds an earlier run by."""

    cmd: str
    deps: Mapping[str, str]
    params: Mapping[str, Mapping[str, Any]]
    outs: frozenset[str]


def _made(store: Store, wanted: _Inputs) -> dict[str, str] | None:
    """The outputs, path to md5, of an earlier run with the same inputs, if a store has all their bytes."""
    for entry in store.runs(wanted.cmd):
        outs = {str(out["path"]): str(out["md5"]) for out in entry.outs}
        deps = {str(dep["path"]): str(dep.get("md5")) for dep in entry.deps}
        same = deps == wanted.deps and entry.params == wanted.params and set(outs) == wanted.outs
        if same and all(store.has(digest) for digest in outs.values()):
            return outs
    return None


def _changed_code(
    root: Path, written: Mapping[str, Any], entry: Entry | None, codes: Mapping[str, bytes]
) -> list[str]:
    """The modules and packages of a stage that are others than when it was made."""
    recorded = {str(dep["path"]): dep.get("md5") for dep in entry.deps} if entry else {}
    for path in written.get("deps", []):
        if path in codes and path in recorded and hashlib.md5(codes[path]).hexdigest() != recorded[path]:
            return _differing(root / path, codes[path])
    return []


def _differing(path: Path, content: bytes) -> list[str]:
    """The modules and packages in which a file of data/code differs from what it will be."""
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
    stage: Mapping[str, Any],
    elsewhere: Mapping[str, tuple[str, Store]],
    codes: Mapping[str, bytes],
) -> _Inputs | None:
    """What a stage would be made from now; None if that is not known before a run."""
    deps: dict[str, str] = {}
    if not stage.get("deps"):  # DVC runs such a stage every time
        return None
    for path in stage["deps"]:
        digest = hashlib.md5(codes[path]).hexdigest() if path in codes else _digest(root, path, elsewhere)
        if digest is None:
            return None
        deps[path] = digest
    params: dict[str, dict[str, Any]] = {}
    for file, keys in declared.params(stage):
        content = contents(root / file)
        for key in keys or content:
            value = below(content, key, _MISSING)
            if value is _MISSING:
                return None
            params.setdefault(file, {})[key] = value
    return _Inputs(stage["cmd"], deps, params, frozenset(declared.outputs(stage)))


def _digest(root: Path, path: str, elsewhere: Mapping[str, tuple[str, Store]]) -> str | None:
    """The md5 a dependency will have."""
    for above in (PurePosixPath(path), *PurePosixPath(path).parents):
        if str(above) in elsewhere:
            digest, store = elsewhere[str(above)]
            inside = PurePosixPath(path).relative_to(above).as_posix()
            return digest if inside == "." else store.listing(digest).get(inside)
    if any(PurePosixPath(out).is_relative_to(path) for out in elsewhere) or not (root / path).exists():
        return None
    return md5(root / path)


_MISSING = object()


def _reason(root: Path, changes: Sequence[Any], entry: Entry | None, waits: Sequence[str]) -> str:
    """What DVC's status of a stage says, in words."""
    if entry is None:
        return "never made"
    said = []
    for change in changes:
        if isinstance(change, str):  # "changed command", or "always changed" where it has no dependencies
            said.append(change)
            continue
        for path, what in change.get("changed deps", {}).items():
            if path in entry.params:
                said += _parameters(entry.params[path], contents(root / path), what)
            else:
                said.append(f"{path} {'changed' if what == 'modified' else what}")
        said += [f"{path} is {what}" for path, what in change.get("changed outs", {}).items()]
    said += [f"needs {name}" for name in waits]
    more = len(said) - LISTED
    return "; ".join(said[:LISTED] + ([f"{more} more"] if more > 0 else []))


def _parameters(old: Mapping[str, Any], content: Mapping[str, Any], what: Any) -> list[str]:
    """``key: old → new`` for each value that differs below the changed keys."""
    changed = list(what) if isinstance(what, Mapping) else list(old)
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


def _expected(root: Path, stage: str, entry: Entry | None) -> float | None:
    """Seconds that a stage took when it was last made; a training's in proportion to its budget."""
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
