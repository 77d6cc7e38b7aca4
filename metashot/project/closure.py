"""The import closure of a program: the modules that it runs, found by reading import statements.

Every import of a module is followed, also those in functions. Of a `metashot.catalogue.Catalogue` only the
parts that the program uses are followed, and the lines of other parts are left out of the catalogue's module:
adding a part changes nothing for programs that do not use it.
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

FOLDER = "data/code"  # holds a file for each cell, by which its stage depends on its code

Sources = Mapping[str, bytes]  # content by path in the repository, as metashot/errors.py
Parts = Mapping[str, Collection[str]]  # names of parts, by what the catalogue calls a part

# Packages whose import name differs from the name they are installed by
INSTALLED_AS = {"PIL": "pillow", "ruamel": "ruamel-yaml", "sklearn": "scikit-learn", "yaml": "pyyaml"}
PIN = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[[^]]*\])?==([^\s;\\]+)", re.MULTILINE)
PART = re.compile(rb'^ +"(\w+)": "[\w.]+(:\w+)?",$')  # a line of a catalogue


@dataclass(frozen=True)
class CodeList:
    """What a cell of dvc.yaml runs, as a file in `FOLDER` lists it.

    Attributes:
        modules: The md5 of each module, by its path; for a catalogue's module, of its text `without_others`.
        parts: Which parts of each catalogue are used, by the path of its module.
        packages: The pinned version of each package that may change a result.
    """

    modules: Mapping[str, str]
    parts: Mapping[str, Sequence[str]]
    packages: Mapping[str, str]

    @property
    def json(self) -> bytes:
        """The content of the file."""
        return (json.dumps(asdict(self), indent=2) + "\n").encode()

    @classmethod
    def parse(cls, content: bytes, where: str) -> "CodeList":
        """Read the content of a file. Raises MetashotError where it is not such a list."""
        try:
            return cls(**json.loads(content))
        except (TypeError, ValueError):
            raise MetashotError(f"{where}: not as the stage code writes it: run `dvc repro code`") from None

    def md5(self, path: str, content: bytes) -> str:
        """Return the md5 that this list would give a module with a content."""
        text = without_others(content, self.parts[path]) if path in self.parts else content
        return hashlib.md5(text).hexdigest()


def sources(root: Path, packages: Iterable[str]) -> dict[str, bytes]:
    """Return the content of every module of packages, by its path relative to ``root``."""
    paths = (path for package in packages for path in sorted((root / package).rglob("*.py")))
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def closure(available: Sources, starts: Iterable[str], parts: Parts | None) -> dict[str, bytes]:
    """Return the modules that are executed when some are imported, the packages above them included.

    Args:
        available: All modules of ours.
        starts: Names of the modules to start from, such as ``stages.train``.
        parts: The parts used of each catalogue, none of a catalogue that is missing here; None for all parts.

    Returns:
        The content of each module, by path; of a catalogue's module, without the lines of other parts.
    """
    closed: dict[str, bytes] = {}
    todo = list(starts)
    while todo:
        name = todo.pop()
        path = _path(available, name)
        if path is None or path in closed:
            continue
        imports, catalogue = _parse(path, available[path])
        closed[path] = available[path]
        parents = [".".join(name.split(".")[:depth]) for depth in range(1, name.count(".") + 1)]
        todo += [*imports, *parents]
        if catalogue:
            what, package, modules = catalogue
            used = sorted(modules if parts is None else set(parts.get(what, ())) & set(modules))
            closed[path] = without_others(available[path], used)
            todo += [f"{package}.{modules[part]}" for part in used]
    return dict(sorted(closed.items()))


def without_others(content: bytes, used: Collection[str]) -> bytes:
    """Return the text of a catalogue's module without the lines of unused parts."""
    lines = content.splitlines(keepends=True)
    return b"".join(
        line for line in lines if not (part := PART.match(line.rstrip())) or part[1].decode() in used
    )


def parts_used(modules: Sources) -> dict[str, list[str]]:
    """Return which parts each catalogue in a closure still lists, by the path of its module."""
    catalogues = {path: _parse(path, content)[1] for path, content in modules.items()}
    return {path: sorted(catalogue[2]) for path, catalogue in catalogues.items() if catalogue}


def parts_in(available: Sources, what: str, paths: Collection[str]) -> set[str]:
    """Return the parts of a catalogue whose modules are among ``paths``.

    Args:
        available: All modules of ours.
        what: What the catalogue calls a part: ``kind``.
        paths: Paths of modules.
    """
    for path, content in available.items():
        catalogue = _parse(path, content)[1]
        if catalogue and catalogue[0] == what:
            _, package, modules = catalogue
            return {
                part for part, module in modules.items() if _path(available, f"{package}.{module}") in paths
            }
    return set()


def packages(modules: Sources) -> set[str]:
    """Return the import names of the packages that modules import, without the modules' own packages."""
    own = {path.partition("/")[0] for path in modules}
    imported = {name.partition(".")[0] for path, text in modules.items() for name in _parse(path, text)[0]}
    return imported - own


def pins(lock: str) -> dict[str, str]:
    """Return the version of each package that a requirements.lock pins, by its normalized name."""
    return {name.lower().replace("_", "-"): version for name, version in PIN.findall(lock)}


def versions(imported: Iterable[str], lock: str) -> dict[str, str]:
    """Return the pinned version of each imported package; the standard library is left out.

    Args:
        imported: Import names of packages.
        lock: The text of requirements.lock.

    Raises:
        MetashotError: One of them is not pinned.
    """
    pinned = pins(lock)
    distributions = sorted(
        INSTALLED_AS.get(name, name.replace("_", "-"))
        for name in set(imported) - set(sys.stdlib_module_names)
    )
    if missing := [name for name in distributions if name not in pinned]:
        raise MetashotError(f"requirements.lock has no {missing[0]}, which is imported: pin it there")
    return {name: pinned[name] for name in distributions}


def _path(available: Sources, name: str) -> str | None:
    base = name.replace(".", "/")
    return next((path for path in (f"{base}.py", f"{base}/__init__.py") if path in available), None)


@lru_cache(maxsize=4096)
def _parse(path: str, content: bytes) -> tuple[list[str], tuple[str, str, dict[str, str]] | None]:
    """Return the names that a module imports, modules or not, and its catalogue: what, package, modules."""
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
            what, where, listed, *_ = node.args
            if isinstance(where, ast.Name) and where.id == "__package__":
                package = package.rpartition(".")[0]
            modules = {key: value.partition(":")[0] for key, value in ast.literal_eval(listed).items()}
            catalogue = ast.literal_eval(what), package, modules
    return names, catalogue
