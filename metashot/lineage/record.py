"""What a computation leaves beside its result for those who audit it: a record and a journal.

Both hold clock times, so nothing that is hashed into a later stage may depend on them.
"""

import hashlib
import json
import platform
import resource
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from metashot.files import md5
from metashot.learning.models import runtime
from metashot.project import code, git

PACKAGES = ("metashot", "torch", "numpy", "pyarrow")
NAMED = 20  # other files of a dirty tree


class Record:
    """Collects what happened in one stage, from its construction to `save`."""

    def __init__(
        self, stage: str, device: torch.device, params: Mapping[str, Any], inputs: list[Path]
    ) -> None:
        self.started = time.time()
        tree, self.patch = git.state(Path()), b""
        if tree["commit"] and tree["dirty"]:
            self.patch, others = git.diff(Path())
            tree["others"] = {"count": len(others), "names": others[:NAMED]}
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
            "code": code.loaded(),
            "git": tree,
            "started": self.started,
        }

    @property
    def key(self) -> str:
        """Digest of everything that determines the bits that come out."""
        determining = {name: self.facts[name] for name in ("params", "inputs", "versions", "device", "code")}
        return hashlib.sha256(json.dumps(determining, sort_keys=True).encode()).hexdigest()

    def save(self, directory: Path, journal: Sequence[Mapping[str, Any]] = (), **facts: Any) -> None:
        """Write record.json, ``facts`` added; points as journal.jsonl; changed code as a patch."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
        spent = {"seconds": time.time() - self.started, "peak_memory_mb": peak}
        (directory / "record.json").write_text(json.dumps({**self.facts, **spent, **facts}, indent=2) + "\n")
        if self.patch:
            (directory / git.PATCH).write_bytes(self.patch)
        if journal:
            lines = (json.dumps(point) + "\n" for point in journal)
            (directory / "journal.jsonl").write_text("".join(lines))
