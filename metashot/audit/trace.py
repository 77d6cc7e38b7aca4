"""The origin of a registered version on one page, from the lineage its run carries."""

from dataclasses import dataclass
from typing import Any

from metashot.lineage.document import Document
from metashot.registry.tracking import COMMIT, DECISION, PUBLISHER
from metashot.registry.versions import Registered


@dataclass(frozen=True)
class Trace:
    """Everything known about a version: its MLflow entry and its lineage.

    Attributes:
        version: ``<model>/<number>``.
        aliases: Those that point to it.
        registered: When, in Unix ms.
        publisher: Who published it, where, with which metashot.
        commit: The commit whose dvc.lock has it.
        decision: Digest of the decision that made it champion.
        run: MLflow's id of the run.
        lineage: Its lineage.
    """

    version: str
    aliases: list[str]
    registered: int
    publisher: str | None
    commit: str | None
    decision: str | None
    run: str
    lineage: Document

    @property
    def written(self) -> dict[str, Any]:
        """The trace for `json.dump`."""
        return {**vars(self), "lineage": self.lineage.written}


def trace(version: Registered) -> Trace:
    """Return the trace of a version.

    Raises:
        MetashotError: Its run carries no lineage, or not one that metashot writes.
    """
    tags = version.entry.tags
    return Trace(
        version=version.name,
        aliases=list(version.aliases),
        registered=version.entry.creation_timestamp,
        publisher=tags.get(PUBLISHER),
        commit=tags.get(COMMIT),
        decision=tags.get(DECISION),
        run=version.entry.run_id,
        lineage=version.lineage,
    )
