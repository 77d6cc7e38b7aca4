"""Which code every cell of dvc.yaml runs: the modules, and the packages that may change a result."""

import ast
import itertools
import json
from collections.abc import Iterator, Mapping
from hashlib import md5
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from metashot.config import params
from metashot.errors import MetashotError
from metashot.files import replacing
from metashot.project import closure, declared

PACKAGES = ("metashot", "stages")
ADOPTED = "champions/adopted.json"
LOCK = "requirements.lock"
# Of the packages that stages import, those that no number in a result comes from
SILENT = {"filelock", "fsspec", "mlflow", "pandas", "pydantic", "requests", "ruamel", "sqlalchemy", "tqdm"}


def files(root: Path) -> dict[str, bytes]:
    """Return the content of every file in data/code, by its path in the repository.

    Raises:
        MetashotError: params.yaml or the lock of packages cannot be read.
    """
    read = closure.sources(root, PACKAGES)
    file: params.File = params.read(root / declared.PARAMS, "", params.File)
    try:
        lock = (root / LOCK).read_text(encoding="utf-8")
    except OSError as error:
        raise MetashotError(f"{LOCK}: cannot be read ({error.strerror}): restore it with git") from None
    kept, made = adopted(root), dict[str, bytes]()
    for stage, cell in cells(read, file):
        modules = closure.closure(read, [f"stages.{stage}"], _parts(read, file, kept, cell))
        about = closure.CodeList(
            {path: md5(content).hexdigest() for path, content in modules.items()},
            closure.parts_used(modules),
            closure.versions(closure.packages(modules) - SILENT, lock),
        )
        made["/".join(filter(None, [closure.FOLDER, stage, "-".join(cell.values())])) + ".json"] = about.json
    return made


def cells(read: closure.Sources, file: params.File) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield every stage but `code` with each of its cells: what the arguments of its ``main`` are in turn.

    Raises:
        MetashotError: An argument is not a dimension of the matrices in dvc.yaml.
    """
    for path, content in read.items():
        folder, _, module = path.removesuffix(".py").partition("/")
        if folder != "stages" or module in ("__init__", "code"):
            continue
        functions = (node for node in ast.parse(content).body if isinstance(node, ast.FunctionDef))
        arguments = [arg.arg for main in functions if main.name == "main" for arg in main.args.args]
        crossed = "other" in arguments
        values = {
            "dataset": file.cross.trained_on if crossed else file.datasets,
            "other": file.cross.tested_on,
            "setting": file.settings,
            "method": file.methods,
        }
        if unknown := [name for name in arguments if name not in values]:
            raise MetashotError(
                f"{path}: main has the argument {unknown[0]}: only {', '.join(values)} are known"
            )
        for chosen in itertools.product(*(values[name] for name in arguments)):
            yield module, dict(zip(arguments, chosen, strict=True))


def _parts(
    read: closure.Sources,
    file: params.File,
    champions: Mapping[str, list[list[str]]],
    cell: Mapping[str, str],
) -> dict[str, set[str]] | None:
    """What a cell uses of each catalogue, adopted champions included; all where it has no data set."""
    data = file.data.get(cell.get("dataset", ""))
    if data is None:
        return None
    of_source = closure.closure(read, ["metashot.data.sources"], {"source": {data.source}})
    backbone = str(data.backbone.get("name"))
    group = f"{cell['dataset']}-{cell.get('setting')}"
    kept = champions.get(group, []) if "method" not in cell else []
    return {
        "source": {data.source},
        "kind": closure.parts_in(read, "kind", of_source),
        "method": {method for method, _ in kept}
        | ({cell["method"]} if "method" in cell else {*file.methods}),
        "backbone": {backbone, *(name for _, name in kept)},
    }


def adopted(root: Path) -> dict[str, list[list[str]]]:
    """Return method and backbone of every champion that was adopted, by data set and setting.

    Raises:
        MetashotError: The file that lists them is missing or not as `list_adopted` writes it.
    """
    path = root / ADOPTED
    try:
        found: dict[str, list[list[str]]] = TypeAdapter(dict[str, list[list[str]]]).validate_json(
            path.read_bytes()
        )
    except OSError as error:
        raise MetashotError(f"{path}: cannot be read ({error.strerror}): restore it with git") from None
    except ValidationError:
        raise MetashotError(f"{path}: not as `metashot adopt` writes it: restore it with git") from None
    return found


def list_adopted(root: Path, group: str, method: str, backbone: str) -> None:
    """Add a champion to the file that lists the adopted ones, for the stage `code` to know what they run."""
    listed = adopted(root)
    if [method, backbone] not in listed.setdefault(group, []):
        listed[group].append([method, backbone])
        with replacing(root / ADOPTED) as partial:
            partial.write_text(json.dumps(listed, indent=2) + "\n")
