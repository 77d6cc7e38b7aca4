"""The status of each stage's latest attempt, and the checkpoints of trainings, below ``.metashot/``.

A stage is named by the address that DVC gives it, such as ``train@glyphs-5w1s-maml``. Nothing here is a
result: the folder may be deleted, and only time is lost.
"""

import fcntl
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Literal

from metashot import output
from metashot.errors import MetashotError, OneLine, Outdated, Preempted
from metashot.files import replacing

FOLDER = Path(".metashot")


class StageFailed(MetashotError):
    """A stage that fails again whenever it is retried: wrong data or parameters, a diverged training."""


class StageInterrupted(OneLine, Exception):
    """A stage that was preempted or killed, and may be retried."""


@dataclass(frozen=True)
class Status:
    """The status of a stage's latest attempt.

    Attributes:
        state: ``outdated`` means that its inputs changed while it ran. ``crashed`` is never written: it is
            read where ``running`` was written and the process is gone.
        reason: One line, empty for running and ok.
        pid: Its process.
        started: Unix time, in seconds.
        seconds: From the start to the last change of status.
        progress: Numbers such as step, steps and train_loss; empty for stages that report none.
    """

    state: Literal["running", "ok", "failed", "preempted", "outdated", "crashed"]
    reason: str = ""
    pid: int = field(default_factory=os.getpid)
    started: float = field(default_factory=time.time)
    seconds: float = 0.0
    progress: Mapping[str, float] = field(default_factory=dict)


def read_status(root: Path, address: str) -> Status | None:
    """Return the status of the latest attempt of the stage ``address``; None if there was none."""
    status = _read(root, address)
    if status and status.state == "running" and not _held(_path(root, address, "lock")):
        # It may have ended between the two checks.
        status = _read(root, address) or status
        if status.state == "running":
            return replace(status, state="crashed", reason="killed without reporting why")
    return status


class Attempt:
    """This process's attempt at a stage, as a with-block that records its status and holds its lock.

    A second process of the same stage waits until the first has ended: when DVC is killed its stage goes on
    alone, and must not write the same outputs as the next attempt at the same time.
    """

    def __init__(self, root: Path, address: str) -> None:
        self.root, self.address = root, address

    def __enter__(self) -> "Attempt":
        path = _path(self.root, self.address, "lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = path.open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = _read(self.root, self.address)
            holder = f"process {other.pid}" if other else "another process"
            output.say(f"{self.address}: waiting for {holder}, which is still making it", err=True)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._status = Status("running")
        self._write(self._status)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._write(self._status, state="ok")
        else:
            reason = str(error) if isinstance(error, MetashotError | Preempted) else _line(error)
            stopped = "outdated" if isinstance(error, Outdated) else "preempted"
            state = stopped if isinstance(error, Preempted) else "failed"
            self._write(self._status, state=state, reason=reason)
        self._lock.close()

    def tell(self, progress: Mapping[str, float]) -> None:
        """Record how far the stage is."""
        self._status = replace(self._status, progress=dict(progress))
        self._write(self._status)

    def checkpoint(self, key: str) -> Path:
        """Return the path of the checkpoint with ``key``; remove this stage's checkpoints of other keys."""
        folder = self.root / FOLDER / "checkpoints" / self.address
        path = folder / f"{key}.pt"
        for other in folder.glob("*"):
            if other != path:
                other.unlink()
        return path

    def _write(self, status: Status, **changes: str) -> None:
        values = asdict(status) | {"seconds": time.time() - status.started} | changes
        # A full disk must not end a stage that has nothing else to write.
        with suppress(OSError, MetashotError), replacing(_path(self.root, self.address, "json")) as partial:
            partial.write_text(json.dumps(values) + "\n")


def _path(root: Path, address: str, kind: str) -> Path:
    return root / FOLDER / "stages" / f"{address}.{kind}"


def _read(root: Path, address: str) -> Status | None:
    try:
        return Status(**json.loads(_path(root, address, "json").read_text()))
    except (FileNotFoundError, ValueError):  # incomplete after a loss of power
        return None


def _held(lock: Path) -> bool:
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _line(error: BaseException) -> str:
    """Return type and message of an error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
