"""Sections of params.yaml."""

from typing import ClassVar


class Section:
    """Base of dataclasses that are sections of params.yaml; unknown keys are refused."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
