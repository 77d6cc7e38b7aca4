"""params.yaml, validated: every section has a type, and a key nobody knows is an error."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import Field, PositiveInt, StringConstraints, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from metashot.errors import MetashotError

T = TypeVar("T")

# Names become folders, MLflow names and words of a command line.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+$")]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Way = Annotated[int, Field(ge=2)]
Threads = Annotated[int, Field(ge=1, le=1024)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class ExtraSetting:
    """A further N-way K-shot protocol that a model is evaluated under.

    Attributes:
        n_way: Classes in an episode.
        k_shot: Support images of each class.
        episodes: Rows of its test manifest.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    n_way: Way
    k_shot: PositiveInt
    episodes: Annotated[int, Field(ge=2)]  # an interval needs two


@dataclass(frozen=True)
class Setting:
    """An N-way K-shot protocol and the episodes to draw for it.

    Attributes:
        n_way: Classes in a validation or test episode.
        k_shot: Support images of each class.
        n_query: Query images of each class.
        val_episodes: Rows of the validation manifest.
        test_episodes: Rows of each test manifest.
        train_way: Classes in a row of the training manifest; methods that train on fewer cut rows into parts.
        train_query: Query images of each class in a training row.
        train_episodes: Rows of the training manifest, which training cycles through.
        extra: Further protocols for the evaluation, by name.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    n_way: Way
    k_shot: PositiveInt
    n_query: PositiveInt
    val_episodes: PositiveInt
    test_episodes: Annotated[int, Field(ge=2)]  # an interval needs two
    train_way: Way
    train_query: PositiveInt
    train_episodes: PositiveInt
    extra: dict[Name, ExtraSetting]

    def __post_init__(self) -> None:
        if self.train_way < self.n_way:
            raise ValueError(f"train_way: must be at least n_way, {self.n_way}")


@dataclass(frozen=True)
class Gate:
    """What a model has to show to become champion; both are fractions.

    Attributes:
        min_accuracy: The lowest mean test accuracy that a champion may have.
        allowed_regression: How much less accurate than the incumbent a successor may be: the lower end of the
            95 % interval of its lead must lie above minus this.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    min_accuracy: Share
    allowed_regression: Share


@dataclass(frozen=True)
class File:
    """The whole of params.yaml; the sections below data, setting and method have types of their own."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    seed: Seed
    threads: Threads
    datasets: list[Name]
    settings: list[Name]
    methods: list[Name]
    data: dict[Name, dict[str, Any]]
    setting: dict[Name, dict[str, Any]]
    method: dict[Name, dict[str, Any]]
    budget: dict[Name, dict[Name, PositiveInt]]
    gate: Gate


def read(path: Path, key: str, type_: Any) -> Any:
    """Section ``key`` (dotted; empty for the whole file) of the YAML file ``path`` as a ``type_``.

    Raises:
        MetashotError: No such file, no such key, or a value that ``type_`` refuses; the line names the key.
    """
    try:
        value = YAML(typ="safe").load(path.read_text(encoding="utf-8"))  # as DVC reads it
    except FileNotFoundError:
        raise MetashotError(f"{path}: no such file: run in the project's top folder") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise MetashotError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, Mapping):
        raise MetashotError(f"{path}: not a mapping of sections such as seed, datasets and method")
    for depth, part in enumerate(parts := key.split(".") if key else []):
        if not isinstance(value, Mapping) or part not in value:
            raise MetashotError(f"{path}: {'.'.join(parts[: depth + 1])}: missing")
        value = value[part]
    try:
        return TypeAdapter(type_).validate_python(value)
    except ValidationError as invalid:
        mistakes = (_describe(key, error, type_) for error in invalid.errors())
        raise MetashotError(f"{path}: {'; '.join(mistakes)}") from None


def _describe(key: str, error: Any, type_: Any) -> str:
    where = ".".join(part for part in (key, *map(str, error["loc"])) if part)
    if error["type"] == "unexpected_keyword_argument":
        hint = ""
        if is_dataclass(type_) and len(error["loc"]) == 1:
            hint = f" (known here: {', '.join(field.name for field in fields(type_))})"
        return f"{where}: unknown key{hint}"
    if error["type"] == "missing":
        return f"{where}: missing"
    if error["type"] == "value_error":  # raised by a dataclass about one of its keys, which it names
        return f"{where}.{error['ctx']['error']}"
    return f"{where}: {error['msg']} (it is {error['input']!r})"


def check(path: Path) -> None:
    """Read every section with its own type, used or not, and follow every name to its section.

    Raises:
        MetashotError: The first section that is wrong, with the offending key.
    """
    source = importlib.import_module("metashot.data.source")
    methods = importlib.import_module("metashot.methods")
    file: File = read(path, "", File)
    for key in ("datasets", "settings", "methods"):
        names = getattr(file, key)
        if not names or len(set(names)) < len(names):
            raise MetashotError(f"{path}: {key}: needs at least one name, and each only once")
    for kind, listed, described in (
        ("data", file.datasets, file.data),
        ("setting", file.settings, file.setting),
        ("method", file.methods, file.method),
        ("budget", file.datasets, file.budget),
    ):
        for name in listed:
            if name not in described:
                raise MetashotError(f"{path}: {kind}.{name}: missing")
    params = {}
    for name in file.data:
        try:
            module = source.source(name)
        except MetashotError as error:
            raise MetashotError(f"{path}: data.{name}: {error}") from None
        read(path, f"data.{name}", module.Params)
    for name in file.method:
        try:
            cls = methods.method_class(name)
        except MetashotError as error:
            raise MetashotError(f"{path}: method.{name}: {error}") from None
        params[name] = read(path, f"method.{name}", cls.params_type)
    for name in file.setting:
        setting: Setting = read(path, f"setting.{name}", Setting)
        if name in setting.extra:
            raise MetashotError(f"{path}: setting.{name}.extra.{name}: called like the setting itself")
        for method in file.methods if name in file.settings else ():
            train_way = getattr(params[method], "train_way", 0)
            if train_way > setting.train_way:
                raise MetashotError(
                    f"{path}: method.{method}.train_way: {train_way} is more than the {setting.train_way} "
                    f"classes of a training row, setting.{name}.train_way"
                )
    for dataset, budget in file.budget.items():
        if unknown := set(budget) - set(file.method):
            raise MetashotError(f"{path}: budget.{dataset}.{min(unknown)}: no such method below `method`")
    for dataset in file.datasets:
        for name in file.methods:
            if name not in file.budget[dataset]:
                raise MetashotError(f"{path}: budget.{dataset}.{name}: missing")
