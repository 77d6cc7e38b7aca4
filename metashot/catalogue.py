"""Explicit tables of interchangeable parts: sources, kinds, methods, backbones."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from metashot.errors import MetashotError

Part = TypeVar("Part")


class Catalogue(Generic[Part]):
    """Parts by name, each imported and checked when it is first used.

    A process imports only the parts that it uses, so a stage depends on few modules.

    Args:
        what: Noun for a part, for messages: ``source``.
        package: The package with the parts.
        parts: Module of each part, by name: ``omniglot``, or ``maml:Maml`` for an attribute of a module.
        needs: Attributes that every part needs.
    """

    def __init__(self, what: str, package: str, parts: Mapping[str, str], needs: Sequence[str]) -> None:
        self.what, self.package, self.parts, self.needs = what, package, dict(parts), needs

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __contains__(self, name: object) -> bool:
        return name in self.parts

    def module(self, name: str) -> str:
        """Return the full name of the module of a part."""
        return f"{self.package}.{self.parts[name].partition(':')[0]}"

    def __getitem__(self, name: str) -> Part:
        """Return a part.

        Raises:
            MetashotError: There is none of this name, its module is missing, or it lacks an attribute.
        """
        if name not in self.parts:
            raise MetashotError(f"unknown {self.what} {name!r}: there are {', '.join(sorted(self.parts))}")
        module, attribute = self.module(name), self.parts[name].partition(":")[2]
        try:
            part: Any = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            raise MetashotError(f"{self.what} {name}: there is no module {module}") from None
        if attribute and not hasattr(part, attribute):
            raise MetashotError(f"{self.what} {name}: {module} has no {attribute}")
        part = getattr(part, attribute) if attribute else part
        if missing := [need for need in self.needs if not hasattr(part, need)]:
            raise MetashotError(f"{self.what} {name} in {module} lacks {', '.join(missing)}")
        checked: Part = part
        return checked

    def check(self) -> None:
        """Import and check every part, before anything runs."""
        for name in self:
            self[name]
