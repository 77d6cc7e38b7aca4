"""The checks of a registered version, in the order in which they are shown.

A check is a function of a `Claim`. It returns what it verified, in a few words; it raises `Differs` where the
claim does not hold, and `Unknown` or `Missing` where that cannot be known here.
"""

from collections.abc import Callable, Mapping

from metashot.audit.checks import data, history, measurements, model
from metashot.audit.claim import Claim

CHECKS: Mapping[str, Callable[[Claim], str]] = {
    "lineage": history.lineage,
    "registry": model.registry,
    "commit": history.commit,
    "code": history.code,
    "bytes": data.stored_bytes,
    "data": data.samples,
    "episodes": data.episodes,
    "model": model.files,
    "parameters": measurements.parameters,
    "records": measurements.records,
    "metrics": measurements.metrics,
    "curves": measurements.curves,
    "card": model.card,
    "one result": history.one_result,
    "signature": model.signature,
}
