"""params.yaml, validated: every section has a type, and a key nobody knows is an error."""

import importlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import CollectionNode

from metashot import plain_yaml
from metashot.errors import MetashotError, short

Hyper = TypeVar("Hyper")

# Names become folders, MLflow names and words of a command line. A letter, so that none reads as a number.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]*[A-Za-z][A-Za-z0-9_]*$", max_length=60)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Way = Annotated[int, Field(ge=2, le=10_000)]
Few = Annotated[int, Field(ge=1, le=10_000)]  # samples of a class
Episodes = Annotated[int, Field(ge=1, le=1_000_000)]
Tested = Annotated[int, Field(ge=2, le=1_000_000)]  # episodes: an interval needs two
Threads = Annotated[int, Field(ge=1, le=1024)]
STEPS = 10_000_000  # of a training, at most
DRAWN = 500_000_000  # samples in all episodes of a manifest
SAMPLE = 10_000_000  # numbers in a sample
WEIGHTS = 1_000_000_000  # of a backbone
NAMED = 3  # mistakes in one message
LINE = 110  # characters of a line that is written
WORD = re.compile(r"\w+")
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
    k_shot: Few
    episodes: Tested


@dataclass(frozen=True)
class Setting:
    """An N-way K-shot protocol and the episodes to draw for it.

    Attributes:
        n_way: Classes in a validation or test episode.
        k_shot: Support images of each class.
        n_query: Query images of each class.
        val_episodes: Rows of the validation manifest.
        test_episodes: Rows of each test manifest.
        train_way: Classes in a row of the training manifest; methods that train on fewer cut rows into parts,
            and those that would train on more take so many.
        train_query: Query images of each class in a training row.
        train_episodes: Rows of the training manifest, which training cycles through.
        extra: Further protocols for the evaluation, by name.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    n_way: Way
    k_shot: Few
    n_query: Few
    val_episodes: Episodes
    test_episodes: Tested
    train_way: Way
    train_query: Few
    train_episodes: Episodes
    extra: dict[Name, ExtraSetting]

    def __post_init__(self) -> None:
        if self.train_way < self.n_way:
            raise ValueError(f"train_way: must be at least n_way, {self.n_way}")
        manifests = {
            "train_episodes": self.train_episodes * self.train_way * (self.k_shot + self.train_query),
            "val_episodes": self.val_episodes * self.n_way * (self.k_shot + self.n_query),
            "test_episodes": self.test_episodes * self.n_way * (self.k_shot + self.n_query),
        } | {
            f"extra.{name}.episodes": extra.episodes * extra.n_way * (extra.k_shot + self.n_query)
            for name, extra in self.extra.items()
        }
        for key, samples in manifests.items():
            if samples > DRAWN:
                raise ValueError(f"{key}: {samples:,} samples in all are more than {DRAWN:,}: lower it")


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
class DataSet:
    """A data set, from its files to how long each method trains on it.

    Attributes:
        source: What gets it: a module of `metashot.data`.
        raw: What is downloaded.
        prepare: How it becomes one table.
        backbone: The network that turns a sample into features.
        augment: How training samples are varied; empty for not at all.
        budget: Of each method the outer steps of its training, or a mapping of ``steps`` and those of its
            hyper-parameters that are others here (`training`).
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    source: Name
    raw: dict[str, Any]
    prepare: dict[str, Any]
    backbone: dict[str, Any]
    augment: dict[str, Any]
    budget: dict[Name, Any]


@dataclass(frozen=True)
class Cross:
    """Which models are tested on data sets that they were not trained on.

    Attributes:
        trained_on: Data sets of the models.
        tested_on: Data sets of the episodes.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    trained_on: list[Name]
    tested_on: list[Name]


@dataclass(frozen=True)
class File:
    """The whole of params.yaml; what lies below a data set, setting and method has types of its own."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    seed: Seed
    threads: Threads
    datasets: list[Name]
    settings: list[Name]
    methods: list[Name]
    data: dict[Name, DataSet]
    setting: dict[Name, dict[str, Any]]
    method: dict[Name, dict[str, Any]]
    cross: Cross
    gate: Gate


def read(path: Path, key: str, type_: Any) -> Any:
    """Section ``key`` (dotted; empty for the whole file) of the YAML file ``path`` as a ``type_``.

    Raises:
        MetashotError: No such file, no such key, or a value that ``type_`` refuses; the line names the key.
    """
    value = plain_yaml.load(plain_yaml.read(path), str(path))
    if not isinstance(value, Mapping):
        raise MetashotError(f"{path}: not a mapping of sections such as seed, datasets and method")
    for depth, part in enumerate(parts := key.split(".") if key else []):
        if not isinstance(value, Mapping) or part not in value:
            raise MetashotError(f"{path}: {'.'.join(parts[: depth + 1])}: missing")
        value = value[part]
    return _valid(path, key, type_, value)


def training(path: Path, key: str, hyper: Hyper, said: Any) -> tuple[int, Hyper]:
    """What a data set says of a method's training: its outer steps, and the method's hyper-parameters.

    Args:
        path: params.yaml, for messages.
        key: Where it is said, ``data.<dataset>.budget.<method>``, for messages.
        hyper: Section ``method.<method>``.
        said: The steps alone, or a mapping of ``steps`` and those hyper-parameters that are others here.

    Raises:
        MetashotError: The steps are not a number above 0, or the method refuses a hyper-parameter.
    """
    steps, own = budgeted(said)
    if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= STEPS:
        raise MetashotError(
            f"{path}: {key}: needs outer steps, a whole number above 0 and at most {STEPS:,} "
            f"(it is {short(steps)})"
        )
    return steps, _valid(path, key, type(hyper), {**asdict(hyper), **own})  # type: ignore[call-overload]


def budgeted(said: Any) -> tuple[Any, dict[str, Any]]:
    """The steps of a training, and the hyper-parameters that are said beside them."""
    own = dict(said) if isinstance(said, Mapping) else {"steps": said}
    return own.pop("steps", None), own


def _valid(path: Path, key: str, type_: Any, value: Any) -> Any:
    try:  # as JSON, where strict takes a mapping for a dataclass, and a whole number for a float
        return TypeAdapter(type_).validate_json(json.dumps(value), strict=True)
    except ValidationError as invalid:
        mistakes = [_describe(key, error, type_, value) for error in invalid.errors()[:NAMED]]
        more = invalid.error_count() - len(mistakes)
        others = [f"{more} more"] if more else []
        raise MetashotError(f"{path}: {'; '.join(mistakes + others)}") from None


def edited(text: str, key: str, value: Any) -> str:
    """The text of a params.yaml with the section ``key`` (dotted) set, every other character as it was.

    Raises:
        MetashotError: It is written in a way that this cannot be done in.
    """
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    text = text.removeprefix(mark)
    *above, last = key.split(".")
    try:
        before = plain_yaml.load(text, "params.yaml")
        node = YAML().compose(text)
        for part in above:
            node = next(child for name, child in node.value if name.value == part)
        there = [(name, child) for name, child in node.value if name.value == last]
        if not there:
            new = _inserted(text, node, last, value)
        elif _is_block(there[0][1]):
            name, child = there[0]
            indent = name.start_mark.column
            new = text[: name.start_mark.index] + _written(last, value, indent) + text[_end(child) :]
        else:
            child = there[0][1]
            new = text[: child.start_mark.index] + _flow(value) + text[child.end_mark.index :]
        if plain_yaml.load(new, "params.yaml") == _set(before, (*above, last), value):
            return mark + new
    except (YAMLError, MetashotError, StopIteration, TypeError, IndexError):  # an alias, or no mapping
        pass
    raise MetashotError(
        f"params.yaml: {key} cannot be set in the way it is written: set it to {_flow(value)}"
    )


def _set(section: Any, key: Sequence[str], value: Any) -> Any:
    """A copy of a section with a key below it set; what is the same elsewhere, by an alias, stays."""
    if not key:
        return value
    return {**section, key[0]: _set(section.get(key[0]), key[1:], value)}


def _inserted(text: str, node: Any, key: str, value: Any) -> str:
    """The text with a key behind the last of a mapping."""
    end = _end(node)
    if node.flow_style:
        comma = ", " if node.value else ""
        end = _end(node.value[-1][1]) if node.value else node.end_mark.index - 1
        return f"{text[:end]}{comma}{_flow(key)}: {_flow(value)}{text[end:]}"
    end += len(text[end:].partition("\n")[0])  # behind the last one's comment
    indent = node.value[0][0].start_mark.column
    return f"{text[:end]}\n{' ' * indent}{_written(key, value, indent)}{text[end:]}"


def _end(node: Any) -> int:
    """Where the last thing in a node ends; a block's own end is where the next thing begins."""
    while _is_block(node):
        node = node.value[-1][1] if isinstance(node.value[-1], tuple) else node.value[-1]
    return int(node.end_mark.index)


def _is_block(node: Any) -> bool:
    return isinstance(node, CollectionNode) and not node.flow_style


def _written(key: str, value: Any, indent: int) -> str:
    """A key with its value: in one line where it fits, otherwise one for each part."""
    line = f"{_flow(key)}: {_flow(value)}"
    if not isinstance(value, Mapping) or indent + len(line) <= LINE:
        return line
    inside = indent + 2
    parts = (_written(part, child, inside) for part, child in value.items())
    return "\n".join([f"{_flow(key)}:", *(f"{' ' * inside}{part}" for part in parts)])


def _flow(value: Any) -> str:
    """A value in one line of YAML, which is JSON without needless quotes."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(child)}" for key, child in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str) and WORD.fullmatch(value) and isinstance(YAML(typ="safe").load(value), str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _describe(key: str, error: Any, type_: Any, value: Any) -> str:
    loc = error["loc"]
    if loc and isinstance(value, Mapping) and loc[0] not in value and loc[0] == value.get("name"):
        loc = loc[1:]  # which of several types it is, as `named` decides
    where = ".".join(part for part in (key, *map(str, loc)) if part and part != "[key]")
    if error["type"] == "string_pattern_mismatch":
        return f"{where}: a name needs a letter, and letters, digits and _ only (it is {error['input']!r})"
    if error["type"] == "unexpected_keyword_argument":
        hint = ""
        if is_dataclass(type_) and len(error["loc"]) == 1:
            hint = f" (known here: {', '.join(field.name for field in fields(type_))})"
        return f"{where}: unknown key{hint}"
    if error["type"] == "missing":
        return f"{where}: missing"
    if error["type"] == "value_error":  # raised by a dataclass about one of its keys, which it names
        return f"{where}.{error['ctx']['error']}"
    return f"{where}: {error['msg']} (it is {short(error['input'])})"


def named(types: Any) -> Any:
    """One of several dataclasses, the one whose key ``name`` a section has."""
    return Annotated[types, Field(discriminator="name")]


def check(path: Path) -> None:
    """Read every section with its own type, used or not, and follow every name to its section.

    Raises:
        MetashotError: The first section that is wrong, with the offending key.
    """
    source = importlib.import_module("metashot.data.source")
    methods = importlib.import_module("metashot.methods")
    backbones = importlib.import_module("metashot.backbones")
    augmentation = importlib.import_module("metashot.augmentation")
    file: File = read(path, "", File)
    for key in ("datasets", "settings", "methods"):
        names = getattr(file, key)
        if not names or len(set(names)) < len(names):
            raise MetashotError(f"{path}: {key}: needs at least one name, and each only once")
    for kind, listed, described in (
        ("data", file.datasets, file.data),
        ("setting", file.settings, file.setting),
        ("method", file.methods, file.method),
    ):
        spellings: dict[str, str] = {}
        for name in described:
            if (other := spellings.setdefault(name.lower(), name)) != name:
                raise MetashotError(f"{path}: {kind}.{name}: differs from {other} by case only: rename one")
        for name in listed:
            if name not in described:
                raise MetashotError(f"{path}: {kind}.{name}: missing")
    for name in {*file.cross.trained_on, *file.cross.tested_on} - {*file.datasets}:
        raise MetashotError(f"{path}: cross: {name} is not in datasets")
    if both := {*file.cross.trained_on} & {*file.cross.tested_on}:
        raise MetashotError(f"{path}: cross: {min(both)} is in trained_on and in tested_on")
    forms = {}
    for name, data in file.data.items():
        try:
            module = source.source(data.source)
        except MetashotError as error:
            raise MetashotError(f"{path}: data.{name}.source: {error}") from None
        read(path, f"data.{name}.raw", module.Raw)
        prepare = read(path, f"data.{name}.prepare", module.Prepare)
        forms[name] = prepare.form
        backbone = read(path, f"data.{name}.backbone", named(backbones.Params))
        augment = read(path, f"data.{name}.augment", augmentation.Augment)
        if (numbers := math.prod(prepare.form.shape)) > SAMPLE:
            raise MetashotError(
                f"{path}: data.{name}.prepare: a sample has {numbers:,} numbers, more than {SAMPLE:,}: "
                "shrink it"
            )
        try:
            weights = backbones.count(backbone, prepare.form.shape)
        except MetashotError as error:
            raise MetashotError(f"{path}: data.{name}.backbone: {error}") from None
        if weights > WEIGHTS:
            raise MetashotError(
                f"{path}: data.{name}.backbone: has {weights:,} weights, more than {WEIGHTS:,}: shrink it"
            )
        if augment.varies and prepare.form.kind != "images":
            raise MetashotError(f"{path}: data.{name}.augment: varies pictures only; leave it empty: {{}}")
    for trained, tested in product(file.cross.trained_on, file.cross.tested_on):
        if unlike := _unlike(forms[trained], forms[tested]):
            raise MetashotError(
                f"{path}: cross: {trained} and {tested} do not have samples of one form ({unlike}): prepare "
                "them alike"
            )
    hypers = {}
    for name in file.method:
        try:
            cls = methods.method_class(name)
        except MetashotError as error:
            raise MetashotError(f"{path}: method.{name}: {error}") from None
        hypers[name] = read(path, f"method.{name}", cls.params_type)
    for name in file.setting:
        setting: Setting = read(path, f"setting.{name}", Setting)
        if name in setting.extra:
            raise MetashotError(f"{path}: setting.{name}.extra.{name}: called like the setting itself")
    for name, data in file.data.items():
        if unknown := set(data.budget) - set(file.method):
            raise MetashotError(f"{path}: data.{name}.budget.{min(unknown)}: no such method below `method`")
        for method, said in data.budget.items():
            training(path, f"data.{name}.budget.{method}", hypers[method], said)
        for method in file.methods if name in file.datasets else ():
            if method not in data.budget:
                raise MetashotError(f"{path}: data.{name}.budget.{method}: missing")


def _unlike(one: Any, other: Any) -> str:
    """How two forms of samples differ, in words; empty where they do not."""
    ways = (asdict(form) for form in (one, other))
    one, other = ({**form.pop("decoding"), **form} for form in ways)
    keys = [key for key in dict.fromkeys([*one, *other]) if one.get(key) != other.get(key)]
    kinds = ["kind"] if "kind" in keys else keys  # of another kind everything is different
    return ", ".join(f"{key}: {one.get(key)} and {other.get(key)}" for key in kinds)
