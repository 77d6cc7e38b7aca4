"""Parts of JSON documents: frozen dataclasses that parse and write themselves."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AllowInfNan,
    ConfigDict,
    Field,
    Strict,
    StrictBool,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from metashot import files, untrusted
from metashot.errors import MetashotError

Name = Annotated[str, Field(pattern=r"^\w[\w.-]{0,200}$")]
Md5 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Output = Annotated[str, Field(pattern=r"^[0-9a-f]{32}(\.dir)?$")]  # of a file or a folder
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Commit = Annotated[str, Field(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$")]
Version = Annotated[str, Field(pattern=r"^[\w.+!-]{1,60}$")]
Flag = StrictBool
Number = Annotated[float, Strict(), AllowInfNan(False), Field(ge=0, lt=1e12)]
Real = Annotated[float, Strict(), AllowInfNan(False)]
Count = Annotated[int, Strict(), Field(ge=0, lt=2**53)]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A part of a JSON document.

    What is parsed is written again with the same keys and values, so that its digest stays what it was.

    Attributes:
        further: Keys that another metashot wrote, with their values.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    further: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, content: bytes, where: str) -> Self:
        """Read JSON.

        Args:
            content: The JSON; maybe from elsewhere, so its depth is bounded and every part is checked.
            where: Its name, for messages.

        Raises:
            MetashotError: It is not such JSON; the message names the first part that differs.
        """
        return cls.of(untrusted.parsed(content, where), where)

    @classmethod
    def of(cls, value: Any, where: str = "") -> Self:
        """Build from parsed JSON. Raises as `parse`."""
        try:
            parsed: Self = _adapter(cls).validate_python(value)  # type: ignore[arg-type]
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(ascii(key)[1:-1] if isinstance(key, str) else str(key) for key in first["loc"])
            raise malformed(f"{place or 'document'}: {first['msg']}", where) from None
        return parsed

    @property
    def written(self) -> dict[str, Any]:
        """The value for `json.dump`; fields at their default are left out."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "further"}
        defaults = {f.name: f.default for f in fields(self)}
        return {
            **{key: _written(value) for key, value in own.items() if value != defaults[key]},
            **self.further,
        }

    @property
    def digest(self) -> str:
        """Digest of the value."""
        return files.digest(self.written)

    @property
    def json(self) -> str:
        """The text of a file."""
        return json.dumps(self.written, indent=2) + "\n"

    @model_validator(mode="before")
    @classmethod
    def _further(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        known = {f.name for f in fields(cls)} - {"further"}
        known_values = {key: held for key, held in value.items() if key in known}
        return {**known_values, "further": {key: held for key, held in value.items() if key not in known}}


def malformed(reason: str, where: str = "") -> MetashotError:
    """Return the error for a document that is not laid out as metashot writes it."""
    return MetashotError(f"{where and f'{where} is '}not laid out as metashot writes it ({reason})")


def _written(value: Any) -> Any:
    if isinstance(value, Stored):
        return value.written
    if isinstance(value, Mapping):
        return {key: _written(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [_written(held) for held in value]
    return value


@cache
def _adapter(cls: type[Stored]) -> TypeAdapter[Any]:
    return TypeAdapter(cls)
