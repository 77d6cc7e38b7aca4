"""params.yaml, validated: every section has a type, and a key nobody knows is an error."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from metashot import plain_yaml
from metashot.catalogue import Catalogue
from metashot.errors import MetashotError, short
from metashot.section import Section

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
MISPLACED = (
    "missing",
    "unexpected_keyword_argument",
)  # mistakes at a key that a value has not, or should not have
NAMED = 3  # mistakes in one message
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class ExtraSetting(Section):
    """A further N-way K-shot protocol that a model is evaluated under.

    Attributes:
        n_way: Classes in an episode.
        k_shot: Support images of each class.
        episodes: Rows of its test manifest.
    """

    n_way: Way
    k_shot: Few
    episodes: Tested


@dataclass(frozen=True)
class Setting(Section):
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
class Gate(Section):
    """What a model has to show to become champion; both are fractions.

    Attributes:
        min_accuracy: The lowest mean test accuracy that a champion may have.
        allowed_regression: How much less accurate than the incumbent a successor may be: the lower end of the
            95 % interval of its lead must lie above minus this.
    """

    min_accuracy: Share
    allowed_regression: Share


@dataclass(frozen=True)
class DataSet(Section):
    """A data set, from its files to how long each method trains on it.

    Attributes:
        source: What gets it: a module of `metashot.data.sources`.
        raw: What is downloaded.
        prepare: How it becomes one table.
        backbone: The network that turns a sample into features.
        augment: How training samples are varied; empty for not at all.
        budget: Of each method the outer steps of its training, or a mapping of ``steps`` and those of its
            hyper-parameters that are others here (`training`).
    """

    source: Name
    raw: dict[str, Any]
    prepare: dict[str, Any]
    backbone: dict[str, Any]
    augment: dict[str, Any]
    budget: dict[Name, Any]


@dataclass(frozen=True)
class Cross(Section):
    """Which models are tested on data sets that they were not trained on.

    Attributes:
        trained_on: Data sets of the models.
        tested_on: Data sets of the episodes.
    """

    trained_on: list[Name]
    tested_on: list[Name]


@dataclass(frozen=True)
class File(Section):
    """The whole of params.yaml; what lies below a data set, setting and method has types of its own."""

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

    A catalogue stands for the type of the part that the section's ``name`` names.

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
    if isinstance(type_, Catalogue):
        name = value.get("name") if isinstance(value, Mapping) else None
        if not isinstance(name, str):
            raise MetashotError(f"{path}: {key}.name: missing; one of {', '.join(sorted(type_))}")
        try:
            type_ = type_[name]
        except MetashotError as error:
            raise MetashotError(f"{path}: {key}.name: {error}") from None
    try:  # as JSON, where strict takes a mapping for a dataclass, and a whole number for a float
        return TypeAdapter(type_).validate_json(json.dumps(value), strict=True)
    except ValidationError as invalid:
        mistakes = [_describe(key, error, type_) for error in _of_one_form(invalid.errors(), value)]
        others = [f"{len(mistakes) - NAMED} more"] if len(mistakes) > NAMED else []
        raise MetashotError(f"{path}: {'; '.join(mistakes[:NAMED] + others)}") from None


def _of_one_form(errors: Sequence[Any], value: Any) -> list[Any]:
    """Mistakes by their place in a value: where it may have one of several forms, those in the form it has.

    Pydantic tells what is wrong with each form, and puts its name into the place.
    """
    found: list[Any] = []
    outright: dict[tuple[Any, ...], list[Any]] = {}  # errors of forms that the value is nothing like
    inside: set[tuple[Any, ...]] = set()
    for error in errors:
        here, place, forms = value, tuple[Any, ...](), list[tuple[Any, ...]]()
        for part in error["loc"]:
            if _holds(here, part):
                here, place = here[part], (*place, part)
            elif part is error["loc"][-1] and error["type"] in MISPLACED:
                place = (*place, part)
            elif part != "[key]":
                forms.append(place)
        if place in forms:
            outright.setdefault(place, []).append({**error, "loc": place})
        else:
            inside |= set(forms)
            found.append({**error, "loc": place})
    for place, alike in outright.items():
        if place not in inside:
            found.append({**alike[0], "msg": " or ".join(dict.fromkeys(one["msg"] for one in alike))})
    return found


def _holds(value: Any, part: Any) -> bool:
    if isinstance(value, Mapping):
        return part in value
    return isinstance(value, list) and isinstance(part, int) and part < len(value)


def _describe(key: str, error: Any, type_: Any) -> str:
    loc = error["loc"]
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
