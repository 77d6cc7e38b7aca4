"""Few-shot methods, one module each: ``maml`` holds the class ``Maml``.

A saved model is a folder with ``model.safetensors`` and a ``model.json`` that says what to build around them.
"""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialise

from metashot.catalogue import Catalogue
from metashot.data import Form
from metashot.errors import MetashotError
from metashot.learning.models import backbones
from metashot.learning.models.methods.base import Method, Problem

FORMAT = 5


METHODS: Catalogue[type[Method]] = Catalogue(
    "method",
    __name__,
    {
        "centroid": "centroid:Centroid",
        "maml": "maml:Maml",
        "matching": "matching:Matching",
        "neighbour": "neighbour:Neighbour",
        "prototypical": "prototypical:Prototypical",
        "r2d2": "r2d2:R2d2",
        "reptile": "reptile:Reptile",
        "ridge": "ridge:Ridge",
        "siamese": "siamese:Siamese",
        "transfer": "transfer:Transfer",
    },
    ("params_type", "predict"),
)


def save(method: Method, directory: Path) -> None:
    """Write the model into the existing folder ``directory``."""
    state = {key: value.contiguous().cpu() for key, value in method.inference_state().items()}
    # not save_file, whose error on a full disk is not an OSError
    (directory / "model.safetensors").write_bytes(serialise(state))
    about = {
        "format": FORMAT,
        "method": type(method).__module__.rpartition(".")[2],
        "hyperparameters": asdict(method.params),
        "form": asdict(method.problem.form),
        "backbone": asdict(method.problem.backbone),
    }
    (directory / "model.json").write_text(json.dumps(about, indent=2) + "\n")


def load(directory: Path, device: torch.device | str = "cpu") -> Method:
    """The trained method saved in ``directory``, ready to predict.

    Raises:
        MetashotError: There is no model, it was written in another format, or its files are damaged.
    """
    try:
        about = json.loads((directory / "model.json").read_text())
        if about["format"] != FORMAT:
            raise MetashotError(f"{directory}: model format {about['format']}; this metashot reads {FORMAT}")
        cls = METHODS[about["method"]]
        params = cls.params_type(**about["hyperparameters"])
        problem = Problem(Form.parse(about["form"]), backbones.params_of(about["backbone"]))
        method = cls(params, problem)
        method.load_state_dict(load_file(directory / "model.safetensors"))
    except FileNotFoundError as error:
        raise MetashotError(f"{error.filename}: no such file: not a saved model") from None
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise MetashotError(f"{directory}: damaged or not a saved model ({reason})") from None
    return method.to(device).eval()
