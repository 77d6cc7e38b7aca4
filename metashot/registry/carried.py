"""The files of a registered model.

Every file follows from the result's lineage, one state of metashot's code, and the ids that MLflow gave the
model, and from nothing else: `publish` writes the files, and `audit` makes them anew and compares them whole.

The code is one zip, from which Python imports without writing anything beside it. In the zip the package is
called by its digest: models with different code can be loaded into one process, an installed metashot beside.
"""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

from metashot import untrusted
from metashot.data.encoders import CARRIED, FOLDER
from metashot.errors import MetashotError
from metashot.files import digest
from metashot.lineage.document import Document
from metashot.lineage.lockfile import Cell
from metashot.project import closure

PACKAGE = Path(__file__).parents[1]
LOCK = "requirements.lock"
ARTIFACTS = "artifacts"  # the folder of the files that DVC keeps
ENCODER = f"{ARTIFACTS}/{FOLDER}/"  # the beginning of the names of an encoder's files, where it is carried
ZIP, MLMODEL = "code.zip", "MLmodel"
PACKAGES = "requirements.txt", "conda.yaml", "python_env.yaml"
META = "registered_model_meta"  # MLflow writes it whenever a model is loaded from its registry
RESULT, CODE = "metashot.result", "metashot.code"
Files = dict[str, bytes]  # content by name
IMPORT = re.compile(rb"^([ \t]*(?:from|import)[ \t]+)metashot\b", re.MULTILINE)
ANSWER = [  # of answers alone: tables are checked by the model, which says more than MLflow
    {"type": "string", "name": "label", "required": True},
    {"type": "double", "name": "probability", "required": True},
    {"type": "map", "values": {"type": "double"}, "name": "probabilities", "required": True},
]


def parts(kind: str, cell: Cell) -> dict[str, list[str]]:
    """Return what a model uses of each catalogue: its kind of samples, its method and its backbones."""
    return {"kind": [kind], "method": [cell.method], "backbone": cell.backbones(kind)}


class Earlier(MetashotError):
    """A model registered by an earlier metashot, with another layout."""


@dataclass(frozen=True)
class Code:
    """The code and the packages that a model carries.

    Attributes:
        files: Content of each module, by path in the package.
        requirements: Pinned packages.
    """

    files: Mapping[str, bytes]
    requirements: Sequence[str]

    @classmethod
    def of(cls, read: Mapping[str, bytes], parts: closure.Parts, lock: str) -> "Code":
        """Return what a model carries: the modules that loading it runs, and the packages that they import.

        Args:
            read: The modules of a tree, by path in the repository.
            parts: As `parts`.
            lock: The tree's requirements.lock.

        Raises:
            MetashotError: The lock has no version of a package.
        """
        from metashot.registry import pyfunc_model  # imports MLflow, which `tracking` has to set up before

        modules = closure.closure(read, [pyfunc_model.__name__], parts)
        named = closure.versions(closure.packages(modules), lock)
        files = {path.partition("/")[2]: content for path, content in modules.items()}
        return cls(files, [f"{name}=={version}" for name, version in named.items()])

    @classmethod
    def earlier(cls, files: Mapping[str, bytes], project: Mapping[str, Any], kind: str) -> "Code":
        """Return what a model carried when pyproject.toml still listed its code, as patterns and names.

        Args:
            files: The modules of the package, by path in it.
            project: The pyproject.toml.
            kind: Of the samples.

        Raises:
            KeyError: It does not list it.
        """
        listed = project["tool"]["metashot"]["model"]
        pins = [pin.partition(";")[0].strip() for pin in project["project"]["dependencies"]]
        pins = [pin for pin in pins if pin.partition("==")[0] in listed["packages"]]
        optional = project["project"].get("optional-dependencies", {}).get(kind, [])
        chosen = sorted(path for path in files if any(fnmatchcase(path, p) for p in listed["code"]))
        return cls({path: files[path] for path in chosen}, [*pins, *optional])

    @classmethod
    def present(cls, parts: closure.Parts) -> "Code":
        """Return what a model carries when it is registered now.

        Raises:
            MetashotError: The lock of packages does not lie beside the package.
        """
        try:
            lock = PACKAGE.with_name(LOCK).read_text(encoding="utf-8")
        except OSError as error:
            raise MetashotError(
                f"{PACKAGE.with_name(LOCK)} cannot be read ({error.strerror}): it says which packages a "
                "model needs; run metashot from a clone of its repository"
            ) from None
        return cls.of(closure.sources(PACKAGE.parent, [PACKAGE.name]), parts, lock)

    @cached_property
    def digest(self) -> str:
        """Digest of the code and its packages."""
        md5s = {path: hashlib.md5(content).hexdigest() for path, content in self.files.items()}
        return digest({"files": md5s, "requirements": list(self.requirements)})

    @property
    def loader(self) -> str:
        """The module that MLflow imports to load the model, within the package."""
        (path,) = (path for path in self.files if path.rpartition("/")[2] == "pyfunc_model.py")
        return path.removesuffix(".py").replace("/", ".")

    @property
    def package(self) -> str:
        """Name of the package inside the zip."""
        return f"{PACKAGE.name}_{self.digest[:16]}"

    @property
    def zip(self) -> bytes:
        """The modules as one zip, with the same bytes on any machine at any time."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:  # compressors differ
            for path in sorted(self.files):
                entry = zipfile.ZipInfo(f"{self.package}/{path}")  # of 1980
                entry.create_system, entry.external_attr = 3, 0o100644 << 16  # Unix, readable
                archive.writestr(entry, IMPORT.sub(rb"\1" + self.package.encode(), self.files[path]))
        return buffer.getvalue()


def described(code: Code, document: Document, model_id: str, run_id: str, created: int) -> Files:
    """Return the files of a registered model by name, but for the weights, which DVC has.

    Args:
        code: What it carries.
        document: The lineage of its result.
        model_id: Of MLflow's logged model.
        run_id: Of the run that shows the result.
        created: When MLflow made the logged model, in ms.
    """
    python, pins = document.training.versions["python"], code.requirements
    numbers = dict(pin.split("==") for pin in pins)
    conda = ["channels:", "- conda-forge", "dependencies:", f"- python={python}", "- pip", "- pip:"]
    environment = [f"python: {python}", "build_dependencies:", "- pip", "- setuptools", "- wheel"]
    lines = (
        list(pins),
        [*conda, *(f"  - {pin}" for pin in pins), "name: mlflow-env"],
        [*environment, "dependencies:", "- -r requirements.txt"],
    )
    texts = {n: "".join(f"{line}\n" for line in held) for n, held in zip(PACKAGES, lines, strict=True)}
    flavor = {
        "loader_module": f"{code.package}.{code.loader}",
        "code": ZIP,
        "data": ARTIFACTS,
        "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
        "python_version": python,
    }
    about = {
        "flavors": {"python_function": flavor},
        "metadata": {RESULT: document.result, CODE: code.digest},
        "mlflow_version": numbers["mlflow"],
        "model_id": model_id,
        "model_uuid": model_id,
        "run_id": run_id,
        "signature": {"inputs": None, "outputs": json.dumps(ANSWER), "params": None},
        "utc_time_created": f"{datetime.fromtimestamp(created / 1000, UTC):%Y-%m-%d %H:%M:%S.%f}",
    }
    texts[MLMODEL] = json.dumps(about, indent=2) + "\n"  # which is YAML as well
    return {ZIP: code.zip, **{name: text.encode() for name, text in texts.items()}}


def encoder(document: Document, paths: Mapping[str, Path]) -> dict[str, str]:
    """Return the md5 of each file of the encoder that a model carries; none of one that is too large.

    Args:
        document: The lineage of its result.
        paths: The path of each file of the encoder, as `Document.encoder` names it.
    """
    size = sum(path.stat().st_size for path in paths.values())
    return document.encoder if size <= CARRIED else {}


def meta(name: str, version: str) -> bytes:
    """Return the file that MLflow writes into a model's folder when it is loaded by name and version.

    It lies there from the beginning, so that loading adds no file.
    """
    return f"model_name: {name}\nmodel_version: '{version}'\n".encode()


def metas(name: str, version: str) -> set[bytes]:
    """Return every content MLflow gives that file: loaded by version, by alias, or by model id."""
    by_alias = f"model_name: {name}\nmodel_version: {version}\n".encode()
    return {meta(name, version), by_alias, b"model_name: null\nmodel_version: null\n"}


def sizes(folder: Path, weights: Iterable[str]) -> dict[str, int]:
    """Return the size of each file of a registered model, after checking the names.

    Args:
        folder: Of the model.
        weights: The names of the files that DVC has.

    Raises:
        Earlier: It is of an earlier metashot.
        Refused: A file is missing, another is there, or one is not a plain file.
        OSError: It cannot be read.
    """
    held = untrusted.listing(folder)
    if ZIP not in held and any(name.startswith("code/") for name in held):
        raise Earlier(
            "registered by an earlier metashot, with its code as single files: `metashot publish` registers "
            "present results again; for all, make MLflow anew (docs/lineage.md, Rebuilding)"
        )
    names = {ZIP, MLMODEL, META, *PACKAGES, *(f"{ARTIFACTS}/{name}" for name in weights)}
    if differing := sorted(names ^ set(held)):
        problem = "lacks" if differing[0] in names else "has a file of its own:"
        raise untrusted.Refused(f"it {problem} {differing[0]!a}")
    return held


def files_digest(files: Mapping[str, bytes], weights: Mapping[str, str]) -> str:
    """Return the digest of all files of a registered model.

    Args:
        files: As `described`.
        weights: The md5 of each file that DVC has, by name.
    """
    md5s = {f"{ARTIFACTS}/{name}": md5 for name, md5 in weights.items()}
    return digest(md5s | {name: hashlib.md5(content).hexdigest() for name, content in files.items()})
