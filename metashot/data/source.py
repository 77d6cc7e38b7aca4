"""What a data set's module `metashot.data.<dataset>` offers to the download and preprocess stages."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from metashot.data import Split
from metashot.errors import MetashotError


class Params(Protocol):
    """The parameters every source has, beside its own."""

    @property
    def image_size(self) -> int:
        """Height and width of the pictures in pixels."""

    @property
    def rotations(self) -> bool:
        """Whether the pictures turned by 90, 180 and 270 degrees are classes of their own."""


class Source(Protocol):
    """A module with the archives of one data set: black ink on white, `…/<superclass>/<class>/<name>.png`."""

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
