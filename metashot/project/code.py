"""Digests of our modules, taken before this process loads them.

`stages` imports this module before any other of ours, so that an edit is noticed even if it comes while the
modules are being loaded.
"""

import sys
from pathlib import Path

from metashot.files import md5

PACKAGES = ("metashot", "stages")
TOP = Path(__file__).parents[2]

# The md5 of each of our modules, by its path in the repository
AT_START = {
    path.relative_to(TOP).as_posix(): md5(path)
    for package in PACKAGES
    for path in sorted((TOP / package).rglob("*.py"))
}


def loaded() -> dict[str, str]:
    """Return the md5 of each of our modules that this process has loaded, by path; empty for a new file."""
    roots = (*PACKAGES, "__main__")
    ours = [module for name, module in sys.modules.items() if name.partition(".")[0] in roots]
    specs = [spec for module in ours if (spec := module.__spec__) and spec.origin]
    paths = [Path(spec.origin or "") for spec in specs if spec.name.partition(".")[0] in PACKAGES]
    relative = sorted(path.relative_to(TOP).as_posix() for path in paths)
    return {path: AT_START.get(path, "") for path in relative}
