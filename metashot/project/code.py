"""The code that this process runs, as it was before it was loaded.

To be imported before any other module of ours: an edit that comes while the modules are being loaded, or
later, is then seen (`stages`).
"""

import sys
from pathlib import Path

from metashot.files import md5

PACKAGES = ("metashot", "stages")
TOP = Path(__file__).parents[2]

# The md5 of every module of ours by its path in the repository
AT_START = {
    path.relative_to(TOP).as_posix(): md5(path)
    for package in PACKAGES
    for path in sorted((TOP / package).rglob("*.py"))
}


def loaded() -> dict[str, str]:
    """The md5 of every module of ours that this process has loaded, by its path; empty for a new file."""
    named = (*PACKAGES, "__main__")
    ours = [module for name, module in sys.modules.items() if name.partition(".")[0] in named]
    specs = [spec for module in ours if (spec := module.__spec__) and spec.origin]
    paths = [Path(spec.origin or "") for spec in specs if spec.name.partition(".")[0] in PACKAGES]
    names = sorted(path.relative_to(TOP).as_posix() for path in paths)
    return {name: AT_START.get(name, "") for name in names}
