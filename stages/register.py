"""Compare the methods of one data set and setting, and show and register them in MLflow."""

from pathlib import Path

from metashot.lineage.lockfile import Lock
from metashot.output import say
from metashot.results.cards import write_report
from metashot.results.compare import compare
from stages import read_params, run


def main(dataset: str, setting: str) -> None:
    """Write reports/<data set>-<setting>.json and .png, and publish."""
    root = Path.cwd()
    methods = read_params("methods", list[str])
    write_report(compare(Lock(root), dataset, setting, methods), root / "reports")

    from metashot.registry import publish  # slow to import

    for published in publish.publish(root, [(dataset, setting)], methods):
        say(published)


if __name__ == "__main__":
    run(main)
