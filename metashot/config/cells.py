"""The code of every cell of dvc.yaml: the modules that it runs, and the packages that may change a result."""

import ast
import itertools
import json
from collections.abc import Iterator, Mapping
from hashlib import md5
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from metashot.config import params
from metashot.config.networks import networks
from metashot.errors import MetashotError
from metashot.files import replacing
from metashot.project import closure, declared

PACKAGES = ("metashot", "stages")
ADOPTED = "champions/adopted.json"
LOCK = "requirements.lock"
# Imported packages that cannot change a number in a result
NEUTRAL = {"filelock", "fsspec", "mlflow", "pandas", "pydantic", "requests", "ruamel", "sqlalchemy", "tqdm"}


def files(root: Path) -> dict[str, bytes]:
    """Return the content of every file that belongs in data/code, by its path in the repository.

    Raises:
        MetashotError: params.yaml or the lock of packages cannot be read.
    """
    modules = closure.sources(root, PACKAGES)
    file: params.File = params.read(root / declared.PARAMS, "", params.File)
    try:
        lock = (root / LOCK).read_text(encoding="utf-8")
    except OSError as error:
        raise MetashotError(f"{LOCK}: cannot be read ({error.strerror}): restore it with git") from None
    champions, lists = adopted(root), dict[str, bytes]()
    for stage, cell in cells(modules, file):
        used = closure.closure(modules, [f"stages.{stage}"], _parts(modules, file, champions, cell))
        code_list = closure.CodeList(
            {path: md5(content).hexdigest() for path, content in used.items()},
            closure.parts_used(used),
            closure.versions(closure.packages(used) - NEUTRAL, lock),
        )
        path = "/".join(filter(None, [closure.FOLDER, stage, "-".join(cell.values())])) + ".json"
        lists[path] = code_list.json
    return lists


def cells(modules: closure.Sources, file: params.File) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield every stage but `code` with each of its cells, by the arguments of the stage's ``main``.

    Args:
        modules: The modules of the stages.
        file: params.yaml.

    Yields:
        The stage's name, and the value of each argument.

    Raises:
        MetashotError: An argument is not a dimension of the matrices in dvc.yaml.
    """
    for path, content in modules.items():
        folder, _, module = path.removesuffix(".py").partition("/")
        if folder != "stages" or module in ("__init__", "code"):
            continue
        functions = (node for node in ast.parse(content).body if isinstance(node, ast.FunctionDef))
        arguments = [arg.arg for main in functions if main.name == "main" for arg in main.args.args]
        is_cross_test = "other" in arguments
        values = {
            "dataset": file.cross.trained_on if is_cross_test else file.datasets,
            "other": file.cross.tested_on,
            "setting": file.settings,
            "method": file.methods,
        }
        if unknown := [name for name in arguments if name not in values]:
            raise MetashotError(
                f"{path}: main has the argument {unknown[0]}: only {', '.join(values)} are known"
            )
        for combination in itertools.product(*(values[name] for name in arguments)):
            yield module, dict(zip(arguments, combination, strict=True))


def _parts(
    modules: closure.Sources,
    file: params.File,
    champions: Mapping[str, list[list[str]]],
    cell: Mapping[str, str],
) -> dict[str, set[str]] | None:
    """Return the parts of each catalogue that a cell uses; None, for all, where it has no data set.

    Stages for all methods also load the adopted champions, whose methods and backbones are included.
    """
    data = file.data.get(cell.get("dataset", ""))
    if data is None:
        return None
    source_modules = closure.closure(modules, ["metashot.data.sources"], {"source": {data.source}})
    group = f"{cell['dataset']}-{cell.get('setting')}"
    loaded = champions.get(group, []) if "method" not in cell else []
    methods = [cell["method"]] if "method" in cell else file.methods
    kinds = closure.parts_in(modules, "kind", source_modules)
    backbones, makers = {backbone for _, backbone in loaded}, set[str]()
    for method in methods:
        section, budget = file.method.get(method, {}), data.budget.get(method)
        makers.add(params.maker(section))
        for kind in kinds:
            backbones.update(networks(section, budget, str(data.backbone.get("name")), kind))
    return {
        "source": {data.source},
        "kind": kinds,
        "method": {*methods, *(method for method, _ in loaded)},
        "backbone": backbones,
        "maker": makers,
        "features": kinds,
    }


def adopted(root: Path) -> dict[str, list[list[str]]]:
    """Return ``[method, backbone]`` of every adopted champion, by ``<data set>-<setting>``.

    Raises:
        MetashotError: The file that lists them is missing, or not as `list_adopted` writes it.
    """
    path = root / ADOPTED
    try:
        champions: dict[str, list[list[str]]] = TypeAdapter(dict[str, list[list[str]]]).validate_json(
            path.read_bytes()
        )
    except OSError as error:
        raise MetashotError(f"{path}: cannot be read ({error.strerror}): restore it with git") from None
    except ValidationError:
        raise MetashotError(f"{path}: not as `metashot adopt` writes it: restore it with git") from None
    return champions


def list_adopted(root: Path, group: str, method: str, backbone: str) -> None:
    """Add a champion to the list of adopted ones, by which the stage `code` knows what they run."""
    champions = adopted(root)
    if [method, backbone] not in champions.setdefault(group, []):
        champions[group].append([method, backbone])
        with replacing(root / ADOPTED) as partial:
            partial.write_text(json.dumps(champions, indent=2) + "\n")
