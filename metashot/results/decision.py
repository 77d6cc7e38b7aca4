"""The decision of the gate on the models of one data set and setting, as its report has it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

from pydantic import TypeAdapter, ValidationError

from metashot.errors import MetashotError
from metashot.learning.statistics import Difference
from metashot.lineage.lockfile import Lock


@dataclass(frozen=True)
class Standing:
    """A model as the gate saw it: DVC's digest of its folder, and its accuracy on the test episodes."""

    method: str
    model: str
    accuracy: float
    ci95: float


@dataclass(frozen=True)
class Decision:
    """Which model is champion, if any, and why. It contains no clock times.

    Attributes:
        manifest: md5 of the test episodes.
        judged: The model of each method that was looked at.
        min_accuracy: See `metashot.config.params.Gate`.
        allowed_regression: See there.
        incumbent: The champion that was adopted last and is not barred.
        challenger: The most accurate of the judged models that is not barred.
        difference: Challenger minus incumbent, unless they are the same model.
        retested: Each judged model minus the incumbent, by method, where the incumbent is not one of them:
            its answers to these episodes are nowhere else.
        champion: One of these two.
        promoted: Whether the champion is another model than the incumbent.
        reasons: What led to it, a sentence each.
    """

    manifest: str
    judged: Mapping[str, str]
    min_accuracy: float
    allowed_regression: float
    incumbent: Standing | None
    challenger: Standing | None
    difference: Difference | None
    retested: Mapping[str, Difference]
    champion: Standing | None
    promoted: bool
    reasons: list[str]

    @classmethod
    def parse(cls, text: str, where: str) -> Self:
        """Read a decision file. Raises MetashotError where it is not one of this metashot."""
        try:
            decision: Self = TypeAdapter(cls).validate_json(text)
        except ValidationError:
            raise MetashotError(f"{where} is not a decision of this metashot's gate") from None
        return decision

    @property
    def json(self) -> str:
        """The decision file: the same text for the same decision."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def decision_path(group: str) -> str:
    """Return where the gate's decision on a data set and setting lies in the repository."""
    return f"reports/{group}-gate.json"


def decision_of(lock: Lock, group: str) -> Decision:
    """Return the present decision.

    Raises:
        MetashotError: There is none, or it cannot be read.
    """
    path = decision_path(group)
    if f"gate@{group}" not in lock.entries:
        raise MetashotError(f"dvc.lock has no gate@{group}: run `dvc repro register@{group}`")
    text = lock.file(lock.entries[f"gate@{group}"], path).read_text(encoding="utf-8")
    try:
        return Decision.parse(text, path)
    except MetashotError as error:
        raise MetashotError(f"{error}: run `dvc repro register@{group}`") from None
