"""What a source of data, a module `metashot.data.<source>`, offers to the download and preprocess stages."""

import importlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

from metashot import params
from metashot.data import Form, Key
from metashot.errors import MetashotError
from metashot.files import replacing


class Item(NamedTuple):
    """A sample before it is decoded."""

    key: Key
    read: Callable[[], bytes]
    """Its bytes; MetashotError where they cannot be read. Called from any thread."""
    origin: str
    """Where it lies, for a person who has to mend it."""


class Prepare(Protocol):
    """How samples are made from what was downloaded: parameters that every source has, beside its own."""

    @property
    def rotations(self) -> bool:
        """Whether the samples turned by 90, 180 and 270 degrees are classes of their own."""

    @property
    def repeated(self) -> str:
        """What becomes of a sample that is in two splits: ``refuse`` it all, or ``remove`` one of them."""

    @property
    def disjoint(self) -> bool:
        """Whether the splits have classes of their own."""

    @property
    def form(self) -> Form:
        """What every sample becomes; its ``kind`` names the module with the decoder."""


class Source(Protocol):
    """A module that gets data of one kind, or one data set."""

    Raw: type[Any]
    """Frozen dataclass of the section ``data.<dataset>.raw`` of params.yaml: what `download` depends on."""
    Prepare: type[Any]
    """Frozen dataclass of the section ``data.<dataset>.prepare``: what `preprocess` depends on."""
    ABOUT: Mapping[str, object]
    """source, licence, citation, synthetic."""

    def download(self, raw: Any, directory: Path) -> None:
        """Make or fetch the raw files."""

    def items(self, prepare: Any, directory: Path) -> Iterable[Item]:
        """Every sample in the raw files, as `ordered` puts them, whenever they are iterated."""


@runtime_checkable
class Local(Protocol):
    """A source of files on this machine, which may change; its ``Raw`` pins their content as ``md5``."""

    def digest(self, raw: Any, root: Path) -> str:
        """Digest of the files as they are now."""


@runtime_checkable
class Encoded(Protocol):
    """A source with an encoder on this machine, which its ``Prepare`` pins as ``encoder_md5``."""

    def encoder_digest(self, prepare: Any, root: Path) -> str:
        """Digest of the encoder as it is now."""


class Decoder(Protocol):
    """A module that makes arrays of one kind of samples."""

    def decode(self, content: bytes, form: Form) -> tuple[Any, bytes]:
        """The array that ``form`` describes, and 16 bytes that are equal for what is the same to a person.

        Raises ValueError, saying what the content is: "not a readable picture (truncated)"; MetashotError
        where no sample can be decoded.
        """


def ordered(items: Iterable[Item]) -> list[Item]:
    """Samples by split, class and name."""
    return sorted(items, key=lambda item: (item.key.split, item.key.path, item.key.name))


def source(name: str) -> Source:
    """Return the module of a source that params.yaml names. Raises MetashotError where there is none."""
    module = _module(name)
    if not hasattr(module, "ABOUT"):
        raise MetashotError(f"{name!r} is not a source: metashot/data/{name}.py says nothing about its data")
    return cast(Source, module)


def decoder(form: Form) -> Decoder:
    """Return the module that decodes samples of a form."""
    return cast(Decoder, _module(form.kind))


def refresh(root: Path, dataset: str) -> bool | None:
    """Pin the present content of a data set's files, and encoder, in params.yaml; return whether it is new.

    Every other character of params.yaml stays as it was. None for a data set of other than local files, which
    is pinned by code and parameters.

    Raises:
        MetashotError: The files are missing or laid out wrongly, or params.yaml is wrong.
    """
    path, key = root / "params.yaml", f"data.{dataset}"
    module = source(params.read(path, f"{key}.source", params.Name))
    if not isinstance(module, Local):
        return None
    raw = params.read(path, f"{key}.raw", module.Raw)
    pins = {f"{key}.raw.md5": (raw.md5, module.digest(raw, root))}
    if isinstance(module, Encoded):
        prepare = params.read(path, f"{key}.prepare", module.Prepare)
        pins[f"{key}.prepare.encoder_md5"] = prepare.encoder_md5, module.encoder_digest(prepare, root)
    text = path.read_bytes().decode()
    new = {pin: now for pin, (before, now) in pins.items() if now != before}
    for pin, now in new.items():
        text = params.edited(text, pin, now)
    if new:
        with replacing(path) as partial:
            partial.write_bytes(text.encode())
    return bool(new)


def _module(name: str) -> Any:
    path = f"metashot.data.{name}"
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:
            raise
        raise MetashotError(f"unknown source {name!r}: there is no metashot/data/{name}.py") from None
