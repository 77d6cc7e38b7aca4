"""Compare the methods of one data set and setting, and show and register them in MLflow."""

from pathlib import Path

from metashot.cards import write_report
from metashot.compare import compare
from metashot.lineage import Lock
from metashot.output import say
from stages import read_params, run


def main(dataset: str, setting: str) -> None:
    """Write reports/<data set>-<setting>.json and .png, and publish."""
    root = Path.cwd()
    methods = read_params("methods", list[str])
    write_report(compare(Lock(root), dataset, setting, methods), root / "reports")

    from metashot import publishing  # slow to import

    for published in publishing.publish(root, [(dataset, setting)], methods):
        say(published)


if __name__ == "__main__":
    run(main)
