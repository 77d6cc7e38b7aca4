"""Which modules a program runs, by the import statements in them.

A module counts with every import in it, also those in functions. Of a `metashot.catalogue.Catalogue` only the
parts that a program uses count, and of the lines of its module only theirs: so a part that is added changes
nothing that does not use it.
"""

import ast
import hashlib
import json
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from metashot.errors import MetashotError

FOLDER = "data/code"  # where a stage's dependency on its code lies: a file for each cell

Sources = Mapping[str, bytes]  # content by path in the repository, as metashot/errors.py
Parts = Mapping[str, Collection[str]]  # names by what they are, as a catalogue calls it

# Packages that are imported under another name than they are installed by
INSTALLED_AS = {"PIL": "pillow", "ruamel": "ruamel-yaml", "sklearn": "scikit-learn", "yaml": "pyyaml"}
PIN = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[[^]]*\])?==([^\s;\\]+)", re.MULTILINE)
PART = re.compile(rb'^ +"(\w+)": "[\w.]+(:\w+)?",$')  # a line of a catalogue


@dataclass(frozen=True)
class CodeList:
    """What a cell of dvc.yaml runs: a file in `FOLDER`.

    Attributes:
        modules: The md5 of each module, by its path; see `without_others` for one with a catalogue.
        parts: The names of the parts that are used of each catalogue, by the path of its module.
        packages: The pinned version of each package that may change a result.
    """

    modules: Mapping[str, str]
    parts: Mapping[str, Sequence[str]]
    packages: Mapping[str, str]

    @property
    def json(self) -> bytes:
        """The file."""
        return (json.dumps(asdict(self), indent=2) + "\n").encode()

    @classmethod
    def parse(cls, content: bytes, where: str) -> "CodeList":
        """Read the file. Raises MetashotError where it is not one."""
        try:
            return cls(**json.loads(content))
        except (TypeError, ValueError):
            raise MetashotError(f"{where}: not as the stage code writes it: run `dvc repro code`") from None

    def md5(self, path: str, content: bytes) -> str:
        """Return the md5 that a module with a content would have here."""
        text = without_others(content, self.parts[path]) if path in self.parts else content
        return hashlib.md5(text).hexdigest()


def sources(root: Path, packages: Iterable[str]) -> dict[str, bytes]:
    """Read the modules of packages in a folder."""
    paths = (path for package in packages for path in sorted((root / package).rglob("*.py")))
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def closure(read: Sources, starts: Iterable[str], parts: Parts | None) -> dict[str, bytes]:
    """Return the modules that importing some executes, by path, with the packages that hold them.

    Args:
        read: All modules that there are.
        starts: Names of modules: ``stages.train``.
        parts: What is used of each catalogue, nothing of one that is not named; None for all of all.

    Returns:
        The content of each module; of one with a catalogue, without the lines of other parts.
    """
    found: dict[str, bytes] = {}
    todo = list(starts)
    while todo:
        name = todo.pop()
        path = _path(read, name)
        if path is None or path in found:
            continue
        imports, catalogue = _parsed(path, read[path])
        found[path] = read[path]
        above = [".".join(name.split(".")[:depth]) for depth in range(1, name.count(".") + 1)]
        todo += [*imports, *above]
        if catalogue:
            what, package, modules = catalogue
            used = sorted(modules if parts is None else set(parts.get(what, ())) & set(modules))
            found[path] = without_others(read[path], used)
            todo += [f"{package}.{modules[part]}" for part in used]
    return dict(sorted(found.items()))


def without_others(content: bytes, used: Collection[str]) -> bytes:
    """Return the text of a module with a catalogue, without the lines of parts that are not used."""
    lines = content.splitlines(keepends=True)
    return b"".join(
        line for line in lines if not (part := PART.match(line.rstrip())) or part[1].decode() in used
    )


def parts_used(modules: Sources) -> dict[str, list[str]]:
    """Return the names of the parts that are left of each catalogue in a closure, by its module's path."""
    catalogues = {path: _parsed(path, content)[1] for path, content in modules.items()}
    return {path: sorted(catalogue[2]) for path, catalogue in catalogues.items() if catalogue}


def parts_in(read: Sources, what: str, paths: Collection[str]) -> set[str]:
    """Return the names of a catalogue's parts whose modules are among paths."""
    for path, content in read.items():
        catalogue = _parsed(path, content)[1]
        if catalogue and catalogue[0] == what:
            _, package, modules = catalogue
            return {part for part, module in modules.items() if _path(read, f"{package}.{module}") in paths}
    return set()


def packages(modules: Sources) -> set[str]:
    """Return the packages of others that modules import, by the name that they are imported by."""
    ours = {path.partition("/")[0] for path in modules}
    found = {name.partition(".")[0] for path, text in modules.items() for name in _parsed(path, text)[0]}
    return found - ours


def pins(lock: str) -> dict[str, str]:
    """Return the version of each package that a requirements.lock pins."""
    return {name.lower().replace("_", "-"): version for name, version in PIN.findall(lock)}


def versions(imported: Iterable[str], lock: str) -> dict[str, str]:
    """Return the version that a lock gives to each package that is imported; Python's own left out.

    Raises:
        MetashotError: It gives none to one of them.
    """
    found = pins(lock)
    outside = set(imported) - set(sys.stdlib_module_names)
    named = sorted(INSTALLED_AS.get(name, name.replace("_", "-")) for name in outside)
    if missing := [name for name in named if name not in found]:
        raise MetashotError(f"requirements.lock has no {missing[0]}, which is imported: pin it there")
    return {name: found[name] for name in named}


def _path(read: Sources, name: str) -> str | None:
    base = name.replace(".", "/")
    return next((path for path in (f"{base}.py", f"{base}/__init__.py") if path in read), None)


@lru_cache(maxsize=4096)
def _parsed(path: str, content: bytes) -> tuple[list[str], tuple[str, str, dict[str, str]] | None]:
    """The names that a module imports, or that may be modules, and its catalogue if it has one."""
    tree = ast.parse(content)
    package = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    names: list[str] = []
    catalogue = None
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Catalogue":
            what, _, listed, *_ = node.args
            modules = {key: value.partition(":")[0] for key, value in ast.literal_eval(listed).items()}
            catalogue = ast.literal_eval(what), package, modules
    return names, catalogue
