"""What encoders of pictures share: what they want pictures to be like, and how these are encoded."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from metashot.data import Form, encoders
from metashot.errors import MetashotError

if TYPE_CHECKING:  # slow to import
    from torch import nn

BATCH = 16  # pictures: always as many, an incomplete batch is filled up
ON_GPU = 8  # times as many on a GPU
INTERPOLATIONS = "bicubic", "bilinear", "lanczos", "nearest"


@dataclass(frozen=True, kw_only=True)
class Look:
    """What pictures an encoder was trained on look like.

    Attributes:
        image_size: Height and width in pixels.
        interpolation: How they were scaled, one of `INTERPOLATIONS`.
        mean: Of each channel, where values are in [0, 1].
        std: Standard deviation of each channel.
    """

    image_size: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation: {self.interpolation!r} is none of {', '.join(INTERPOLATIONS)}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError("mean and std: needs three numbers each, std above 0")


def family(folder: Path) -> Any:
    """The module of the layout of an encoder. Raises MetashotError if it does not encode pictures."""
    from metashot.data.encoders import timm_folder, torchvision

    layout = encoders.layout(encoders.contents(folder))
    if layout not in ("timm", "torchvision"):
        raise MetashotError(f"{folder}: an encoder of texts, not of pictures: set raw.encoder")
    return timm_folder if layout == "timm" else torchvision


def look(folder: Path) -> dict[str, Any]:
    """`Look` of an encoder as a part of `Form.decoding`. Raises MetashotError if its files do not say it."""
    try:
        shown: Look = family(folder).look(folder)
    except (KeyError, TypeError, ValueError) as error:
        raise MetashotError(f"{folder}: its files do not say what pictures it takes ({error})") from None
    return {**asdict(shown), "mean": list(shown.mean), "std": list(shown.std)}


class PictureEncoder:
    """A loaded encoder of pictures.

    Args:
        folder: Of the encoder.
        form: Form of the samples.

    Raises:
        MetashotError: It cannot be loaded.
    """

    def __init__(self, folder: Path, form: Form) -> None:
        import torch

        encoders.offline()
        self.device = encoders.device()
        size = form.decoding["image_size"]
        network: nn.Module = family(folder).load(folder, size)
        # Channels last is twice as fast on a processor
        layout: Any = {"memory_format": torch.channels_last}
        self.network = network.eval().to(self.device, **layout)
        self.mean, self.std = (
            torch.tensor(form.decoding[key], device=self.device).view(1, 3, 1, 1) for key in ("mean", "std")
        )

    def __call__(self, samples: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Vectors of pictures ``[3, H, W]``; see `encoders.Encoder`.

        A network computes with one shape only, whatever is asked. What is asked together moves nothing.
        """
        import torch

        number = BATCH * (ON_GPU if self.device == "cuda" else 1)

        def run(start: int) -> NDArray[np.float32]:
            part = samples[start : start + number]
            pixels = np.zeros((number, *samples[0].shape), np.uint8)
            pixels[: len(part)] = part
            batch = torch.from_numpy(pixels).to(self.device, torch.float32)
            batch = ((batch / 255 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
            vectors: NDArray[np.float32] = self.network(batch).float().cpu().numpy()[: len(part)]
            return vectors

        return np.concatenate(encoders.in_threads(run, range(0, len(samples), number)))


def weights(folder: Path) -> dict[str, Any]:
    """The tensors of an encoder's safetensors file. Raises MetashotError if it cannot be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Any] = load_file(folder / encoders.WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise encoders.fails_to_load(folder, error) from None
    return tensors
