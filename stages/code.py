"""Stage code: which modules and packages every other stage runs, a file for each cell."""

from pathlib import Path

from metashot.config.cells import files
from metashot.files import replacing
from metashot.project.closure import FOLDER
from stages import run


def main() -> None:
    """Write data/code: a stage that depends on its file there is made again when its own code changes."""
    with replacing(Path(FOLDER)) as partial:
        for path, content in files(Path()).items():
            file = partial / Path(path).relative_to(FOLDER)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)


if __name__ == "__main__":
    run(main)
