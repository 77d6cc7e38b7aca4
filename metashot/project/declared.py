"""Stages as dvc.yaml declares them: their cells, parameters and outputs, and whether inputs have changed.

DVC (3.67) hashes parameters and dependencies once the command has ended, and records those digests with the
outputs. A stage that read anything else must therefore fail: see `unchanged`.
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

Signature = dict[str, tuple[int, int, int]]  # inode, size and mtime in ns of each file, as DVC compares them


class Unlisted(MetashotError):
    """A stage has loaded a module that is missing from the list of its code."""


class Inputs:
    """A snapshot of all inputs that DVC records of a stage, taken when this is created.

    These are its entry in dvc.yaml, parameters, code and data. Paths are relative to the working directory.

    Args:
        name: The stage in dvc.yaml. One that dvc.yaml does not have has no inputs.
        arguments: The values of its matrix, a cell.
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
        """Compare the loaded modules with those that the stage `code` has listed.

        Args:
            since: When a module must have changed, for the message: ``while the stage ran``.

        Raises:
            Outdated: A module has changed.
            Unlisted: A module is not listed.
        """
        if self._code is None or not self._code.exists():  # as without DVC
            return
        listed = CodeList.parse(self._code.read_bytes(), str(self._code))
        for path in loaded():
            if path not in listed.modules:
                raise Unlisted(
                    f"{path} is loaded by this stage, but {self._code} does not list it: import it by an "
                    "import statement, or name it in a Catalogue"
                )
            content = (TOP / path).read_bytes()
            if AT_START.get(path) != hashlib.md5(content).hexdigest() or (
                listed.md5(path, content) != listed.modules[path]
            ):
                raise Outdated(f"{path} changed {since}: run again")

    def check(self) -> None:
        """Raise `Outdated` where an input has changed."""
        try:
            first, *others = self._changed() or [""]
        except (MetashotError, OSError) as error:  # half-saved, or being replaced
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
        # 1 == 1.0, but they are different parameters
        return repr(self._params.get((file, key))) != repr(now.get((file, key)))


@contextmanager
def unchanged(name: str, arguments: Sequence[str]) -> Iterator[None]:
    """Run a stage as a with-block, and remove its outputs if an input changed before it ended.

    Raises:
        Outdated: An input changed since the stage's code was loaded; the outputs are removed.
        Unlisted: The stage loaded a module missing from the list of its code; the outputs are removed.
    """
    inputs = Inputs(name, arguments)
    try:
        inputs.check_code("since the stage code listed it")
        inputs.check()
        try:
            yield
        except MetashotError:  # possibly caused by the change
            inputs.check()
            raise
        inputs.check_code("while the stage ran")
        inputs.check()  # last: a change between this check and DVC's own goes unnoticed
    except (Outdated, Unlisted):
        for out in map(Path, outputs(inputs.stage)):
            remove(out)
        raise


def cells(root: Path) -> Iterator[tuple[str, dict[str, str], dict[str, Any]]]:
    """Yield every cell of every stage in dvc.yaml.

    Yields:
        The stage's name, the cell (dimension to value, empty without a matrix), and the stage's entry with
        that cell filled in.

    Raises:
        MetashotError: dvc.yaml or params.yaml cannot be read.
    """
    values = contents(root / PARAMS)
    for name, stage in contents(root / DVC_YAML)["stages"].items():
        matrix = stage.get("matrix", {})
        lists = [below(values, v.strip("${}"), []) if isinstance(v, str) else v for v in matrix.values()]
        for combination in itertools.product(*lists):
            cell = {dimension: str(value) for dimension, value in zip(matrix, combination, strict=True)}
            yield name, cell, filled(stage, cell)


def address(name: str, cell: Mapping[str, str]) -> str:
    """Return DVC's name of a cell of a stage, such as ``train@glyphs-5w1s-maml``."""
    return f"{name}@{'-'.join(cell.values())}" if cell else name


def filled(value: Any, cell: Mapping[str, object]) -> Any:
    """Return a part of dvc.yaml with every ``${item.<dimension>}`` replaced by the cell's value."""
    if isinstance(value, Mapping):
        return {filled(key, cell): filled(inner, cell) for key, inner in value.items()}
    if isinstance(value, list):
        return [filled(inner, cell) for inner in value]
    if isinstance(value, str):
        for dimension, item in cell.items():
            value = value.replace(f"${{item.{dimension}}}", str(item))
    return value


def outputs(stage: Mapping[str, Any]) -> list[str]:
    """Return the paths of all outputs of a stage of dvc.yaml."""
    outs = (out for section in ("outs", "metrics", "plots") for out in stage.get(section, []))
    return [out if isinstance(out, str) else next(iter(out)) for out in outs]


def params(stage: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield each parameter file that a stage of dvc.yaml depends on, with its keys; none for all of them."""
    for item in stage.get("params", []):
        if isinstance(item, str):
            yield PARAMS, [item]
        else:
            yield from ((file, keys or []) for file, keys in item.items())


def contents(path: Path) -> Any:
    """Return the content of a parameter file. Raises MetashotError where it is not TOML or plain YAML."""
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
    """Return a stage of dvc.yaml with its arguments filled in; empty if there is none of that name."""
    if not DVC_YAML.exists():
        return {}
    stage = below(contents(DVC_YAML), f"stages.{name}", {})
    return dict(filled(stage, dict(zip(stage.get("matrix", {}), arguments, strict=False))))


def _params(stage: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    """Return every parameter that a stage depends on, by file and key; None for one that is missing."""
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
    paths = sorted(path.rglob("*")) if path.is_dir() else [path] if path.exists() else []
    stats = {str(file): file.stat() for file in paths if file.is_file()}
    return {file: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for file, stat in stats.items()}
