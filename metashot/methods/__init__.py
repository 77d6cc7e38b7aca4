"""Few-shot methods, one module each: ``metashot.methods.maml`` holds the class ``Maml``.

A saved model is a folder with ``model.safetensors`` and a ``model.json`` that says what to build around them.
"""

import importlib
import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from metashot.errors import MetashotError
from metashot.methods.base import Method, Params, Problem

FORMAT = 1


def method_class(name: str) -> type[Method]:
    """The class of the method ``name``; a MetashotError if there is none."""
    known = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    module = importlib.import_module(f"{__name__}.{name}") if name in known else None
    cls: type[Method] | None = getattr(module, name.capitalize(), None)
    if cls is None:
        raise MetashotError(f"method {name!r}: no class {name.capitalize()!r} in metashot/methods/{name}.py")
    return cls


def save(method: Method, name: str, params: Params, problem: Problem, directory: Path) -> None:
    """Write the model into the existing folder ``directory``."""
    state = {key: value.contiguous().cpu() for key, value in method.inference_state().items()}
    save_file(state, directory / "model.safetensors")
    about = {
        "format": FORMAT,
        "method": name,
        "hyperparameters": asdict(params),
        "n_way": problem.n_way,
        "image": problem.image,
    }
    (directory / "model.json").write_text(json.dumps(about, indent=2) + "\n")


def load(directory: Path, device: torch.device | str = "cpu") -> Method:
    """The trained method saved in ``directory``, ready to predict.

    Raises:
        MetashotError: There is no model, or it was written in another format.
    """
    try:
        about = json.loads((directory / "model.json").read_text())
        if about["format"] != FORMAT:
            raise MetashotError(f"{directory}: model format {about['format']}; this metashot reads {FORMAT}")
        cls = method_class(about["method"])
        params = cls.params_type(**about["hyperparameters"])
        method = cls(params, Problem(tuple(about["image"]), about["n_way"]))
        method.load_state_dict(load_file(directory / "model.safetensors"))
    except FileNotFoundError as error:
        raise MetashotError(f"{error.filename}: no such file: not a saved model") from None
    return method.to(device).eval()
