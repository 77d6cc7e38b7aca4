"""Sections of params.yaml."""

from typing import ClassVar


class Section:
    """A section of params.yaml: a dataclass that refuses keys it does not know."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
