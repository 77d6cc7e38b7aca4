"""Where a registered version came from, for a person: one page, from the lineage its run carries."""

from typing import Any

from metashot.registry.tracking import COMMIT, DECISION, PUBLISHER
from metashot.registry.versions import Registered


def trace(version: Registered) -> dict[str, Any]:
    """Return all that is known of a version: what MLflow holds of it, and its lineage.

    Raises:
        MetashotError: Its run carries no lineage.
    """
    tags = version.entry.tags
    return {
        "version": version.name,
        "aliases": list(version.aliases),
        "registered": version.entry.creation_timestamp,
        "publisher": tags.get(PUBLISHER),
        "commit": tags.get(COMMIT),
        "decision": tags.get(DECISION),
        "run": version.entry.run_id,
        "lineage": version.lineage,
    }
