"""How many small faults in the code the unit tests notice: `make mutants`.

cosmic-ray plants one fault at a time in a copy of the working tree: another number, `+` for `-`, `<` for
`<=`, a condition turned round, a decorator, loop or exception handler less. Then the tests of that package
run; a fault is noticed if one of them fails. Of all faults, which would take hours, a sample is drawn at
random, the same for a seed. What goes unnoticed is shown, for a person to say whether a test is missing or
nothing changes.

    python -m benchmarks.mutants [--faults N] [--seed SEED] [learning] [results]
"""

import argparse
import difflib
import importlib
import math
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from cosmic_ray.commands.init import init
from cosmic_ray.modules import find_modules
from cosmic_ray.mutating import apply_mutation
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB
from cosmic_ray.work_item import MutationSpec

ROOMS = ("learning", "results")
# Of a binary operator or comparison the replacement that is hardest to notice: most others raise at once
OPERATORS = (
    *("NumberReplacer", "AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue"),
    *("ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceUnaryOperator_Delete_USub"),
    *("ReplaceUnaryOperator_Delete_Not", "ReplaceBinaryOperator_Add_Sub", "ReplaceBinaryOperator_Sub_Add"),
    *("ReplaceBinaryOperator_Mul_Div", "ReplaceBinaryOperator_Div_Mul", "ReplaceBinaryOperator_Pow_Mul"),
    *("ReplaceBinaryOperator_FloorDiv_Mul", "ReplaceBinaryOperator_Mod_FloorDiv"),
    *("ReplaceComparisonOperator_Eq_NotEq", "ReplaceComparisonOperator_NotEq_Eq"),
    *("ReplaceComparisonOperator_Lt_LtE", "ReplaceComparisonOperator_LtE_Lt"),
    *("ReplaceComparisonOperator_Gt_GtE", "ReplaceComparisonOperator_GtE_Gt"),
    *("ReplaceComparisonOperator_Is_IsNot", "ReplaceComparisonOperator_IsNot_Is"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ExceptionReplacer"),
    *("RemoveDecorator", "ZeroIterationForLoop"),
)
OPTIONS = ["-x", "-n", "0", "-p", "no:cacheprovider", "-m", "not slow"]
PATIENCE = 3  # times as long as all tests compute: what hangs is noticed too
WAITING = 10  # times as long as they take by the clock, for what hangs and computes nothing
SLOW = (  # to import, so once for all
    *("scipy.stats", "torch", "torchvision.transforms.v2", "pyarrow.parquet", "pydantic", "ruamel.yaml"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "PIL.Image", "pandas"),
)


def faults(room: str) -> list[MutationSpec]:
    """Return every fault that is planted in a package, in the order of modules."""
    modules = sorted(find_modules([Path("metashot", room)]))
    with tempfile.TemporaryDirectory() as folder:
        session = WorkDB(Path(folder, "session.sqlite"), WorkDB.Mode.create)
        init(modules, session, {})
        items = list(session.work_items)
        session.close()
    known = {f"core/{name}" for name in OPERATORS}
    specs = [spec for item in items for spec in item.mutations if spec.operator_name in known]
    specs = [spec for spec in specs if plantable(spec)]
    return sorted(
        specs, key=lambda spec: (str(spec.module_path), spec.start_pos, spec.operator_name, spec.occurrence)
    )


def plantable(spec: MutationSpec) -> bool:
    """Whether cosmic-ray can: of exceptions it knows plain names, and for a star alone it takes a product."""
    line, column = spec.start_pos
    text = spec.module_path.read_text().splitlines()[line - 1][column:]
    if spec.operator_name == "core/ExceptionReplacer":
        return re.match(r"\w+\.", text) is None
    return not text.startswith("*,")


def copied(target: Path) -> Path:
    """Copy what git lists or would add into a folder, as it is in the working tree."""
    listed = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard", "-z"], text=True)
    for name in filter(None, listed.split("\0")):
        if Path(name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, target / name)
    return target


def files(room: str, module: Path) -> list[list[str]]:
    """Return the test files of a package: those that import a module, which notice most, and the others."""
    package, _, name = ".".join(module.with_suffix("").parts).removesuffix(".__init__").rpartition(".")
    imported = re.compile(rf"from {package}(\.{name} import| import .*\b{name}\b)")
    paths = sorted(Path("tests", room).glob("test_*.py"))
    first = {path for path in paths if imported.search(path.read_text())}
    parts = [path for path in paths if path in first], [path for path in paths if path not in first]
    return [list(map(str, part)) for part in parts if part]


def started(copy: Path, parts: Sequence[Sequence[str]], seconds: int = resource.RLIM_INFINITY) -> int:
    """Run tests in a copy of the tree until one fails, in a fork of this process; return its number.

    It is killed once it has computed for some seconds, however busy the machine is.
    """
    if (child := os.fork()) == 0:
        status = 1
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
            os.chdir(copy)
            sys.path.insert(0, str(copy))
            silence = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(silence, stream)
            status = int(any(pytest.main([*OPTIONS, *part]) for part in parts))
        finally:
            os._exit(status)
    return child


def noticed(room: str, sample: Sequence[MutationSpec]) -> list[bool]:
    """Plant each fault by itself and run the tests of the package: side by side, a copy for each core.

    Returns for each fault whether a test failed. A fault that goes unnoticed is printed, ``h`` for one by
    which tests hang. Exits where tests fail without a fault.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in SLOW:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PYTEST_DEBUG_TEMPROOT"] = folder  # that of all users has folders of others to tidy up
        free = [copied(Path(folder, "0"))]
        began = time.perf_counter()
        _, status, used = os.wait4(started(free[0], [[f"tests/{room}"]]), 0)
        if status:
            sys.exit(f"error: tests/{room} fail as they are: mend that first")
        seconds = math.ceil(PATIENCE * (used.ru_utime + used.ru_stime))
        patience = WAITING * (time.perf_counter() - began)
        sys.dont_write_bytecode = True  # that of the tests lies there now
        free += [
            Path(shutil.copytree(free[0], Path(folder, str(number))))
            for number in range(1, len(os.sched_getaffinity(0)))
        ]
        results: dict[int, bool] = {}
        waiting, running = deque(enumerate(sample)), dict[int, Planted]()
        while waiting or running:
            while waiting and free:
                index, spec = waiting.popleft()
                copy = free.pop()
                operator = get_operator(spec.operator_name)(**spec.operator_args)
                before, after = apply_mutation(copy / spec.module_path, operator, spec.occurrence)
                child = started(copy, files(room, spec.module_path), seconds)
                running[child] = Planted(index, spec, copy, before, after, time.monotonic() + patience)
            child, status = os.waitpid(-1, os.WNOHANG)
            if not child:
                for number, planted in running.items():
                    if time.monotonic() > planted.deadline:
                        os.killpg(number, signal.SIGKILL)
                time.sleep(0.1)
                continue
            planted = running.pop(child)
            (planted.copy / planted.spec.module_path).write_text(planted.before)
            free.append(planted.copy)
            results[planted.index] = status != 0
            dot = "h" if os.WIFSIGNALED(status) else "."
            print(dot if status else f"\n{planted}", end="" if status else "\n", flush=True)
    return [results[index] for index in range(len(sample))]


@dataclass(frozen=True)
class Planted:
    """A fault in a copy of the tree, whose tests are running.

    Attributes:
        index: Of the fault in the sample.
        spec: Which fault.
        copy: The copy.
        before: Text of the module without it.
        after: Text of the module with it.
        deadline: When its tests are taken to hang, by the monotonic clock.
    """

    index: int
    spec: MutationSpec
    copy: Path
    before: str
    after: str
    deadline: float

    def __str__(self) -> str:
        lines = difflib.unified_diff(self.before.splitlines(), self.after.splitlines(), lineterm="", n=0)
        changed = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
        operator = self.spec.operator_name.removeprefix("core/")
        return "\n    ".join([f"{self.spec.module_path}:{self.spec.start_pos[0]}: {operator}", *changed])


def report(room: str, results: Sequence[bool], of: int) -> None:
    """Print the share of faults that was noticed, and its 95 % interval (Wilson 1927)."""
    count, z = len(results), 1.96
    share = sum(results) / count
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    drawn = f"all {of}" if count == of else f"{count} drawn at random of {of}"
    between = f"95 % interval {centre - half:.1%} to {centre + half:.1%}"
    print(f"\nmetashot/{room}: {share:.1%} noticed ({between}) of {drawn} faults")


def main() -> None:
    """Test each room that was named, or all."""
    parser = argparse.ArgumentParser(description="How many small faults the unit tests notice.")
    parser.add_argument("rooms", nargs="*", help=f"of {', '.join(ROOMS)}; all where none is named")
    parser.add_argument("--faults", type=int, default=150, help="how many; 0 for all")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for room in given.rooms or ROOMS:
        known = faults(room)
        count = min(given.faults, len(known)) or len(known)
        sample = random.Random(given.seed).sample(known, count)
        print(f"metashot/{room}: {count} of {len(known)} faults")
        report(room, noticed(room, sample), len(known))


if __name__ == "__main__":
    main()
