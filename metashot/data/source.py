"""What a data set's module `metashot.data.<dataset>` offers to the download and preprocess stages."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from ruamel.yaml import YAML

from metashot import params
from metashot.data import Split
from metashot.errors import MetashotError
from metashot.files import replacing


class Params(Protocol):
    """The parameters every source has, beside its own."""

    @property
    def image_size(self) -> int:
        """Height and width of the pictures in pixels."""

    @property
    def rotations(self) -> bool:
        """Whether the pictures turned by 90, 180 and 270 degrees are classes of their own."""


class Source(Protocol):
    """A module with the archives of one data set: black ink on white, `…/<superclass>/<class>/<name>`."""

    Raw: type[Any]
    """Frozen dataclass of the section ``data.<dataset>.raw`` of params.yaml: what `download` depends on."""
    Params: type[Any]
    """Frozen dataclass of the section ``data.<dataset>``, of which ``raw`` is one field."""
    ABOUT: Mapping[str, object]
    """source, licence, citation, synthetic."""
    ARCHIVES: tuple[str, ...]
    """File names that `download` leaves in the directory."""

    def download(self, raw: Any, directory: Path) -> None:
        """Make or fetch the archives."""

    def split_of(self, params: Any, superclass: str, name: str) -> Split:
        """Split that the class `<superclass>/<name>` belongs to."""


@runtime_checkable
class Local(Protocol):
    """A source of files on this machine, which may change; its ``Raw`` pins their content as ``md5``."""

    def digest(self, raw: Any, root: Path) -> str:
        """Digest of the files as they are now."""


def source(dataset: str) -> Source:
    """Return the module of a data set that params.yaml names. Raises MetashotError where there is none."""
    name = f"metashot.data.{dataset}"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise MetashotError(f"unknown data set {dataset!r}: there is no metashot/data/{dataset}.py") from None
    if not hasattr(module, "ARCHIVES"):
        raise MetashotError(f"{dataset!r} is no data set: metashot/data/{dataset}.py offers no archives")
    return cast(Source, module)


def is_local(dataset: str) -> bool:
    """Whether a data set comes from files that may change. Others are pinned by code and parameters."""
    return isinstance(source(dataset), Local)


def refresh(root: Path, dataset: str) -> bool:
    """Pin the present content of a data set's files in params.yaml; return whether it is new.

    Every other character of params.yaml stays as it was. A data set that is not local is never new.

    Raises:
        MetashotError: The files are missing or laid out wrongly, or params.yaml is wrong.
    """
    module, path, key = source(dataset), root / "params.yaml", f"data.{dataset}.raw"
    if not isinstance(module, Local):
        return False
    raw = params.read(path, key, module.Raw)
    if (md5 := module.digest(raw, root)) == raw.md5:
        return False
    text = path.read_bytes().decode()
    node = YAML().compose(text)
    for part in (*key.split("."), "md5"):
        node = next(value for name, value in node.value if name.value == part)
    with replacing(path) as partial:
        partial.write_bytes(f'{text[: node.start_mark.index]}"{md5}"{text[node.end_mark.index :]}'.encode())
    return True
