"""How many small faults in the code the unit tests notice: `make mutants`.

cosmic-ray plants one fault at a time in a copy of the working tree: another number, `+` for `-`, `<` for
`<=`, a condition turned round, a decorator, loop or exception handler less. Then the tests of that package
run; a fault is noticed if one of them fails. Of all faults, which would take hours, a sample is drawn at
random, the same for a seed. What goes unnoticed is shown, for a person to say whether a test is missing or
nothing changes.

    python -m benchmarks.mutants [--faults N] [--seed SEED] [learning] [results]
"""

import argparse
import math
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from attrs import evolve
from cosmic_ray.commands.init import init
from cosmic_ray.modules import find_modules
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.work_db import WorkDB
from cosmic_ray.work_item import MutationSpec, WorkerOutcome, WorkResult

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
TESTS = "python -m pytest -x -n 0 -p no:cacheprovider -m 'not slow'"
PATIENCE = 3  # times as long as all tests take: what hangs is noticed too


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
    return sorted(
        specs, key=lambda spec: (str(spec.module_path), spec.start_pos, spec.operator_name, spec.occurrence)
    )


def copied(target: Path) -> Path:
    """Copy what git lists or would add into a folder, as it is in the working tree."""
    listed = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard", "-z"], text=True)
    for name in filter(None, listed.split("\0")):
        if Path(name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, target / name)
    return target


def command(room: str, folder: Path | str, module: Path | None = None) -> str:
    """Return what runs the tests of a package in a folder, until one fails.

    Those that import a module run before the others are so much as collected: they notice most.
    """
    files, first = sorted(map(str, Path("tests", room).glob("test_*.py"))), set[str]()
    if module:
        package, _, name = ".".join(module.with_suffix("").parts).removesuffix(".__init__").rpartition(".")
        imported = re.compile(rf"from {package}(\.{name} import| import .*\b{name}\b)")
        first = {path for path in files if imported.search(Path(path).read_text())}
    parts = [path for path in files if path in first], [path for path in files if path not in first]
    runs = [f"{TESTS} {' '.join(part)}" for part in parts if part]
    return shlex.join(["bash", "-c", " && ".join([f"cd {folder}", *runs])])


def noticed(room: str, sample: Sequence[MutationSpec]) -> list[bool]:
    """Plant each fault by itself and run the tests of the package: side by side, a copy for each core.

    Returns for each fault whether a test failed; a fault that goes unnoticed is printed. Exits where tests
    fail without a fault.
    """
    with tempfile.TemporaryDirectory() as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(len(os.sched_getaffinity(0))):
            copies.put(copied(Path(folder, str(number))))

        began = time.perf_counter()
        if subprocess.call(shlex.split(command(room, f"{folder}/0")), stdout=subprocess.DEVNULL):
            sys.exit(f"error: tests/{room} fail as they are: mend that first")
        patience = PATIENCE * (time.perf_counter() - began)

        def test(spec: MutationSpec) -> bool:
            copy = copies.get()
            planted = evolve(spec, module_path=copy / spec.module_path)
            result = mutate_and_test([planted], command(room, copy, spec.module_path), patience)
            copies.put(copy)
            if result.worker_outcome != WorkerOutcome.NORMAL:
                sys.exit(f"error: {spec}: {result.output}")
            if result.is_killed:
                print(".", end="", flush=True)
            else:
                print(f"\n{shown(spec, result)}", flush=True)
            return result.is_killed

        with ThreadPoolExecutor(copies.qsize()) as pool:
            return list(pool.map(test, sample))


def shown(spec: MutationSpec, result: WorkResult) -> str:
    """Return where a fault was planted, and the lines before and after."""
    changed = [line for line in (result.diff or "").splitlines()[4:] if line[:1] in ("-", "+")]
    where = f"{spec.module_path}:{spec.start_pos[0]}: {spec.operator_name.removeprefix('core/')}"
    return "\n    ".join([where, *changed])


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
