"""The evidence of an audit."""

from pathlib import Path

from metashot.audit.decisions import Decisions
from metashot.audit.held import Held, Memory
from metashot.audit.trees import Trees


class Evidence:
    """The evidence of an audit: stored bytes, trees of commits, decisions of the gate.

    Args:
        root: The repository.
        memory: What earlier audits computed; extended.

    Raises:
        MetashotError: Git fails, or the dvc.lock of the workspace cannot be read.
    """

    def __init__(self, root: Path, memory: Memory) -> None:
        self.held = Held(root, memory)
        self.trees = Trees(self.held)
        self.decisions = Decisions(self.held, self.trees)
