"""What a computation leaves beside its result for those who audit it: a record and a journal.

Both hold clock times, so nothing that is hashed into a later stage may depend on them.
"""

import json
import platform
import resource
import subprocess
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from metashot import runtime
from metashot.files import md5

PACKAGES = ("metashot", "torch", "numpy", "pyarrow")


def git_state(root: Path) -> dict[str, Any]:
    """The commit of HEAD, and whether the tree differs from it.

    Returns:
        ``commit``, None outside a git repository, and ``dirty``: a file that git does not ignore, other than
        dvc.lock, is new or changed.
    """

    def git(*arguments: str) -> str | None:
        done = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    changed = git("status", "--porcelain", "--", ":/", ":(exclude,top)dvc.lock")
    return {"commit": git("rev-parse", "--verify", "--quiet", "HEAD"), "dirty": bool(changed)}


class Record:
    """Collects what happened in one stage, from its construction to `save`."""

    def __init__(
        self, stage: str, device: torch.device, params: Mapping[str, Any], inputs: list[Path]
    ) -> None:
        self.started = time.time()
        self.journal: list[dict[str, Any]] = []
        self.facts: dict[str, Any] = {
            "stage": stage,
            "params": params,
            "inputs": {str(path): {"md5": md5(path), "size": path.stat().st_size} for path in inputs},
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "device": {
                "type": device.type,
                "name": runtime.device_name(device),
                "threads": torch.get_num_threads(),
            },
            "git": git_state(Path()),
            "started": self.started,
        }

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a point of the journal."""
        self.journal.append({"step": step, "time": time.time(), "metrics": metrics})

    def save(self, directory: Path, **facts: Any) -> None:
        """Write record.json, ``facts`` added, and journal.jsonl if there are points."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
        spent = {"seconds": time.time() - self.started, "peak_memory_mb": peak}
        (directory / "record.json").write_text(json.dumps({**self.facts, **spent, **facts}, indent=2) + "\n")
        if self.journal:
            lines = (json.dumps(point) + "\n" for point in self.journal)
            (directory / "journal.jsonl").write_text("".join(lines))
