"""Refuse a wrong params.yaml before anything runs.

The output says the same whenever it is there, so that a changed but valid parameter re-runs nothing else.
"""

from pathlib import Path

from metashot.config import check
from metashot.files import replacing
from stages import PARAMS, run


def main() -> None:
    """Check params.yaml; leave ``data/params.ok``."""
    check.check(PARAMS)
    with replacing(Path("data/params.ok")) as partial:
        partial.write_text("params.yaml is valid\n")


if __name__ == "__main__":
    run(main)
