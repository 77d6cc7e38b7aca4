"""Encoders of pictures by an architecture of torchvision, with weights from a safetensors file."""

from pathlib import Path
from typing import TYPE_CHECKING

from metashot.data import encoders
from metashot.data.encoders.pictures import Look, weights
from metashot.errors import MetashotError

if TYPE_CHECKING:  # slow to import
    from torch import nn


def look(folder: Path) -> Look:
    """What pictures an architecture takes: those of torchvision's own weights for it."""
    from torchvision.models import get_model_weights

    try:
        presets = next(iter(get_model_weights(architecture(folder)))).transforms()
    except (ValueError, StopIteration) as error:
        raise MetashotError(f"{folder}: raw.architecture: torchvision has no such one ({error})") from None
    return Look(
        image_size=presets.crop_size[0],
        interpolation=presets.interpolation.value,
        mean=tuple(presets.mean),
        std=tuple(presets.std),
    )


def about(folder: Path) -> tuple[str, str]:
    """Name of an encoder, and what it was trained on, which its file does not say."""
    return architecture(folder), ""


def load(folder: Path, image_size: int) -> "nn.Module":
    """The network without its last linear layer. Raises MetashotError if it cannot be loaded."""
    from torch import nn
    from torchvision.models import get_model

    name, tensors = architecture(folder), weights(folder)
    options = {"image_size": image_size} if name.startswith("vit_") else {}
    try:
        network: nn.Module = get_model(name, weights=None, **options)
    except (TypeError, ValueError) as error:
        raise encoders.fails_to_load(folder, error) from None
    linear = [name for name, part in network.named_modules() if isinstance(part, nn.Linear)]
    if not linear:
        raise MetashotError(f"{folder}: {name} does not end in a linear layer: take another architecture")
    network.set_submodule(linear[-1], nn.Identity())
    classifier = {f"{linear[-1]}.weight", f"{linear[-1]}.bias"}
    held = {key: value for key, value in tensors.items() if key not in classifier}
    try:
        network.load_state_dict(held)
    except RuntimeError as error:
        raise encoders.fails_to_load(folder, error) from None
    return network


def architecture(folder: Path) -> str:
    """Name of the architecture."""
    return str(encoders.config(folder, encoders.ARCHITECTURE).get("architecture", ""))
