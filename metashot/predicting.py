"""A registered model on files: a labelled folder or table as the support set, and what is to be told apart.

The model answers in a process of its own, with the code that it carries, so a version answers here as it does
where it is served, however much metashot has changed since.
"""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.table import Table

from metashot.data import Form, archive, images, sentences, sounds, text_table
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


class Files(NamedTuple):
    """Files that a model takes.

    Attributes:
        what: What is in one of them.
        column: Of the table that the model is given.
        suffixes: Of their names.
        formats: The same for a person.
    """

    what: str
    column: str
    suffixes: frozenset[str]
    formats: str


FILES = {  # by kind of samples
    "images": Files("picture", "image", images.SUFFIXES, "png, jpeg, bmp, webp"),
    "sounds": Files("sound", "sound", sounds.SUFFIXES, "wav, flac"),
    "texts": Files(
        "text", "text", text_table.SUFFIXES | {".txt"}, "txt, csv, tsv, json, jsonl, ndjson, parquet"
    ),
}
FILES["sentences"] = FILES["texts"]


class Sample(NamedTuple):
    """What a model is shown or asked.

    Attributes:
        name: Its path; of a text the text itself.
        where: Where it is, for a person who has to mend it.
        value: For the table.
    """

    name: str
    where: str
    value: str


@dataclass(frozen=True)
class Answer:
    """What a model says of a sample.

    Attributes:
        sample: Its path; of a text the text itself.
        label: The most probable class.
        probability: Of that class.
        probabilities: Of every class.
    """

    sample: str
    label: str
    probability: float
    probabilities: dict[str, float]


def predict(root: Path, version: Registered, support: Path, wanted: Sequence[Path]) -> list[Answer]:
    """Tell labelled classes apart in files: one few-shot task.

    Args:
        root: The repository: a sentence encoder may lie beside it.
        version: The model.
        support: The support set: a folder of class folders, or a table of texts with their labels.
        wanted: Files, and folders of them, searched to the bottom. Texts are the lines of a ``.txt`` file, or
            a table's column ``text``.

    Returns:
        An answer for each file, in order of their paths within what was named, or for each text.

    Raises:
        MetashotError: The model takes no files, there is nothing to learn from or to answer, a file is none
            that the model takes, or the model cannot tell so many classes apart.
    """
    kind = taken(version)
    if kind == FILES["texts"]:
        shown = labelled_texts(support)
        asked = [text for file in named(wanted, kind) for text in texts(file)]
    else:
        shown = [(_sample(file), label) for file, label in labelled(support, kind)]
        asked = [_sample(file) for file in named(wanted, kind)]
    samples = [*(sample for sample, _ in shown), *asked]
    table = {
        kind.column: [sample.value for sample in samples],
        "label": [*(label for _, label in shown), *(None for _ in asked)],
    }
    command = [sys.executable, "-c", ANSWER, str(version.folder)]
    # In the model's folder: from here, Python would import this metashot instead of the model's own
    done = subprocess.run(
        command,
        cwd=version.folder,
        env=os.environ | _encoder(root, version),
        input=json.dumps(table),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise MetashotError(
            f"{version.name} could not be loaded ({said[-1]}): `metashot audit {version.name}`"
        )
    found = json.loads(done.stdout.splitlines()[-1])
    if isinstance(found, str):
        raise MetashotError(_of_samples(found, kind.column, samples))
    return [Answer(sample.name, **answer) for sample, answer in zip(asked, found, strict=True)]


def taken(version: Registered) -> Files:
    """Return which files a model takes.

    Raises:
        MetashotError: It takes none, or its files cannot be read.
    """
    kind = _form(version)["kind"]
    if kind not in FILES:
        raise MetashotError(
            f"{version.name} takes {kind} in a table, not files: call it from Python or serve it"
        )
    return FILES[kind]


def _form(version: Registered) -> dict[str, Any]:
    """What a model says of its samples."""
    try:
        about = json.loads((version.folder / "artifacts/model.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MetashotError(
            f"{version.name} could not be read ({error}): `metashot audit {version.name}`"
        ) from None
    form: dict[str, Any] = about.get("form", {"kind": "images"})  # all that there was before models said it
    return form


def _encoder(root: Path, version: Registered) -> dict[str, str]:
    """The environment in which a model finds its sentence encoder from any folder."""
    form = _form(version)
    if form["kind"] != "sentences":
        return {}
    return {sentences.ENCODER: str(sentences.folder(Form.parse(form), root).absolute())}


def labelled(folder: Path, kind: Files) -> list[tuple[Path, str]]:
    """Return the files in a folder of class folders, with their classes.

    Raises:
        MetashotError: It is none, or a class folder has no file of the kind.
    """
    classes = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if not classes:
        raise MetashotError(
            f"{folder} has no class folders: lay out the support set as <class>/<{kind.what}>"
        )
    return [(file, path.name) for path in classes for file in named([path], kind)]


def named(wanted: Sequence[Path], kind: Files) -> list[Path]:
    """Return files: those that are named, and those of the kind in folders that are named.

    Raises:
        MetashotError: A path is not there, or a folder has no file of the kind.
    """
    found: list[Path] = []
    for path in wanted:
        below = (
            p for p in path.rglob("*") if archive.is_sample(p.relative_to(path).as_posix(), kind.suffixes)
        )
        inside = sorted(p for p in below if p.is_file())
        if path.is_file():
            found.append(path)
        elif inside:
            found += inside
        else:
            reason = f"has no {kind.what} ({kind.formats})" if path.is_dir() else "is not there"
            raise MetashotError(f"{path} {reason}")
    return found


def table(answers: Sequence[Answer]) -> Table:
    """Return answers for a terminal."""
    view = Table(box=box.HORIZONTALS, padding=(0, 1))
    view.add_column("sample", overflow="fold")
    view.add_column("class")
    view.add_column("probability", justify="right")
    for answer in answers:
        view.add_row(answer.sample, answer.label, f"{answer.probability:.1%}")
    return view


def labelled_texts(file: Path) -> list[tuple[Sample, str]]:
    """Return the texts of a table with the columns text and label, with their classes.

    Raises:
        MetashotError: It is none.
    """
    if file.suffix.lower() not in text_table.SUFFIXES:
        raise MetashotError(
            f"{file} is no table of texts: give the support set as {text_table.FORMATS} with the columns "
            "text and label"
        )
    rows = text_table.read(_read(file), str(file), ("text", "label"))
    return [(Sample(text, where, text), label.strip()) for where, (text, label) in rows]


def texts(file: Path) -> list[Sample]:
    """Return the texts of a file: the lines of a ``.txt`` file, or a table's column text.

    Raises:
        MetashotError: It has none, or cannot be read.
    """
    rows = text_table.read(_read(file), str(file), ("text",))
    return [Sample(text, where, text) for where, (text,) in rows]


def _sample(file: Path) -> Sample:
    return Sample(str(file), str(file), base64.b64encode(_read(file)).decode())


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise MetashotError(f"{file} cannot be read ({error.strerror})") from None


def _of_samples(message: str, column: str, samples: Sequence[Sample]) -> str:
    """A model's complaint about a row of the table, as one about the sample in it."""
    row = re.match(rf"row (\d+): {column}", message)
    return f"{samples[int(row[1])].where}{message[row.end() :]}" if row else message
