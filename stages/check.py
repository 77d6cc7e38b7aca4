"""Stage check: refuse a wrong params.yaml before anything else runs.

The output is always the same text, so that a parameter that changes and stays valid re-runs nothing else.
"""

from pathlib import Path

from metashot.config import check
from metashot.files import replacing
from stages import PARAMS, run


def main() -> None:
    """Check params.yaml and write ``data/params.ok``."""
    check.check(PARAMS)
    with replacing(Path("data/params.ok")) as partial:
        partial.write_text("params.yaml is valid\n")


if __name__ == "__main__":
    run(main)
