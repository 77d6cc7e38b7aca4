"""A pipeline's progress: a live table on a terminal, plain lines elsewhere."""

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
    """The state of each stage, displayed.

    Args:
        root: The repository, where running stages record their progress.
        console: The terminal, or other output, to write to.
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

    def update(self, stage: str, state: str) -> None:
        """Set a stage's state: ``waiting``, ``running``, ``made``, ``cached`` or ``failed: ...``."""
        state = line(state)
        with self._lock:
            self._stages[stage] = state
            (self._started if state == "running" else self._ended)[stage] = time.monotonic()
        if not self.console.is_terminal and state != "waiting":
            seconds = "" if state == "running" else f" ({self._duration(stage)})"
            try:
                self.console.print(f"{stage}: {state}{seconds}")
            except (OSError, SystemExit):  # the reader is gone, which must not fail the stage
                output.silence(sys.stdout)

    def _duration(self, stage: str) -> str:
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
                    view.add_row(stage, state, self._duration(stage))
        return view

    def _progress(self, stage: str) -> str:
        """Return the time so far, and the steps of a training."""
        parts = [duration(time.monotonic() - self._started[stage])]
        status = attempts.read_status(self.root, stage)
        if status and status.state == "running" and status.progress:
            parts.append("step {step} of {steps}".format_map(status.progress))
            if "val_accuracy" in status.progress:
                parts.append(f"validation {status.progress['val_accuracy']:.1%}")
        return ", ".join(parts)
