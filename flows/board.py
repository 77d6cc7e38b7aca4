"""A pipeline's progress on the terminal: a live table, or plain lines where there is no terminal."""

import sys
import threading
import time
from pathlib import Path
from types import TracebackType

from rich.live import Live
from rich.table import Table

from metashot import output
from metashot.errors import line
from metashot.formatting import duration
from metashot.project import attempts
from metashot.terminal import Terminal

REFRESH = 0.5  # seconds


class Board:
    """What became of each stage.

    Args:
        root: The repository, whose running stages tell of their progress.
        console: To write to.
    """

    def __init__(self, root: Path, console: Terminal) -> None:
        self.root = root
        self.console = console
        self._stages: dict[str, str] = {}
        self._started: dict[str, float] = {}
        self._ended: dict[str, float] = {}
        self._lock = threading.Lock()
        self._live = Live(get_renderable=self._table, console=console, refresh_per_second=1 / REFRESH)

    def __enter__(self) -> "Board":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def tell(self, stage: str, state: str) -> None:
        """Take note: a stage is ``waiting``, ``running``, ``made``, ``cached`` or ``failed: ...``."""
        state = line(state)
        with self._lock:
            self._stages[stage] = state
            (self._started if state == "running" else self._ended)[stage] = time.monotonic()
        if not self.console.is_terminal and state != "waiting":
            took = "" if state == "running" else f" ({self._took(stage)})"
            try:
                self.console.print(f"{stage}: {state}{took}")
            except (OSError, SystemExit):  # nobody reads it any more, which must not fail the stage
                output.silence(sys.stdout)

    def _took(self, stage: str) -> str:
        return duration(self._ended[stage] - self._started[stage])

    def _table(self) -> Table:
        view = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        with self._lock:
            for stage, state in self._stages.items():
                if state == "waiting":
                    view.add_row(stage, "waiting", "", style="dim")
                elif state == "running":
                    view.add_row(stage, "running", self._progress(stage), style="bold")
                else:
                    view.add_row(stage, state, self._took(stage))
        return view

    def _progress(self, stage: str) -> str:
        """Time so far, and the steps of a training."""
        said = [duration(time.monotonic() - self._started[stage])]
        status = attempts.read_status(self.root, stage)
        if status and status.state == "running" and status.progress:
            said.append("step {step} of {steps}".format_map(status.progress))
            if "val_accuracy" in status.progress:
                said.append(f"validation {status.progress['val_accuracy']:.1%}")
        return ", ".join(said)
