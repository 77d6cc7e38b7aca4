"""One run at a time: the lock that runs of this repository share, and the locks of other DVC processes.

DVC does not wait for the paths of a stage that another DVC runs, and gives up ("is busy"). So whole runs take
the lock of runs exclusively, single stages share it, and both wait for any DVC that somebody started by hand.
"""

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from metashot.errors import MetashotError
from metashot.output import say
from metashot.project.attempts import FOLDER, StageInterrupted

POLL = 0.2  # seconds between looks at a lock, or at a stage's log

stopping = threading.Event()  # set when this process is to end: whoever waits for a lock gives up


@contextlib.contextmanager
def exclusive(root: Path) -> Iterator[int]:
    """Keep every other run out, once those under way have ended; yield the file descriptor of the lock.

    The lock is held until all processes that inherited the descriptor have ended.
    """
    with run_lock(root, fcntl.LOCK_EX) as lock:
        wait_for_dvc(root, partial(say, err=True))
        yield lock


def wait_for_run(root: Path) -> None:
    """Wait until no whole run of a repository is under way."""
    with run_lock(root, fcntl.LOCK_SH):
        pass


@contextlib.contextmanager
def run_lock(root: Path, operation: int) -> Iterator[int]:
    """Hold the lock of runs and yield its file descriptor.

    Args:
        root: The repository.
        operation: ``fcntl.LOCK_EX`` for a whole run, ``fcntl.LOCK_SH`` for a single stage.
    """
    path = root / FOLDER / "runs.lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            say(_waiting_line(busy_processes(root)), err=True)
            acquire(file.fileno(), operation)
        yield file.fileno()


def acquire(lock: int, operation: int) -> None:
    """Wait for a lock by polling, which lets signal handlers run.

    Raises:
        StageInterrupted: `stopping` was set meanwhile.
    """
    while True:
        try:
            fcntl.flock(lock, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            if stopping.is_set():
                raise StageInterrupted("stopped while another process made the same") from None
            time.sleep(POLL)
        else:
            return


def wait_for_dvc(root: Path, echo: Callable[[str], None]) -> None:
    """Wait until no DVC holds the paths of a stage that it runs; say once who is waited for.

    Raises:
        StageInterrupted: `stopping` was set meanwhile.
    """
    if processes := busy_processes(root):
        echo(_waiting_line(processes))
    while busy_processes(root):
        if stopping.is_set():
            raise StageInterrupted("stopped while it waited for another process")
        time.sleep(POLL)


def busy_processes(root: Path) -> dict[int, str]:
    """Return the DVC processes that hold paths of a stage: process number to command line.

    What dead processes hold is released.

    Raises:
        MetashotError: DVC's file of locks is damaged.
    """
    path = root / ".dvc/tmp/rwlock"
    with contextlib.suppress(FileNotFoundError), path.with_name("rwlock.lock").open("a") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # as DVC does whenever it reads or writes the file
        try:
            held = json.loads(path.read_text() or "{}")
        except ValueError:
            raise MetashotError(f"{path} is damaged: delete it once no DVC runs here") from None
        readers = {
            locked: [holder for holder in holders if _is_dvc(holder)]
            for locked, holders in held.get("read", {}).items()
        }
        writers = {locked: holder for locked, holder in held.get("write", {}).items() if _is_dvc(holder)}
        alive = {
            "write": writers,
            "read": {locked: holders for locked, holders in readers.items() if holders},
        }
        if alive != held:
            path.write_text(json.dumps(alive))
        all_holders = [*writers.values(), *(holder for holders in readers.values() for holder in holders)]
        return {holder["pid"]: holder["cmd"] for holder in all_holders}
    return {}


def _is_dvc(holder: Mapping[str, Any]) -> bool:
    """Whether a process that DVC recorded is alive, and its number not reused by another program."""
    try:
        words = Path(f"/proc/{holder['pid']}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"dvc" in map(os.path.basename, words)


def _waiting_line(processes: Mapping[int, str]) -> str:
    names = [f"process {pid} ({' '.join(command.split()[1:])})" for pid, command in processes.items()]
    return f"waiting for {' and '.join(names) or 'another run'}, which makes stages of this repository"
