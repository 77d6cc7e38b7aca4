"""The schema of params.yaml: every section has a type, and an unknown key is an error."""

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

# Names become folders, MLflow names and words of a command line. A letter keeps them from being numbers.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]*[A-Za-z][A-Za-z0-9_]*$", max_length=60)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Way = Annotated[int, Field(ge=2, le=10_000)]
Few = Annotated[int, Field(ge=1, le=10_000)]  # samples of each class
Episodes = Annotated[int, Field(ge=1, le=1_000_000)]
Tested = Annotated[int, Field(ge=2, le=1_000_000)]  # test episodes: a confidence interval needs two
Threads = Annotated[int, Field(ge=1, le=1024)]
STEPS = 10_000_000  # outer steps that a training may have
DRAWN = 500_000_000  # samples that all episodes of a manifest may have
KEY_ERRORS = ("missing", "unexpected_keyword_argument")  # pydantic's, of a key rather than of a value
NAMED = 3  # mistakes in one message
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class ExtraSetting(Section):
    """A further N-way K-shot setting that a model is evaluated in.

    Attributes:
        n_way: Classes in an episode.
        k_shot: Support samples of each class.
        episodes: Rows of its test manifest.
    """

    n_way: Way
    k_shot: Few
    episodes: Tested


@dataclass(frozen=True)
class Setting(Section):
    """An N-way K-shot setting and the episodes to draw for it.

    Attributes:
        n_way: Classes in a validation or test episode.
        k_shot: Support samples of each class.
        n_query: Query samples of each class.
        val_episodes: Rows of the validation manifest.
        test_episodes: Rows of each test manifest.
        train_way: Classes in a row of the training manifest. Methods that train on fewer split rows; none
            trains on more.
        train_query: Query samples of each class in a training row.
        train_episodes: Rows of the training manifest, which training cycles through.
        extra: Further settings for the evaluation, by name.
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
                raise ValueError(f"{key}: {samples:,} samples in total, more than {DRAWN:,}: lower it")


@dataclass(frozen=True)
class Gate(Section):
    """The conditions for becoming champion; both are fractions.

    Attributes:
        min_accuracy: The lowest mean test accuracy that a champion may have.
        allowed_regression: How much less accurate than the incumbent a challenger may be: the lower end of
            the 95 % confidence interval of its lead must lie above minus this.
    """

    min_accuracy: Share
    allowed_regression: Share


@dataclass(frozen=True)
class DataSet(Section):
    """A data set, from its files to how long each method trains on it.

    Attributes:
        source: The module of `metashot.data.sources` that provides it.
        raw: What to download; the type is the source's ``Raw``.
        prepare: How to convert it to a table; the type is the source's ``Prepare``.
        backbone: The network that turns a sample into features.
        augment: Augmentation of training samples; empty for none.
        budget: For each method the number of outer steps, or a mapping of ``steps`` and hyper-parameters that
            override the method's on this data set (`training`).
    """

    source: Name
    raw: dict[str, Any]
    prepare: dict[str, Any]
    backbone: dict[str, Any]
    augment: dict[str, Any]
    budget: dict[Name, Any]


@dataclass(frozen=True)
class Cross(Section):
    """Tests of models on data sets that they were not trained on.

    Attributes:
        trained_on: Data sets of the models.
        tested_on: Data sets of the episodes.
    """

    trained_on: list[Name]
    tested_on: list[Name]


@dataclass(frozen=True)
class File(Section):
    """The whole of params.yaml; the contents of settings and methods have types of their own."""

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
    """Return section ``key`` (dotted; empty for the whole file) of the YAML file ``path`` as a ``type_``.

    If ``type_`` is a catalogue, the section's key ``name`` selects the part whose type it is.

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
    return validate(value, type_, key, f"{path}: ")


def training(path: Path, key: str, hyper: Hyper, budget: Any) -> tuple[int, Hyper]:
    """Resolve a budget: the number of outer steps, and hyper-parameters with this data set's overrides.

    Args:
        path: params.yaml, for messages.
        key: The budget's key, ``data.<dataset>.budget.<method>``, for messages.
        hyper: Section ``method.<method>``.
        budget: The number of steps, or a mapping of ``steps`` and overriding hyper-parameters.

    Raises:
        MetashotError: The steps are not a number above 0, or, without training, not 0; or the method refuses
            a hyper-parameter.
    """
    steps, overrides = budgeted(budget)
    section = {**asdict(hyper), **overrides}  # type: ignore[call-overload]
    free = maker(section) == "choosing"
    if not isinstance(steps, int) or isinstance(steps, bool) or not (1 - free <= steps <= (not free) * STEPS):
        need = "0 outer steps, as nothing is trained"
        if not free:
            need = f"outer steps, a whole number above 0 and at most {STEPS:,}"
        raise MetashotError(f"{path}: {key}: needs {need} (it is {short(steps)})")
    return steps, validate(section, type(hyper), key, f"{path}: ")


def maker(hyper: Any) -> str:
    """Name of the maker (`metashot.learning.making.MAKERS`) for a method with these hyper-parameters.

    Args:
        hyper: As a dataclass, or as a section of params.yaml. A method that chooses features is not trained.
    """
    keys = asdict(hyper) if is_dataclass(hyper) else hyper  # type: ignore[arg-type]
    return "choosing" if "features" in keys else "training"


def budgeted(budget: Any) -> tuple[Any, dict[str, Any]]:
    """Split a budget into the number of steps and the overriding hyper-parameters, both unchecked."""
    overrides = dict(budget) if isinstance(budget, Mapping) else {"steps": budget}
    return overrides.pop("steps", None), overrides


def validate(value: Any, type_: Any, key: str, place: str = "") -> Any:
    """Return a section, as YAML or JSON has it, as a ``type_``; see `read` for catalogues.

    Raises:
        MetashotError: A value that ``type_`` refuses; the line begins with ``place`` and names the first
            mistakes by their keys, below ``key``.
    """
    if isinstance(type_, Catalogue):
        name = value.get("name") if isinstance(value, Mapping) else None
        if not isinstance(name, str):
            raise MetashotError(f"{place}{key}.name: missing: set one of {', '.join(sorted(type_))}")
        try:
            type_ = type_[name]
        except MetashotError as error:
            raise MetashotError(f"{place}{key}.name: {error}") from None
    try:  # as JSON, for which strict mode accepts a mapping as a dataclass, and a whole number as a float
        return TypeAdapter(type_).validate_json(json.dumps(value), strict=True)
    except ValidationError as invalid:
        mistakes = [_describe(key, error, type_) for error in _closest_alternative(invalid.errors(), value)]
        others = [f"{len(mistakes) - NAMED} more"] if len(mistakes) > NAMED else []
        raise MetashotError(f"{place}{'; '.join(mistakes[:NAMED] + others)}") from None


def _closest_alternative(errors: Sequence[Any], value: Any) -> list[Any]:
    """Reduce the errors of union types to those of the alternative that a value resembles.

    Pydantic reports the errors of every alternative, and puts the alternative's name into ``loc``.

    Returns:
        Errors whose ``loc`` is the path in ``value``.
    """
    kept: list[Any] = []
    mismatches: dict[tuple[Any, ...], list[Any]] = {}  # errors of alternatives that do not fit at all
    resembled: set[tuple[Any, ...]] = set()  # where a value fits an alternative but for something inside it
    for error in errors:
        here, path, unions = value, tuple[Any, ...](), list[tuple[Any, ...]]()
        for part in error["loc"]:
            if _has(here, part):
                here, path = here[part], (*path, part)
            elif part is error["loc"][-1] and error["type"] in KEY_ERRORS:
                path = (*path, part)
            elif part != "[key]":  # the name of an alternative
                unions.append(path)
        if path in unions:
            mismatches.setdefault(path, []).append({**error, "loc": path})
        else:
            resembled |= set(unions)
            kept.append({**error, "loc": path})
    for path, alternatives in mismatches.items():
        if path not in resembled:
            message = " or ".join(dict.fromkeys(error["msg"] for error in alternatives))
            kept.append({**alternatives[0], "msg": message})
    return kept


def _has(value: Any, part: Any) -> bool:
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
    if error["type"] == "value_error":  # raised by a dataclass, whose message begins with the key
        return f"{where}.{error['ctx']['error']}"
    return f"{where}: {error['msg']} (it is {short(error['input'])})"
