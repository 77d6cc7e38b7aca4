"""A stage as dvc.yaml declares it: what DVC hashes of it, whether that is as it was read, and its outputs.

DVC (3.67) hashes parameters and dependencies anew once the command has ended, and records those digests
beside the outputs. A stage that went by something else must therefore fail: see `unchanged`.
"""

import hashlib
import itertools
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metashot import plain_yaml
from metashot.errors import MetashotError, Outdated
from metashot.files import md5, remove
from metashot.project.closure import FOLDER, CodeList
from metashot.project.code import AT_START, TOP, loaded

DVC_YAML, PARAMS = Path("dvc.yaml"), "params.yaml"

Signature = dict[str, tuple[int, int, int]]  # of each file its inode, size and time of change, as DVC's own


class Unlisted(MetashotError):
    """A stage has loaded a module that the list of its code lacks."""


class Inputs:
    """All that DVC records of a stage's inputs, as it is when this is made.

    That is its entry in dvc.yaml, parameters, pins of packages, code and data. Paths are relative to the
    working directory.

    Args:
        name: Of the stage in dvc.yaml. One that it lacks has no inputs.
        arguments: The dimensions of its matrix.
    """

    def __init__(self, name: str, arguments: Sequence[str]) -> None:
        self._name, self._arguments = name, arguments
        self.stage = _stage(name, arguments)
        self._params = _params(self.stage)
        paths = [Path(path) for path in self.stage.get("deps", [])]
        self._code = next((path for path in paths if _is_code(path)), None)
        self._signatures = {path: _signature(path) for path in paths if path.as_posix() not in AT_START}
        self._digests = {path: AT_START.get(path.as_posix()) or _digest(path) for path in paths}

    def check_code(self, since: str) -> None:
        """Hold the modules that are loaded to those that the stage `code` has listed.

        Raises:
            Outdated: One is another by now.
            Unlisted: One is not listed.
        """
        if self._code is None or not self._code.exists():  # as without DVC
            return
        listed = CodeList.parse(self._code.read_bytes(), str(self._code))
        for path in loaded():
            if path not in listed.modules:
                raise Unlisted(
                    f"{path} is loaded by this stage and not in {self._code}: import it by a statement, or "
                    "name it in a Catalogue"
                )
            content = (TOP / path).read_bytes()
            if AT_START.get(path) != hashlib.md5(content).hexdigest() or (
                listed.md5(path, content) != listed.modules[path]
            ):
                raise Outdated(f"{path} changed {since}: run again")

    def check(self) -> None:
        """Raise `Outdated` where something is no longer as it was."""
        try:
            first, *others = self._changed() or [""]
        except (MetashotError, OSError) as error:  # half-saved, or in the middle of being replaced
            raise Outdated(f"{error}; it changed while the stage ran: run again") from None
        if first:
            more = f" and {len(others)} more" if others else ""
            raise Outdated(f"{first}{more} changed while the stage ran: run again")

    def _changed(self) -> list[str]:
        if _stage(self._name, self._arguments) != self.stage:
            return [f"{DVC_YAML}: {self._name}"]
        now = _params(self.stage)
        keys = dict.fromkeys([*self._params, *now])
        changed = [f"{file}: {key}" for file, key in keys if self._differs(file, key, now)]
        for path, digest in self._digests.items():
            if path in self._signatures and _signature(path) == self._signatures[path]:
                continue
            if _digest(path) != digest:
                changed.append(path.as_posix())
        return changed

    def _differs(self, file: str, key: str, now: Mapping[tuple[str, str], Any]) -> bool:
        # 1 and 1.0 are equal, and not the same
        return repr(self._params.get((file, key))) != repr(now.get((file, key)))


@contextmanager
def unchanged(name: str, arguments: Sequence[str]) -> Iterator[None]:
    """Hold a stage to the inputs that it begins with: where they are others in the end, it has made nothing.

    Raises:
        Outdated: Something changed since the stage's code was loaded; its outputs are gone.
        Unlisted: The stage loaded a module that the list of its code lacks; its outputs are gone.
    """
    inputs = Inputs(name, arguments)
    try:
        inputs.check_code("since the stage code listed it")
        inputs.check()
        try:
            yield
        except MetashotError:  # which may well come of the change
            inputs.check()
            raise
        inputs.check_code("while the stage ran")
        inputs.check()  # last: what comes between this and DVC's own look goes unseen
    except (Outdated, Unlisted):
        for out in map(Path, outputs(inputs.stage)):
            remove(out)
        raise


def cells(root: Path) -> Iterator[tuple[str, dict[str, str], dict[str, Any]]]:
    """Yield every stage of dvc.yaml, cell by cell of its matrix: its name, the cell, its entry filled in.

    Raises:
        MetashotError: dvc.yaml or params.yaml cannot be read.
    """
    values = contents(root / PARAMS)
    for name, stage in contents(root / DVC_YAML)["stages"].items():
        matrix = stage.get("matrix", {})
        lists = [below(values, v.strip("${}"), []) if isinstance(v, str) else v for v in matrix.values()]
        for chosen in itertools.product(*lists):
            cell = {dimension: str(value) for dimension, value in zip(matrix, chosen, strict=True)}
            yield name, cell, filled(stage, cell)


def address(name: str, cell: Mapping[str, str]) -> str:
    """Return what DVC calls a cell of a stage."""
    return f"{name}@{'-'.join(cell.values())}" if cell else name


def filled(value: Any, cell: Mapping[str, object]) -> Any:
    """A part of dvc.yaml with ``${item.<dimension>}`` replaced."""
    if isinstance(value, Mapping):
        return {filled(key, cell): filled(inner, cell) for key, inner in value.items()}
    if isinstance(value, list):
        return [filled(inner, cell) for inner in value]
    if isinstance(value, str):
        for dimension, chosen in cell.items():
            value = value.replace(f"${{item.{dimension}}}", str(chosen))
    return value


def outputs(stage: Mapping[str, Any]) -> list[str]:
    """The paths of all that a stage of dvc.yaml makes."""
    listed = (out for kind in ("outs", "metrics", "plots") for out in stage.get(kind, []))
    return [out if isinstance(out, str) else next(iter(out)) for out in listed]


def params(stage: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """The files of parameters that a stage of dvc.yaml depends on, and the keys; none for the whole file."""
    for item in stage.get("params", []):
        if isinstance(item, str):
            yield PARAMS, [item]
        else:
            yield from ((file, keys or []) for file, keys in item.items())


def contents(path: Path) -> Any:
    """What a file of parameters holds. Raises MetashotError where it is not TOML, or not plain YAML."""
    text = plain_yaml.read(path)
    if path.suffix == ".toml":
        try:
            return tomllib.loads(text)
        except ValueError as error:
            raise MetashotError(f"{path}: not TOML: {error}") from None
    return plain_yaml.load(text, str(path))


def below(content: Any, key: str, default: Any = None) -> Any:
    """Return the value below a dotted key, or the default where there is none."""
    for part in key.split("."):
        if not isinstance(content, Mapping) or part not in content:
            return default
        content = content[part]
    return content


def _stage(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """A stage of dvc.yaml with its arguments filled in; empty if it has none of that name."""
    if not DVC_YAML.exists():
        return {}
    stage = below(contents(DVC_YAML), f"stages.{name}", {})
    return dict(filled(stage, dict(zip(stage.get("matrix", {}), arguments, strict=False))))


def _params(stage: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    """The value of every parameter that a stage depends on, by file and key; None for one that is missing."""
    values: dict[tuple[str, str], Any] = {}
    for file, keys in params(stage):
        content = contents(Path(file))
        values |= {(file, key): below(content, key) for key in keys or content or ()}
    return values


def _digest(path: Path) -> str | None:
    return md5(path) if path.exists() else None


def _is_code(path: Path) -> bool:
    return path.suffix == ".json" and path.is_relative_to(FOLDER)


def _signature(path: Path) -> Signature:
    inside = sorted(path.rglob("*")) if path.is_dir() else [path] if path.exists() else []
    stats = {str(file): file.stat() for file in inside if file.is_file()}
    return {file: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for file, stat in stats.items()}
