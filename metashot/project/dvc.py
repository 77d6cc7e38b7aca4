"""DVC as a process, which nothing else starts. ``python -m metashot.project.dvc repro`` is DVC that waits.

Every start waits for DVC's lock, so that a finished stage is never thrown away because somebody looked at the
repository meanwhile. DVC does not wait for the paths of a stage that another DVC runs, and gives up ("is
busy"): so whole runs (`run`, `replace`) go one at a time, single stages (`make`) only while there is none of
these, and what finds a path busy all the same is started again. What a stage says goes to a file: a process
that reads along may die, and DVC goes on.
"""

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from metashot import plain_yaml
from metashot.errors import MetashotError, OneLine, printable, without_credentials
from metashot.output import prepare, say
from metashot.project import attempts, entries
from metashot.project.declared import PARAMS, contents

Graph = dict[str, set[str]]

_BUSY = "is busy, it is being blocked by"  # DVC's words
GRACE = 20.0  # seconds from SIGTERM to SIGKILL; Prefect itself gives a cancelled flow 30
POLL = 0.2  # seconds between looks at a stage's log
_NODE = re.compile(r'^"(?P<node>[^"]+)";$')
_EDGE = re.compile(r'^"(?P<needed>[^"]+)" -> "(?P<node>[^"]+)";$')

_running: set[int] = set()  # process groups
_stopping = threading.Event()


class StageFailed(MetashotError):
    """A stage that fails again whenever it is tried again: wrong data or parameters, a diverged training."""


class StageInterrupted(OneLine, Exception):
    """A stage that was preempted or killed, and may be tried again."""


def run(root: Path, *arguments: str) -> int:
    """Run DVC in the terminal it is called from, once no other run is under way; return its exit status."""
    with _alone(root) as lock:
        return subprocess.run(
            _command(arguments), cwd=root, env=_environment(), pass_fds=[lock], check=False
        ).returncode


def replace(root: Path, *arguments: str) -> NoReturn:
    """Become DVC, once no other run is under way.

    Raises:
        MetashotError: params.yaml is not one that may be given to DVC.
    """
    with _alone(root) as lock:
        os.set_inheritable(lock, True)  # DVC holds it until it ends
        os.chdir(root)
        os.execve(sys.executable, _command(arguments), _environment())


def wait_for_run(root: Path) -> None:
    """Wait until no whole run of a repository is under way."""
    with _lock(root, fcntl.LOCK_SH):
        pass


def output(root: Path, *arguments: str) -> str:
    """Return what a DVC command prints.

    Raises:
        MetashotError: It failed.
    """
    _check_params(root)
    done = subprocess.run(
        _command(arguments),
        cwd=root,
        env=_environment(),
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
    )
    if done.returncode and _BUSY in done.stderr:
        _wait_for_others(root, partial(say, err=True))
        return output(root, *arguments)
    if done.returncode:
        _check_files(root)
        raise MetashotError(f"dvc {' '.join(arguments)}: {_mistake(done.stderr.splitlines())}")
    return done.stdout


def graph(root: Path) -> Graph:
    """Return every stage of dvc.yaml by its address, with the addresses it needs directly.

    Raises:
        MetashotError: DVC cannot read the pipeline.
    """
    found: Graph = {}
    for line in output(root, "dag", "--dot").splitlines():
        if edge := _EDGE.match(line):
            found.setdefault(edge["node"], set()).add(edge["needed"])
            found.setdefault(edge["needed"], set())
        elif node := _NODE.match(line):
            found.setdefault(node["node"], set())
    stages = {name for name in found if not name.endswith(".dvc")}  # files under DVC's care need no work
    return {name: found[name] & stages for name in found if name in stages}


def ancestry(graph: Graph, targets: Sequence[str]) -> Graph:
    """Return the part of a graph that targets stand on, and the targets, in an order they can be made in.

    Raises:
        MetashotError: There is no such target.
    """
    found: Graph = {}

    def visit(name: str) -> None:
        if name in found:
            return
        if name not in graph:
            raise MetashotError(f"dvc.yaml has no stage {name}: `dvc stage list --names-only` lists them")
        for needed in sorted(graph[name], key=list(graph).index):
            visit(needed)
        found[name] = graph[name]

    for target in targets:
        visit(target)
    return found


def pools(root: Path) -> dict[str, str]:
    """Return the work pools that stages ask for, as ``meta: {pool: ...}`` in dvc.yaml, by address.

    Raises:
        MetashotError: DVC cannot read the pipeline.
    """
    stages = graph(root)
    written = contents(root / "dvc.yaml")["stages"]
    asked = {name: (stage.get("meta") or {}).get("pool") for name, stage in written.items()}
    return {name: pool for name in stages if (pool := asked[name.partition("@")[0]])}


def status(root: Path, *targets: str) -> dict[str, list[Any]]:
    """Return what ``dvc status --json`` says: the stages that are not up to date, and why.

    Raises:
        MetashotError: DVC cannot read the pipeline.
    """
    said: dict[str, list[Any]] = json.loads(output(root, "status", "--json", *targets))
    return said


def make(
    root: Path,
    target: str,
    *,
    pull: bool = False,
    echo: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
) -> None:
    """Make one target, and follow what it says.

    Two makes of a target take turns, also where the process that started the first is gone.

    Args:
        root: The repository.
        target: The address of a stage.
        pull: Make what the target needs as well, and take from the DVC remote whatever was made elsewhere.
            Without it only the target is made: what it needs must be there.
        echo: Called with each line of output.
        environment: Added to the environment.

    Raises:
        StageFailed: It failed, and would again.
        StageInterrupted: It was preempted or killed; made again, a training goes on from its checkpoint.
    """
    if _stopping.is_set():
        raise StageInterrupted("stopped before it was started")
    logs = root / attempts.FOLDER / "logs" / target
    logs.mkdir(parents=True, exist_ok=True)
    before = attempts.read_status(root, target)
    options = ["--pull"] if pull else ["--single-item"]
    if before and before.state == "outdated" and not pull:
        options = []  # what it needs may have changed as well
    with _lock(root, fcntl.LOCK_SH) as shared, (logs / ".lock").open("w") as lock:
        _take(lock.fileno(), fcntl.LOCK_EX)
        log = logs / f"{1 + len(list(logs.glob('*.log'))):03d}.log"
        started = time.time()
        with log.open("wb") as output:
            process = subprocess.Popen(
                _command(["repro", *options, target]),
                cwd=root,
                env={**_environment(), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
                pass_fds=[lock.fileno(), shared],  # DVC holds the turn, however its parent ends
            )
    _running.add(process.pid)
    try:
        said = _follow(process, log, echo)
    finally:
        if not _alive(process.pid):  # a stage may outlive DVC
            _running.discard(process.pid)
    if process.returncode == 0:
        return
    if _BUSY in said:
        _wait_for_others(root, echo)
        make(root, target, pull=pull, echo=echo, environment=environment)
        return
    stages = ancestry(graph(root), [target]) if pull else [target]
    statuses = [s for name in stages if (s := attempts.read_status(root, name)) and s.started >= started]
    for status in statuses:
        if status.state == "failed":
            raise StageFailed(status.reason)
    if _stopping.is_set() or process.returncode < 0 or any(s.state != "ok" for s in statuses):
        reasons = [s.reason for s in statuses if s.state != "ok"]
        raise StageInterrupted(f"{(*reasons, 'stopped')[0]} (log: {log})")
    _check_files(root)
    raise StageFailed(f"{said} (log: {log})")


def wait_for_stages(root: Path) -> None:
    """Wait until nothing runs any more that `make` started in a repository, in this process or a dead one."""
    for turn in (root / attempts.FOLDER / "logs").glob("*/.lock"):
        with turn.open("w") as lock:
            _take(lock.fileno(), fcntl.LOCK_EX)


def push(root: Path, *targets: str) -> None:
    """Send what targets made, and under which inputs, to the DVC remote.

    Raises:
        MetashotError: There is no remote, or it cannot be reached.
    """
    output(root, "push", "--run-cache", *targets)


@contextlib.contextmanager
def stopped() -> Iterator[None]:
    """If the block fails or is interrupted, end all that `make` started in it, its children as well.

    A training is given time to write a checkpoint, and nothing new is started.
    """
    _stopping.clear()
    try:
        yield
    except BaseException:
        _stopping.set()
        _signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while any(map(_alive, list(_running))) and time.monotonic() < deadline:
            time.sleep(POLL)
        _signal(signal.SIGKILL)
        raise


def stopping() -> bool:
    """Whether `stopped` is ending what runs."""
    return _stopping.is_set()


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]


def _environment() -> dict[str, str]:
    """This interpreter's ``python`` first: stages are run by it."""
    here = str(Path(sys.executable).parent)
    path = os.pathsep.join([here, os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"}


def _check_params(root: Path) -> None:
    """Raise a MetashotError for a params.yaml that DVC itself would not survive."""
    if (root / PARAMS).exists():
        contents(root / PARAMS)


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[int]:
    """A lock that nothing of ours runs stages beside, and no DVC that somebody has started before."""
    _check_params(root)
    with _lock(root, fcntl.LOCK_EX) as lock:
        _wait_for_others(root, partial(say, err=True))
        yield lock


@contextlib.contextmanager
def _lock(root: Path, kind: int) -> Iterator[int]:
    """The lock of runs: exclusive for a whole one, shared for a stage. It ends with the process."""
    path = root / attempts.FOLDER / "runs.lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            say(_waiting(_others(root)), err=True)
            _take(file.fileno(), kind)
        yield file.fileno()


def _take(lock: int, kind: int) -> None:
    """Wait for a lock, open to signals and to `stopped` meanwhile."""
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if _stopping.is_set():
                raise StageInterrupted("stopped while another process made the same") from None
            time.sleep(POLL)
        else:
            return


def _wait_for_others(root: Path, echo: Callable[[str], None]) -> None:
    """Wait until no DVC holds the paths of a stage that it runs."""
    if others := _others(root):
        echo(_waiting(others))
    while _others(root):
        if _stopping.is_set():
            raise StageInterrupted("stopped while it waited for another process")
        time.sleep(POLL)


def _others(root: Path) -> dict[int, str]:
    """The DVC processes that hold paths of a stage, and their commands; what the dead hold is given up."""
    path = root / ".dvc/tmp/rwlock"
    with contextlib.suppress(FileNotFoundError), path.with_name("rwlock.lock").open("a") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # as DVC does whenever it reads or writes the file
        try:
            held = json.loads(path.read_text() or "{}")
        except ValueError:
            raise MetashotError(f"{path} is damaged: delete it once no DVC runs here") from None
        readers = {
            at: [info for info in infos if _is_dvc(info)] for at, infos in held.get("read", {}).items()
        }
        writers = {at: info for at, info in held.get("write", {}).items() if _is_dvc(info)}
        alive = {"write": writers, "read": {at: infos for at, infos in readers.items() if infos}}
        if alive != held:
            path.write_text(json.dumps(alive))
        infos = [*alive["write"].values(), *(info for infos in alive["read"].values() for info in infos)]
        return {info["pid"]: info["cmd"] for info in infos}
    return {}


def _is_dvc(info: Mapping[str, Any]) -> bool:
    """Whether the process that DVC noted down is alive, and its number not another's by now."""
    try:
        words = Path(f"/proc/{info['pid']}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"dvc" in map(os.path.basename, words)


def _waiting(others: Mapping[int, str]) -> str:
    whom = " and ".join(f"process {pid} ({' '.join(command.split()[1:])})" for pid, command in others.items())
    return f"waits for {whom or 'another run'}, which makes stages of this repository"


def _follow(process: subprocess.Popen[bytes], log: Path, echo: Callable[[str], None]) -> str:
    """Hand on each line of a growing log until its process ends; return DVC's word on a failure."""
    lines: list[str] = []
    with log.open(encoding="utf-8", errors="replace") as file:
        rest, ended = "", False
        while not ended:
            ended = process.poll() is not None  # looked at before the last read, which then misses nothing
            *whole, rest = (rest + file.read()).split("\n")
            for line in whole:
                lines.append(line)
                echo(printable(without_credentials(line)))
            if not ended:
                time.sleep(POLL)
    return _mistake([*lines, rest])


def _check_files(root: Path) -> None:
    """Raise a MetashotError where one of the files that people edit or merge cannot be read."""
    for name in ("dvc.yaml", "params.yaml"):
        if (root / name).exists():
            contents(root / name)
    for path in root.glob("pyproject.toml"):
        plain_yaml.check_merged(path.read_text(encoding="utf-8", errors="replace"), str(path))
    if (root / "dvc.lock").exists():
        entries.entries(entries.whole(root / "dvc.lock"), str(root / "dvc.lock"))


def _mistake(lines: Sequence[str]) -> str:
    """The line of DVC's output that says what is wrong."""
    wrong = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (wrong or [line for line in lines if line.strip()] or ["it said nothing"])[-1]


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _signal(number: signal.Signals) -> None:
    for group in list(_running):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)


if __name__ == "__main__":
    prepare()
    try:
        replace(Path(), *sys.argv[1:])
    except MetashotError as error:
        sys.exit(f"error: {error}")
