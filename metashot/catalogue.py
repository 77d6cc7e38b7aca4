"""Explicit tables of interchangeable parts: sources, kinds, methods, backbones."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from metashot.errors import MetashotError

Part = TypeVar("Part")


class Catalogue(Generic[Part]):
    """Parts by name, each imported when it is first asked for and checked as it is.

    A process loads the parts that it uses and no others, so what a stage is made from stays narrow.

    Args:
        what: What a part is, for messages: ``source``.
        package: The package that the parts are in.
        parts: Where each is, by name: ``omniglot`` for a module, ``maml:Maml`` for something in one.
        needs: Attributes that each part has to have.
    """

    def __init__(self, what: str, package: str, parts: Mapping[str, str], needs: Sequence[str]) -> None:
        self.what, self.package, self.parts, self.needs = what, package, dict(parts), needs

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __contains__(self, name: object) -> bool:
        return name in self.parts

    def module(self, name: str) -> str:
        """Return the full name of the module that a part is in."""
        return f"{self.package}.{self.parts[name].partition(':')[0]}"

    def __getitem__(self, name: str) -> Part:
        """Return a part.

        Raises:
            MetashotError: There is none of this name, or it lacks something that every part has.
        """
        if name not in self.parts:
            raise MetashotError(f"unknown {self.what} {name!r}: there are {', '.join(sorted(self.parts))}")
        found: Any = importlib.import_module(self.module(name))
        if attribute := self.parts[name].partition(":")[2]:
            found = getattr(found, attribute)
        if missing := [need for need in self.needs if not hasattr(found, need)]:
            raise MetashotError(f"{self.what} {name} in {self.module(name)} lacks {', '.join(missing)}")
        part: Part = found
        return part

    def check(self) -> None:
        """Import every part, so that what one lacks is found before anything runs."""
        for name in self:
            self[name]
