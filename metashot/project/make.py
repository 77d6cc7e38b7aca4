"""Make one stage, by a DVC process that outlives whoever started it, and stop what is being made.

What a stage prints goes to a log file, not to a pipe: a process that reads along may die, and DVC goes on.
Two makes of a stage take turns, also where the process that started the first is gone.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from metashot.errors import printable, without_credentials
from metashot.project import attempts, dvc, locks
from metashot.project.attempts import StageFailed, StageInterrupted

GRACE = 20.0  # seconds from SIGTERM to SIGKILL; Prefect itself gives a cancelled flow 30
_LOGS = attempts.FOLDER / "logs"

_running: set[int] = set()  # process groups


def make(
    root: Path,
    target: str,
    *,
    pull: bool = False,
    echo: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
) -> None:
    """Make one target, and follow its output.

    Args:
        root: The repository.
        target: The address of a stage.
        pull: Make what the target needs as well, and take from the DVC remote whatever was made elsewhere.
            Without it only the target is made: what it needs must exist.
        echo: Called with each line of output.
        environment: Added to the environment.

    Raises:
        StageFailed: It failed, and would again.
        StageInterrupted: It was preempted or killed; made again, a training resumes from its checkpoint.
    """
    if locks.stopping.is_set():
        raise StageInterrupted("stopped before it was started")
    logs = root / _LOGS / target
    logs.mkdir(parents=True, exist_ok=True)
    before = attempts.read_status(root, target)
    options = ["--pull"] if pull else ["--single-item"]
    if before and before.state == "outdated" and not pull:
        options = []  # what it needs may have changed as well
    with locks.run_lock(root, fcntl.LOCK_SH) as run_lock, (logs / ".lock").open("w") as turn:
        locks.acquire(turn.fileno(), fcntl.LOCK_EX)
        log = logs / f"{1 + len(list(logs.glob('*.log'))):03d}.log"
        started = time.time()
        with log.open("wb") as output:
            process = subprocess.Popen(
                dvc.command(["repro", *options, target]),
                cwd=root,
                env={**dvc.environment(), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
                pass_fds=[turn.fileno(), run_lock],  # DVC holds both, even if this process is killed
            )
    _running.add(process.pid)
    try:
        error = _follow(process, log, echo)
    finally:
        if not _alive(process.pid):  # a stage may outlive DVC
            _running.discard(process.pid)
    if process.returncode == 0:
        return
    if dvc.BUSY in error:
        locks.wait_for_dvc(root, echo)
        make(root, target, pull=pull, echo=echo, environment=environment)
        return
    stages = dvc.ancestry(dvc.graph(root), [target]) if pull else [target]
    statuses = [s for name in stages if (s := attempts.read_status(root, name)) and s.started >= started]
    for status in statuses:
        if status.state == "failed":
            raise StageFailed(status.reason)
    reasons = [status.reason for status in statuses if status.state != "ok"]
    if reasons or locks.stopping.is_set() or process.returncode < 0:
        raise StageInterrupted(f"{(*reasons, 'stopped')[0]} (log: {log})")
    dvc.check_files(root)
    raise StageFailed(f"{error} (log: {log})")


def wait_for_stages(root: Path) -> None:
    """Wait until every stage that `make` started in a repository has ended, whichever process started it."""
    for path in (root / _LOGS).glob("*/.lock"):
        with path.open("w") as turn:
            locks.acquire(turn.fileno(), fcntl.LOCK_EX)


@contextlib.contextmanager
def stopped() -> Iterator[None]:
    """If the block fails or is interrupted, end all processes that `make` started in it.

    Trainings are given `GRACE` seconds to write a checkpoint, and nothing new is started.
    """
    locks.stopping.clear()
    try:
        yield
    except BaseException:
        locks.stopping.set()
        _signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while any(map(_alive, list(_running))) and time.monotonic() < deadline:
            time.sleep(locks.POLL)
        _signal(signal.SIGKILL)
        raise


def stopping() -> bool:
    """Whether `stopped` is ending what runs."""
    return locks.stopping.is_set()


def _follow(process: subprocess.Popen[bytes], log: Path, echo: Callable[[str], None]) -> str:
    """Pass on each line of a growing log until its process ends; return the line that names the error."""
    lines: list[str] = []
    with log.open(encoding="utf-8", errors="replace") as file:
        rest, ended = "", False
        while not ended:
            ended = process.poll() is not None  # polled before the last read, so that it misses nothing
            *complete, rest = (rest + file.read()).split("\n")
            for line in complete:
                lines.append(line)
                echo(printable(without_credentials(line)))
            if not ended:
                time.sleep(locks.POLL)
    return dvc.error_line([*lines, rest])


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
