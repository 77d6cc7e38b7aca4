"""params.yaml, validated: every section has a type, and a key nobody knows is an error."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import PositiveInt, TypeAdapter, ValidationError

from metashot.errors import MetashotError

T = TypeVar("T")


@dataclass(frozen=True)
class ExtraSetting:
    """A further N-way K-shot protocol that a model is evaluated under.

    Attributes:
        n_way: Classes in an episode.
        k_shot: Support images of each class.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    n_way: PositiveInt
    k_shot: PositiveInt


@dataclass(frozen=True)
class Setting:
    """An N-way K-shot protocol and the episodes to draw for it.

    Attributes:
        n_way: Classes in a validation or test episode.
        k_shot: Support images of each class.
        n_query: Query images of each class.
        val_episodes: Rows of the validation manifest.
        test_episodes: Rows of the test manifest.
        train_way: Classes in a row of the training manifest; methods that train on fewer cut rows into parts.
        train_query: Query images of each class in a training row.
        train_episodes: Rows of the training manifest, which training cycles through.
        extra: Further protocols for the evaluation, by name.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    n_way: PositiveInt
    k_shot: PositiveInt
    n_query: PositiveInt
    val_episodes: PositiveInt
    test_episodes: PositiveInt
    train_way: PositiveInt
    train_query: PositiveInt
    train_episodes: PositiveInt
    extra: dict[str, ExtraSetting] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.n_way < 2:
            raise ValueError("n_way: must be at least 2")
        if self.test_episodes < 2:
            raise ValueError("test_episodes: an interval needs at least 2")
        if self.train_way < self.n_way:
            raise ValueError("train_way: must be at least n_way")


@dataclass(frozen=True)
class File:
    """The whole of params.yaml; the sections of data sets and methods are checked by their own types."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    seed: int
    datasets: list[str]
    settings: list[str]
    methods: list[str]
    data: dict[str, dict[str, Any]]
    setting: dict[str, Setting]
    method: dict[str, dict[str, Any]]
    budget: dict[str, dict[str, PositiveInt]]


def read(path: Path, key: str, type_: type[T]) -> T:
    """Section ``key`` (dotted; empty for the whole file) of the YAML file ``path`` as a ``type_``.

    Raises:
        MetashotError: No such file, no such key, or a value that ``type_`` refuses; the line names the key.
    """
    try:
        value = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise MetashotError(f"{path}: no such file: run in the project's top folder") from None
    except yaml.YAMLError as error:
        raise MetashotError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    for depth, part in enumerate(parts := key.split(".") if key else []):
        if not isinstance(value, Mapping) or part not in value:
            raise MetashotError(f"{path}: {'.'.join(parts[: depth + 1])}: missing")
        value = value[part]
    try:
        return TypeAdapter(type_).validate_python(value)
    except ValidationError as invalid:
        mistakes = (_describe(key, error, type_) for error in invalid.errors())
        raise MetashotError(f"{path}: {'; '.join(mistakes)}") from None


def _describe(key: str, error: Any, type_: type) -> str:
    where = ".".join(part for part in (key, *map(str, error["loc"])) if part)
    if error["type"] == "unexpected_keyword_argument":
        known = ", ".join(key.name for key in fields(type_))
        return f"{where}: unknown key (known here: {known})"
    if error["type"] == "missing":
        return f"{where}: missing"
    return f"{where}: {error['msg'].removeprefix('Value error, ')} (it is {error['input']!r})"


def check(path: Path) -> None:
    """Read every section with its own type, used or not, and follow every name to its section.

    Raises:
        MetashotError: The first section that is wrong, with the offending key.
    """
    file = read(path, "", File)
    for name in {**file.data, **dict.fromkeys(file.datasets)}:
        module = _module("metashot.data", name, f"{path}: data.{name}")
        read(path, f"data.{name}", module.Params)
    for name in file.settings:
        read(path, f"setting.{name}", Setting)
    methods = importlib.import_module("metashot.methods")
    for name in {**file.method, **dict.fromkeys(file.methods)}:
        read(path, f"method.{name}", methods.method_class(name).params_type)
    for dataset in file.datasets:
        for name in file.methods:
            read(path, f"budget.{dataset}.{name}", int)


def _module(package: str, name: str, where: str) -> Any:
    try:
        return importlib.import_module(f"{package}.{name}")
    except ModuleNotFoundError:
        raise MetashotError(f"{where}: there is no module {package}.{name}") from None
