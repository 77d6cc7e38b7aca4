"""The entries of dvc.lock, one for each stage, and their digests.

Anybody who holds the repository can recompute them: a *key* is the digest of a stage's inputs (command,
dependencies, parameters), a *result* the digest of its inputs and outputs.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from metashot import plain_yaml
from metashot.errors import MetashotError
from metashot.files import digest

RECORDS = "records/"  # outputs that hold clock times, and are therefore not part of a result
REST = 0.3  # seconds without a change after which dvc.lock counts as complete
PATIENCE = 60.0  # seconds to wait for that
MEND = "keep one side with `git checkout --ours dvc.lock`, or --theirs, or restore it; then `dvc repro`"


def inside(path: str) -> str:
    """Return ``path`` if it stays within the folder that it is relative to.

    Raises:
        ValueError: It leads outside, is empty, or holds a NUL.
    """
    posix = PurePosixPath(path)
    if posix.is_absolute() or ".." in posix.parts or not posix.parts or "\0" in path:
        raise ValueError(f"{path!r} is not a path within the repository")
    return path


Inside = Annotated[str, AfterValidator(inside)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}(\.dir)?$")]  # of a file, or of a folder


class _Dep(BaseModel):
    """A dependency in dvc.lock: a file or folder of the repository, or a URL."""

    path: str
    md5: str | None = None
    size: int | None = None

    @model_validator(mode="after")
    def _check_digest(self) -> Self:
        if "://" not in self.path and (self.md5 is None or self.size is None):
            raise ValueError(f"{self.path} has no md5 or no size")
        return self


class _Out(BaseModel):
    """An output in dvc.lock."""

    path: Inside
    md5: Digest
    size: int


class _Stage(BaseModel):
    """A stage of dvc.lock."""

    cmd: Any
    deps: list[_Dep] = []
    params: dict[str, dict[str, Any]] = {}
    outs: list[_Out] = []


_STAGES = TypeAdapter(dict[str, _Stage])


@dataclass(frozen=True)
class Entry:
    """One stage of dvc.lock. ``deps`` and ``outs`` are DVC's own items, with path, md5 and size."""

    stage: str
    cmd: str
    deps: Sequence[Mapping[str, Any]]
    params: Mapping[str, Any]
    outs: Sequence[Mapping[str, Any]]

    @property
    def command(self) -> list[str]:
        """The only command that a stage of this address may run: ``python -m stages.<stage> <arguments>``."""
        name, _, cell = self.stage.partition("@")
        return ["python", "-m", f"stages.{name}", *filter(None, cell.split("-"))]

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """Command, dependencies and parameters, in canonical order."""
        deps = sorted((dict(dep) for dep in self.deps), key=lambda dep: str(dep["path"]))
        return {"cmd": self.cmd, "deps": deps, "params": dict(self.params)}

    @property
    def key(self) -> str:
        """Digest of the inputs."""
        return digest(self.inputs)

    @property
    def result(self) -> str:
        """Digest of inputs and outputs, without the records, which hold clock times."""
        outs = [dict(out) for out in self.outs if not str(out["path"]).startswith(RECORDS)]
        return digest({**self.inputs, "outs": sorted(outs, key=lambda out: str(out["path"]))})


def pointed(content: Any, where: str) -> str:
    """Return the digest in a .dvc file. Raises MetashotError where it is not as DVC writes it."""
    try:
        return str(content["outs"][0]["md5"])
    except (LookupError, TypeError):
        raise MetashotError(f"{where}: not as DVC writes it: restore it with git") from None


def self_and_parents(path: str, named: Mapping[str, Any]) -> Iterator[str]:
    """Yield those of ``path`` and its parent folders that are keys of ``named``."""
    for candidate in (PurePosixPath(path), *PurePosixPath(path).parents):
        if str(candidate) in named:
            yield str(candidate)


def whole(path: Path) -> str:
    """Return the complete text of a file that DVC may be writing in place: wait until it rests.

    Raises:
        MetashotError: There is no such file, or it was being written for `PATIENCE` seconds.
    """
    if not path.is_file():
        if path.exists():
            raise MetashotError(f"{path}: not a file: restore it with git")
        raise MetashotError(f"no {path}: nothing has been made yet, run `dvc repro`")
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        before = path.stat()
        if 0 <= time.time() - before.st_mtime < REST:
            time.sleep(REST / 3)
            continue
        text = path.read_text(encoding="utf-8", errors="surrogateescape")  # refused as YAML later
        after = path.stat()
        if (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size):
            return text
    raise MetashotError(f"{path} did not rest for {REST} s in {PATIENCE:.0f} s: try again when DVC has ended")


def entries(text: str, where: str, mend: str = MEND) -> dict[str, Entry]:
    """Return the stages of a dvc.lock, by address.

    Raises:
        MetashotError: It has merge conflict markers, is not YAML, or not what DVC writes.
    """
    data = plain_yaml.load(text, where, mend, plain_yaml.MADE)
    if not isinstance(data, dict) or data.get("schema") != "2.0":
        raise MetashotError(f"{where}: not a dvc.lock of schema 2.0: {mend}")
    return stages(data.get("stages") or {}, where, mend)


def stages(content: Any, where: str, mend: str = MEND) -> dict[str, Entry]:
    """Return the entries of stages, by address.

    Args:
        content: Stages as dvc.lock, DVC's run cache or a lineage document holds them.
        where: Where they come from, for messages.
        mend: How to repair them, for messages.

    Raises:
        MetashotError: They are not what DVC writes.
    """
    try:
        _STAGES.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        place, reason = ".".join(map(str, first["loc"])) or "stages", " ".join(first["msg"].split())
        raise MetashotError(
            f"{where}: not as DVC writes it ({place[:200]}: {reason[:200]}): {mend}"
        ) from None
    return {
        name: Entry(name, str(e["cmd"]), e.get("deps", []), e.get("params", {}), e.get("outs", []))
        for name, e in content.items()
    }
