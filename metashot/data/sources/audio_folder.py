"""Audio folder: sounds of your own, in class folders or named by class, as a folder or in a zip file."""

from collections.abc import Mapping
from dataclasses import dataclass

from metashot.data.files import folders
from metashot.data.kinds import sounds

Raw = folders.Raw
ABOUT: Mapping[str, object] = {
    "source": "an audio folder",
    "licence": "as its owner says",
    "citation": "",
    "synthetic": False,
}
_FOLDER = folders.Folder(sounds.SUFFIXES, "sounds")
digest, download, items = _FOLDER.digest, _FOLDER.download, _FOLDER.items


@dataclass(frozen=True, kw_only=True)
class Prepare(sounds.Prepare, folders.Prepare):
    """Section ``prepare`` of a data set that is a folder of sounds."""
