"""Predictions of a registered model on files: a labelled folder or table is the support set.

The model answers in a process of its own, with the code that it carries, so a version answers here as it does
where it is served, however much metashot has changed since.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

from metashot import untrusted
from metashot.config import params
from metashot.data import Form, encoders, label
from metashot.data.files import Read, folders, local, walk
from metashot.data.kinds import KINDS, Encoded, texts
from metashot.data.kinds.base import Use
from metashot.data.sources import text_table
from metashot.errors import MetashotError
from metashot.files import digest
from metashot.registry import carried, tracking
from metashot.registry.tracking import DOWNLOAD
from metashot.registry.versions import Registered

WEIGHTS = "model.json", "model.safetensors"  # of a model, which `metashot.learning.models.methods` writes

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


TEXT = texts.USE.column  # whose files hold many samples


class Sample(NamedTuple):
    """A labelled sample of the support set, or a query.

    Attributes:
        name: Its path; of a text the text itself.
        where: Where it is, for a person who has to mend it.
        content: The bytes of its file, or the text.
    """

    name: str
    where: str
    content: bytes | str

    @property
    def value(self) -> str:
        """The sample as the table holds it."""
        return self.content if isinstance(self.content, str) else base64.b64encode(self.content).decode()


Shown = Sequence[tuple[Sample, str]]  # samples with their classes


@dataclass(frozen=True)
class Answer:
    """The model's answer to a query.

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


def predict(root: Path, version: Registered, shown: Shown, asked: Sequence[Sample]) -> list[Answer]:
    """Classify samples by a labelled support set: one few-shot task.

    Args:
        root: The repository: a sentence encoder may lie beside it.
        version: The model.
        shown: The support set; see `labelled`.
        asked: See `unlabelled`.

    Returns:
        An answer for each sample.

    Raises:
        MetashotError: A sample cannot be read, or the model cannot tell so many classes apart.
    """
    folder, form = _checked(version)
    kind = KINDS[form.kind].USE
    samples = [*(sample for sample, _ in shown), *asked]
    table = {
        kind.column: [sample.value for sample in samples],
        "label": [*(label for _, label in shown), *(None for _ in asked)],
    }
    # -P: nothing is imported from the folder that this happens to run in
    command = [sys.executable, "-P", "-c", ANSWER, str(folder.absolute())]
    done = subprocess.run(
        command,
        env=os.environ | _encoder(root, version, form),
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


def taken(version: Registered) -> Use:
    """Return which files a model takes.

    Raises:
        MetashotError: It takes none, or its files cannot be read.
    """
    kind = _checked(version)[1].kind
    use = KINDS[kind].USE
    if not use.suffixes:
        raise MetashotError(
            f"{version.name} takes {kind} in a table, not files: call it from Python or serve it"
        )
    return use


def _checked(version: Registered) -> tuple[Path, Form]:
    """The folder of a model and its kind of samples, after checking its files against the version.

    What is in the folder is run: nothing in it may have been changed since it was registered.
    """
    try:
        folder = version.folder
        encoder = [name for name in untrusted.listing(folder) if name.startswith(carried.ENCODER)]
        sizes = carried.sizes(folder, [*WEIGHTS, *(name.partition("/")[2] for name in encoder)])
        if sum(sizes.values()) > DOWNLOAD:
            raise untrusted.Refused(f"it has more than {DOWNLOAD:,} bytes")
        md5s = {}
        for name in sizes.keys() - {carried.META}:
            with untrusted.opened(folder, name) as file:
                md5s[name] = hashlib.file_digest(file, "md5").hexdigest()
        named = untrusted.read(folder, carried.META, untrusted.DOCUMENT)
        if digest(md5s) != version.entry.tags.get(tracking.FILES):
            raise untrusted.Refused("its files are not the ones that were registered")
        if named not in carried.metas(version.entry.name, version.entry.version):
            raise untrusted.Refused(f"its {carried.META} names another version")
        about = untrusted.parsed(
            untrusted.read(folder, f"{carried.ARTIFACTS}/model.json", untrusted.DOCUMENT), "model.json"
        )
        return folder, Form.parse(about["form"])
    except carried.Earlier as error:
        raise MetashotError(f"{version.name} was {error}") from None
    except (OSError, LookupError, TypeError, MetashotError) as error:
        raise MetashotError(
            f"{version.name} is not loaded, {error}: `metashot audit {version.name}` says what else is wrong"
        ) from None


def _encoder(root: Path, version: Registered, form: Form) -> dict[str, str]:
    """The environment in which a model that does not carry its encoder finds it from any folder.

    Where that is the repository says, never the model, which may come from elsewhere.
    """
    carries = any(name.startswith(carried.ENCODER) for name in untrusted.listing(version.folder))
    if carries or not isinstance(KINDS[form.kind], Encoded):
        return {}
    dataset = version.entry.name.partition("-")[0]
    packed = root / "data/raw" / dataset / encoders.FOLDER
    place = os.environ.get(encoders.VARIABLE) or (str(packed) if packed.is_dir() else "")
    if not place:
        try:
            place = str(root / params.read(root / "params.yaml", f"data.{dataset}.raw.encoder", str))
        except MetashotError as error:
            raise MetashotError(
                f"{error}: name the encoder's folder there, or in {encoders.VARIABLE}"
            ) from None
    return {encoders.VARIABLE: str(Path(place).absolute())}


def labelled(support: Path, kind: Use, pattern: str = "") -> Shown:
    """Return the support set, as `metashot init` sees it: samples with their classes.

    Args:
        support: A folder of class folders or a zip file of one, or a table of texts with their labels.
        kind: Which files.
        pattern: Where file names say the class and folders do not: as `folders.Raw.label`.

    Raises:
        MetashotError: It is not one, or has what `metashot init` refuses.
    """
    if not support.exists():
        raise MetashotError(f"{support} is not there")
    if kind.column == TEXT:
        return labelled_texts(support)
    try:
        raw = folders.Raw(path=str(support), splits="", md5="", label=pattern)
    except ValueError as error:
        raise MetashotError(f"--{error}") from None
    files = folders.samples(raw, Path(), kind.suffixes)
    return [(_sample(support / name, read), name.rpartition("/")[0]) for name, read in files]


def unlabelled(paths: Sequence[Path], kind: Use) -> list[Sample]:
    """Return the queries: named files, and files in folders and zip files at any depth.

    Texts are the lines of a ``.txt`` file, or a table's column ``text``.

    Raises:
        MetashotError: A path is not there, or has no file of the kind.
    """
    files = {path / name: read for path in paths for path, name, read in _files(path, kind)}
    if kind.column == TEXT:
        return [text for path, read in files.items() for text in texts_in(path, read())]
    return [_sample(path, read) for path, read in files.items()]


def _files(path: Path, kind: Use) -> list[tuple[Path, str, Read]]:
    """Files with the path that was given and their path within it."""
    if path.is_file() and path.suffix.lower() != ".zip":
        return [(path.parent, path.name, walk.reader(path))]
    if not path.exists():
        raise MetashotError(f"{path} is not there")
    if found := local.samples(str(path), Path(), kind.suffixes, allow_empty_folders=True):
        return [(path, name, read) for name, read in found.items()]
    raise MetashotError(f"{path} has no {kind.noun} ({kind.formats})")


def picture(shown: Shown, asked: Sequence[Sample], answers: Sequence[Answer]) -> bytes:
    """Draw answers about pictures: a PNG file."""
    from metashot.results import plots  # slow to import

    support = [(cast(bytes, sample.content), class_) for sample, class_ in shown]
    drawn = [
        (cast(bytes, sample.content), answer.label, answer.probability)
        for sample, answer in zip(asked, answers, strict=True)
    ]
    return plots.answers_plot(support, drawn)


def labelled_texts(file: Path) -> list[tuple[Sample, str]]:
    """Return the texts of a table with the columns text and label, with their classes.

    Raises:
        MetashotError: It is none.
    """
    if file.suffix.lower() not in text_table.SUFFIXES:
        raise MetashotError(
            f"{file} is not a table of texts: give the support set as {text_table.FORMATS} with the columns "
            "text and label"
        )
    rows = text_table.read(walk.reader(file)(), str(file), ("text", "label"))
    return [(Sample(text, where, text), label(class_)) for where, (text, class_) in rows]


def texts_in(file: Path, content: bytes) -> list[Sample]:
    """Return the texts of a file: the lines of a ``.txt`` file, or a table's column text.

    Raises:
        MetashotError: It has none, or cannot be read.
    """
    rows = text_table.read(content, str(file), ("text",))
    return [Sample(text, where, text) for where, (text,) in rows]


def _sample(path: Path, read: Read) -> Sample:
    return Sample(str(path), str(path), read())


def _of_samples(message: str, column: str, samples: Sequence[Sample]) -> str:
    """An error about a row of the table, reworded as one about the sample in it."""
    row = re.match(rf"row (\d+): {column}", message)
    return f"{samples[int(row[1])].where}{message[row.end() :]}" if row else message
