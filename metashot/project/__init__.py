"""Git and DVC as processes, and the state of stages."""

from pathlib import Path

from metashot.errors import MetashotError


def find_root(start: Path) -> Path:
    """Return the nearest folder at or above ``start`` that holds a dvc.yaml.

    Raises:
        MetashotError: There is none.
    """
    for folder in (start, *start.parents):
        if (folder / "dvc.yaml").is_file():
            return folder
    raise MetashotError(f"no dvc.yaml in {start} or above it: run metashot inside its repository")
