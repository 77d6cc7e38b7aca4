"""The pipeline as Prefect flows: DVC decides what has to run and keeps the results, Prefect runs it."""

import os

from metashot import network

network.direct()
# Prefect reads these when it is imported.
for _name, _value in {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",  # also where a profile names no server
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # Prefect's 20 are too few for a busy machine
}.items():
    os.environ.setdefault(_name, _value)
