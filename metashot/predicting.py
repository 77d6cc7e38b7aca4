"""A registered model on picture files: a labelled folder as the support set, and what is to be told apart.

The model answers in a process of its own, with the code that it carries, so a version answers here as it does
where it is served, however much metashot has changed since.
"""

import base64
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table

from metashot.data import archive
from metashot.errors import MetashotError
from metashot.tracking import Registered

ANSWER = """
import json, sys
import mlflow, pandas
from mlflow.exceptions import MlflowException
table = pandas.DataFrame(json.load(sys.stdin))
try:
    found = mlflow.pyfunc.load_model(sys.argv[1]).predict(table).to_dict("records")
except MlflowException as error:
    found = " ".join(str(error).split())
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Answer:
    """What a model says of a picture.

    Attributes:
        file: The picture.
        label: The most probable class.
        probability: Of that class.
        probabilities: Of every class.
    """

    file: str
    label: str
    probability: float
    probabilities: dict[str, float]


def predict(version: Registered, support: Path, wanted: Sequence[Path]) -> list[Answer]:
    """Tell the classes of a labelled folder apart in pictures: one few-shot task.

    Args:
        version: The model.
        support: A folder of class folders, the support set.
        wanted: Pictures, and folders of them, searched to the bottom.

    Returns:
        An answer for each picture, in order of their paths within what was named.

    Raises:
        MetashotError: There is nothing to learn from or to answer, a file is no picture, or the model cannot
            tell so many classes apart.
    """
    shown, asked = labelled(support), pictures(wanted)
    files = [*(file for file, _ in shown), *asked]
    table = {
        "image": [base64.b64encode(_read(file)).decode() for file in files],
        "label": [*(label for _, label in shown), *(None for _ in asked)],
    }
    command = [sys.executable, "-c", ANSWER, str(version.folder)]
    # In the model's folder: from here, Python would import this metashot instead of the model's own
    done = subprocess.run(
        command, cwd=version.folder, input=json.dumps(table), capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise MetashotError(
            f"{version.name} could not be loaded ({said[-1]}): `metashot audit {version.name}`"
        )
    found = json.loads(done.stdout.splitlines()[-1])
    if isinstance(found, str):
        raise MetashotError(_of_files(found, files))
    return [Answer(str(file), **answer) for file, answer in zip(asked, found, strict=True)]


def labelled(folder: Path) -> list[tuple[Path, str]]:
    """Return the pictures of a folder of class folders, with their classes.

    Raises:
        MetashotError: It is none, or a class folder has no picture.
    """
    classes = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if not classes:
        raise MetashotError(f"{folder} has no class folders: lay out the support set as <class>/<picture>")
    return [(file, path.name) for path in classes for file in pictures([path])]


def pictures(wanted: Sequence[Path]) -> list[Path]:
    """Return picture files: those that are named, and those in folders that are named.

    Raises:
        MetashotError: A path is not there, or a folder has no picture.
    """
    found: list[Path] = []
    for path in wanted:
        inside = sorted(p for p in path.rglob("*") if archive.is_picture(p.relative_to(path)) and p.is_file())
        if path.is_file():
            found.append(path)
        elif inside:
            found += inside
        else:
            reason = "has no picture (png, jpeg, bmp, webp)" if path.is_dir() else "is not there"
            raise MetashotError(f"{path} {reason}")
    return found


def table(answers: Sequence[Answer]) -> Table:
    """Return answers for a terminal."""
    view = Table(box=box.HORIZONTALS, padding=(0, 1))
    view.add_column("picture", overflow="fold")
    view.add_column("class")
    view.add_column("probability", justify="right")
    for answer in answers:
        view.add_row(answer.file, answer.label, f"{answer.probability:.1%}")
    return view


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise MetashotError(f"{file} cannot be read ({error.strerror})") from None


def _of_files(message: str, files: Sequence[Path]) -> str:
    """A model's complaint about a row of the table, as one about the file in it."""
    row = re.match(r"row (\d+): image", message)
    return f"{files[int(row[1])]}{message[row.end() :]}" if row else message
