"""Encoders of pictures in a folder as timm saves it: ``timm.create_model("local-dir:...")``."""

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metashot.data import encoders
from metashot.data.encoders.pictures import Look, weights
from metashot.errors import MetashotError

if TYPE_CHECKING:  # slow to import
    from torch import nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # timm's defaults
DATA = {"in1k": "ImageNet-1k", "in12k": "ImageNet-12k", "in21k": "ImageNet-21k", "in22k": "ImageNet-22k"} | {
    "laion2b": "LAION-2B",
    "lvd142m": "LVD-142M",
    "openai": "OpenAI's pairs of pictures and texts",
}  # parts of timm's tags


def look(folder: Path) -> Look:
    """What pictures an encoder takes, as its config.json says. Raises ValueError if that is impossible."""
    config = _pretrained(folder)
    return Look(
        image_size=int(config.get("input_size", (3, 224, 224))[1]),
        interpolation=config.get("interpolation") or "bicubic",
        mean=tuple(config.get("mean") or MEAN),
        std=tuple(config.get("std") or STD),
    )


def about(folder: Path) -> tuple[str, str]:
    """Name of an encoder, and what it was trained on as far as its files say it."""
    config, whole = _pretrained(folder), encoders.config(folder, "config.json")
    tag = str(config.get("tag") or "")
    name = ".".join(filter(None, [str(whole["architecture"]), tag]))
    known = [DATA[part] for part in re.split(r"[_.]", tag) if part in DATA]
    classes = config.get("num_classes") or whole.get("num_classes")
    unnamed = (
        f"{classes:,} classes that its files do not name" if isinstance(classes, int) and classes else ""
    )
    return name, " and ".join(dict.fromkeys(known)) or unnamed


def load(folder: Path, image_size: int) -> "nn.Module":
    """The network without its classifier. Raises MetashotError if it cannot be loaded."""
    try:
        import timm
    except ModuleNotFoundError:
        raise encoders.missing("timm", "pictures") from None
    if not (folder / encoders.WEIGHTS).is_file():  # timm would take any file of weights, pickled ones too
        raise MetashotError(f"{folder}: no {encoders.WEIGHTS}: rename the file of its weights")
    config = _pretrained(folder)
    options: dict[str, Any] = {"img_size": image_size} if config.get("fixed_input_size") else {}
    logging.getLogger("timm").setLevel(logging.ERROR)
    try:
        network: nn.Module = timm.create_model(
            f"local-dir:{folder}", pretrained=True, num_classes=0, **options
        )
    except Exception as error:  # what architectures raise
        raise encoders.fails_to_load(folder, error) from error
    own = {name for name in network.state_dict() if not name.endswith("num_batches_tracked")}
    if lacking := sorted(own - set(weights(folder))):  # which timm would leave as they were drawn
        raise MetashotError(f"{folder}: its weights lack {lacking[0]} and {len(lacking) - 1:,} more")
    return network


def _pretrained(folder: Path) -> dict[str, Any]:
    whole = encoders.config(folder, "config.json")
    config = whole.get("pretrained_cfg")
    return config if isinstance(config, dict) else whole
