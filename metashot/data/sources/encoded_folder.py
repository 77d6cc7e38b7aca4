"""Encoded folder: pictures of your own as in `image_folder`, encoded by a frozen network."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from metashot.data import Form, encoders
from metashot.data.encoders import pictures
from metashot.data.files import division, folders
from metashot.data.kinds import encoded_images, images
from metashot.data.sources.folder import FolderSource, about

ABOUT = about("an image folder")
_FOLDER = FolderSource(images.SUFFIXES, "images")
digest, items, encoder_digest = _FOLDER.digest, _FOLDER.items, encoders.digest


@dataclass(frozen=True, kw_only=True)
class Raw(folders.Raw, encoders.Raw):
    """Section ``raw`` of a data set of pictures for an encoder.

    Attributes:
        architecture: Where `encoder` is a safetensors file: the architecture in torchvision whose weights it
            has.
    """

    architecture: str = ""


@dataclass(frozen=True, kw_only=True)
class Prepare(encoded_images.Prepare, division.Prepare):
    """Section ``prepare`` of a data set of pictures for an encoder."""


def download(raw: Raw, directory: Path) -> None:
    """Pack the pictures and the encoder. Raises MetashotError as `image_folder` and `encoders.pack` do."""
    _FOLDER.download(raw, directory)
    encoders.pack(raw, directory)


def form(prepare: Prepare, directory: Path) -> Form:
    """See `sources.Encoded`."""
    folder, own = directory / encoders.FOLDER, prepare.form
    md5, look = encoders.place(folder), pictures.look(folder)
    chosen = {key: value for key, value in own.decoding.items() if key != "image_size" or value}
    return replace(own, decoding={"md5": md5, **look, **chosen})


def encoder_facts(prepare: Prepare, directory: Path) -> Mapping[str, str]:
    """See `sources.Pretrained`."""
    folder = directory / encoders.FOLDER
    return encoders.facts(folder, prepare, *pictures.family(folder).about(folder))
