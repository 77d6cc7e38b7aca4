"""A registered model made again from what is on record, and compared with it."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from metashot import files, git
from metashot.errors import MetashotError, line
from metashot.objects import FOLDER, Objects
from metashot.tracking import Registered

TOLERANCE = 0.01  # of the accuracy, as a fraction, where the device or a package is another one


@dataclass(frozen=True)
class Reproduced:
    """A version and the same made again.

    Attributes:
        version: ``<model>/<number>``.
        verdict: Whether every file has the same bits; or, made on another device or with other packages, an
            accuracy within the tolerance; or neither.
        files: Of each file of the result: md5 on record, md5 now.
        accuracy: On record, and now.
        differences: What is another device or package than on record, a line each.
        tolerance: Of the accuracy.
        seconds: Training and evaluation together: on record, and now.
    """

    version: str
    verdict: Literal["bit-equal", "within tolerance", "differs"]
    files: Mapping[str, tuple[str, str | None]]
    accuracy: tuple[float, float]
    differences: list[str]
    tolerance: float
    seconds: tuple[float, float]


def reproduce(root: Path, version: Registered, tolerance: float = TOLERANCE) -> Reproduced:
    """Train and evaluate a version again: code and parameters of its commit, data of the DVC cache or remote.

    Nothing of the repository changes: the work is done in a worktree of its own, which is removed.

    Args:
        root: The repository.
        version: The version.
        tolerance: Largest difference of accuracies that is accepted from another device or other packages.

    Raises:
        MetashotError: Commit or data are gone, or a stage failed.
    """
    said = version.lineage
    cell = f"{said['name']}-{said['method']}"
    stages = {stage: said["stages"][f"{stage}@{cell}"] for stage in ("train", "evaluate")}
    objects = Objects(root)
    with _tree(root, objects, said, stages["train"]) as tree:
        for stage, entry in stages.items():
            _inputs(objects, tree, said, entry)
            _run(tree, stage, entry["cmd"])
        found: dict[str, tuple[str, str | None]] = {}
        for entry in stages.values():
            for out in entry["outs"]:
                if not out["path"].startswith("records/"):
                    found |= _compared(objects, tree, out)
        where = f"{said['name']}/{said['method']}"
        metrics = json.loads((tree / f"results/{where}/metrics.json").read_text())
        records = [json.loads((tree / f"records/{s}/{where}/record.json").read_text()) for s in stages]
    then = [said["training"], said["evaluation"]]
    differences = [line for old, new in zip(then, records, strict=True) for line in _differences(old, new)]
    accuracy = said["metrics"]["accuracy"], metrics["accuracy"]
    verdict: Literal["bit-equal", "within tolerance", "differs"] = "differs"
    if all(recorded == made for recorded, made in found.values()):
        verdict = "bit-equal"
    elif differences and abs(accuracy[0] - accuracy[1]) <= tolerance:
        verdict = "within tolerance"
    seconds = sum(record["seconds"] for record in then), sum(record["seconds"] for record in records)
    unique = list(dict.fromkeys(differences))
    return Reproduced(version.name, verdict, found, accuracy, unique, tolerance, seconds)


def table(made: Reproduced) -> Table:
    """Return what was made beside what is on record, for a terminal."""
    view = Table(title=f"{made.version}: {made.verdict}", title_justify="left", caption_justify="left")
    for column in ("file", "md5 on record", "md5 now"):
        view.add_column(column, overflow="fold")
    for path, (recorded, now) in made.files.items():
        view.add_row(path, recorded[:12], "the same" if now == recorded else (now or "missing")[:12])
    notes = [
        f"accuracy {100 * made.accuracy[0]:.2f} % on record, {100 * made.accuracy[1]:.2f} % now",
        *made.differences,
    ]
    if made.verdict != "bit-equal":
        notes.append(f"tolerance on another device or with other packages: {100 * made.tolerance:g} points")
    view.caption = Text("\n".join(map(line, notes)))
    return view


@contextmanager
def _tree(root: Path, objects: Objects, said: Mapping[str, Any], train: Mapping[str, Any]) -> Iterator[Path]:
    """A worktree at the commit of a training, with the changes that its tree had."""
    tree = said["training"]["git"]
    if tree["commit"] is None:
        raise MetashotError(f"{said['name']} was not made in a git repository: its code is on no record")
    with tempfile.TemporaryDirectory(prefix="metashot-") as folder:
        path = Path(folder) / "tree"
        try:
            git.run(root, "worktree", "add", "--quiet", "--detach", str(path), tree["commit"])
        except MetashotError as error:
            raise MetashotError(f"{error}: `git fetch` commit {tree['commit'][:10]}") from None
        try:
            if tree["dirty"]:
                records = next(out for out in train["outs"] if out["path"].startswith("records/"))
                if patch := objects.listing(records["md5"]).get("tree.patch"):
                    git.apply(path, objects.path(patch))
            yield path
        finally:
            git.run(root, "worktree", "remove", "--force", str(path))


def _inputs(objects: Objects, tree: Path, said: Mapping[str, Any], entry: Mapping[str, Any]) -> None:
    """Lay out what a stage needs of earlier stages, but for what the one before it has just made."""
    made = {out["path"] for stage in said["stages"].values() for out in stage["outs"]}
    for dep in entry["deps"]:
        above = (dep["path"], *map(str, PurePosixPath(dep["path"]).parents))
        target = tree / dep["path"]
        if made.isdisjoint(above):
            continue
        held = objects.listing(dep["md5"]) if dep["md5"].endswith(FOLDER) else {"": dep["md5"]}
        for name, md5 in held.items():
            copy = target / name if name else target
            if copy.exists():
                continue
            copy.parent.mkdir(parents=True, exist_ok=True)
            source = objects.path(md5)
            if files.md5(source) != md5:
                raise MetashotError(f"{source} is damaged: `metashot audit` says what it is part of")
            shutil.copyfile(source, copy)


def _run(tree: Path, stage: str, cmd: str) -> None:
    """Run the command of a stage, its output to the terminal's standard error."""
    python, *arguments = shlex.split(cmd)
    program = sys.executable if python == "python" else python
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(
        [program, *arguments], cwd=tree, env=environment, stdout=sys.stderr.fileno(), check=False
    )
    if done.returncode:
        raise MetashotError(f"the {stage} stage failed with status {done.returncode} (see above)")


def _compared(objects: Objects, tree: Path, out: Mapping[str, Any]) -> dict[str, tuple[str, str | None]]:
    """The md5 of each file of an output on record, and now."""
    if not out["md5"].endswith(FOLDER):
        recorded = {out["path"]: out["md5"]}
    else:
        recorded = {f"{out['path']}/{name}": md5 for name, md5 in objects.listing(out["md5"]).items()}
    return {
        path: (md5, files.md5(tree / path) if (tree / path).exists() else None)
        for path, md5 in recorded.items()
    }


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What a record has of another device or package."""
    said = []
    for part in ("device", "versions"):
        for name, value in old[part].items():
            if new[part].get(name) != value:
                said.append(f"{name}: {value} on record, {new[part].get(name)} now")
    return said
