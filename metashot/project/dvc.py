"""DVC as a process. ``python -m metashot.project.dvc repro`` is DVC that waits for other runs.

Every start waits for DVC's own lock, so that a finished stage is never thrown away because somebody looked at
the repository meanwhile. Single stages are made by `metashot.project.make`.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from metashot import plain_yaml
from metashot.errors import MetashotError
from metashot.output import prepare, say
from metashot.project import entries, locks
from metashot.project.declared import PARAMS, contents

Graph = dict[str, set[str]]

# DVC alone knows which options of a remote, such as credentials, mean what to its file system
OPEN_REMOTE = """
import json, sys
from dvc.exceptions import DvcException
from dvc.repo import Repo
try:
    repo = Repo(".")
    if repo.config["core"].get("remote"):
        objects = repo.cloud.get_remote_odb()
        print(json.dumps([objects.fs.fs.to_json(), objects.path]))
except DvcException as error:
    sys.exit(f"ERROR: {error}")
"""

BUSY = "is busy, it is being blocked by"  # DVC's words
_NODE = re.compile(r'^"(?P<stage>[^"]+)";$')
_EDGE = re.compile(r'^"(?P<needed>[^"]+)" -> "(?P<stage>[^"]+)";$')


def run(root: Path, *arguments: str) -> int:
    """Run DVC in the terminal it is called from, once no other run is under way; return its exit status.

    Raises:
        MetashotError: params.yaml could crash DVC.
    """
    _check_params(root)
    with locks.exclusive(root) as lock:
        return subprocess.run(
            command(arguments), cwd=root, env=environment(), pass_fds=[lock], check=False
        ).returncode


def replace(root: Path, *arguments: str) -> NoReturn:
    """Replace this process by DVC, once no other run is under way.

    Raises:
        MetashotError: params.yaml could crash DVC.
    """
    _check_params(root)
    with locks.exclusive(root) as lock:
        os.set_inheritable(lock, True)  # DVC holds it until it ends
        os.chdir(root)
        os.execve(sys.executable, command(arguments), environment())


def output(root: Path, *arguments: str) -> str:
    """Return what a DVC command prints.

    Raises:
        MetashotError: It failed.
    """
    _check_params(root)
    done = _captured(root, command(arguments))
    if done.returncode and BUSY in done.stderr:
        locks.wait_for_dvc(root, partial(say, err=True))
        return output(root, *arguments)
    if done.returncode:
        check_files(root)
        raise MetashotError(f"dvc {' '.join(arguments)}: {error_line(done.stderr.splitlines())}")
    return done.stdout


def graph(root: Path) -> Graph:
    """Return every stage of dvc.yaml by its address, with the addresses it needs directly.

    Raises:
        MetashotError: DVC cannot read the pipeline.
    """
    needs: Graph = {}
    for line in output(root, "dag", "--dot").splitlines():
        if edge := _EDGE.match(line):
            needs.setdefault(edge["stage"], set()).add(edge["needed"])
            needs.setdefault(edge["needed"], set())
        elif node := _NODE.match(line):
            needs.setdefault(node["stage"], set())
    stages = {name for name in needs if not name.endswith(".dvc")}  # files that DVC tracks need no work
    return {name: needs[name] & stages for name in needs if name in stages}


def ancestry(graph: Graph, targets: Sequence[str]) -> Graph:
    """Return the part of a graph that targets need, themselves included, in an order they can be made in.

    Raises:
        MetashotError: There is no such target.
    """
    ordered: Graph = {}

    def visit(name: str) -> None:
        if name in ordered:
            return
        if name not in graph:
            raise MetashotError(f"dvc.yaml has no stage {name}: `dvc stage list --names-only` lists them")
        for needed in sorted(graph[name], key=list(graph).index):
            visit(needed)
        ordered[name] = graph[name]

    for target in targets:
        visit(target)
    return ordered


def pools(root: Path) -> dict[str, str]:
    """Return the work pool of every stage that names one, as ``meta: {pool: ...}`` in dvc.yaml, by address.

    Raises:
        MetashotError: DVC cannot read the pipeline.
    """
    addresses = graph(root)
    stages = contents(root / "dvc.yaml")["stages"]
    pool_of = {name: (stage.get("meta") or {}).get("pool") for name, stage in stages.items()}
    return {address: pool for address in addresses if (pool := pool_of[address.partition("@")[0]])}


def status(root: Path, *targets: str) -> dict[str, list[Any]]:
    """Return what ``dvc status --json`` prints: the stages that are not up to date, and why.

    Raises:
        MetashotError: DVC cannot read the pipeline.
    """
    changes: dict[str, list[Any]] = json.loads(output(root, "status", "--json", *targets))
    return changes


def remote(root: Path) -> tuple[str, str] | None:
    """Return the default remote, if there is one: its file system as fsspec's JSON, its folder of objects.

    The JSON may hold credentials.

    Raises:
        MetashotError: DVC cannot open it.
    """
    done = _captured(root, [sys.executable, "-c", OPEN_REMOTE])
    if done.returncode:
        raise MetashotError(f"the DVC remote cannot be opened: {error_line(done.stderr.splitlines())}")
    if not done.stdout:
        return None
    filesystem, path = json.loads(done.stdout)
    return filesystem, path


def push(root: Path, *targets: str) -> None:
    """Send the outputs of targets, and the run cache, to the DVC remote.

    Raises:
        MetashotError: There is no remote, or it cannot be reached.
    """
    output(root, "push", "--run-cache", *targets)


def command(arguments: Sequence[str]) -> list[str]:
    """Return the command line of DVC."""
    return [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]


def environment() -> dict[str, str]:
    """Return the environment of DVC: this interpreter's ``python`` comes first, for it runs the stages."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"}


def check_files(root: Path) -> None:
    """Raise a MetashotError where one of the files that people edit or merge cannot be read."""
    for name in ("dvc.yaml", "params.yaml"):
        if (root / name).exists():
            contents(root / name)
    for path in root.glob("pyproject.toml"):
        plain_yaml.check_merged(path.read_text(encoding="utf-8", errors="replace"), str(path))
    if (root / "dvc.lock").exists():
        entries.entries(entries.whole(root / "dvc.lock"), str(root / "dvc.lock"))


def error_line(lines: Sequence[str]) -> str:
    """Return the line of DVC's output that names the error."""
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or [line for line in lines if line.strip()] or ["no reason given"])[-1]


def _captured(root: Path, command_line: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """Run a command as DVC runs, and keep what it prints."""
    return subprocess.run(
        command_line,
        cwd=root,
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
    )


def _check_params(root: Path) -> None:
    """Raise a MetashotError for a params.yaml that could crash DVC itself."""
    if (root / PARAMS).exists():
        contents(root / PARAMS)


if __name__ == "__main__":
    prepare()
    try:
        replace(Path(), *sys.argv[1:])
    except MetashotError as error:
        sys.exit(f"error: {error}")
