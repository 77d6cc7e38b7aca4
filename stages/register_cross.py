"""Stage register_cross: publish the tests of models of one data set on the episodes of another."""

from pathlib import Path

from metashot.output import say
from stages import read_params, run


def main(dataset: str, other: str, setting: str) -> None:
    """Publish again: the cross tests ran after the models were published."""
    from metashot.registry import publish  # slow to import

    for published in publish.publish(Path.cwd(), [(dataset, setting)], read_params("methods", list[str])):
        say(published)


if __name__ == "__main__":
    run(main)
