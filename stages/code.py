"""Stage code: list the modules and packages that every other stage runs, in a file for each cell."""

from pathlib import Path

from metashot.config.cells import files
from metashot.files import replacing
from metashot.project.closure import FOLDER
from stages import run


def main() -> None:
    """Write data/code. Each stage depends on its own file there, and is made again when that changes."""
    with replacing(Path(FOLDER)) as partial:
        for path, content in files(Path()).items():
            file = partial / Path(path).relative_to(FOLDER)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)


if __name__ == "__main__":
    run(main)
