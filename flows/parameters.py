"""Validation of flow parameters: each has a strict type, checked before anything uses it.

Whoever may start a flow run chooses its parameters. None of these types admits an option of a command, a
path, a URL or a git revision expression.
"""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from metashot.errors import MetashotError

Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Stage = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*(@[A-Za-z0-9_-]+)?$", max_length=200)
]
Branch = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([./_-]?[A-Za-z0-9_])*$", max_length=200)]
Block = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*/[a-z0-9][a-z0-9-]*$", max_length=200)]
Jobs = Annotated[int, Field(ge=1, le=256)]


class Parameters(BaseModel):
    """The parameters of a flow."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


T = TypeVar("T", bound=Parameters)


class Making(Parameters):
    """Parameters of ``make_remotely``: the address of a stage, and a full commit hash."""

    target: Stage
    commit: Commit


class Retraining(Parameters):
    """Parameters of ``retrain``."""

    branch: Branch
    tag: bool
    push: bool
    notify: Block | None
    jobs: Jobs | None


def checked(type_: type[T], **values: Any) -> T:
    """Return the validated parameters of a flow.

    Raises:
        MetashotError: A value does not match its type.
    """
    try:
        return type_(**values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name, value = first["loc"][0], repr(first["input"])
        raise MetashotError(f"parameter {name} is refused ({first['msg']}): {value[:80]}") from None
