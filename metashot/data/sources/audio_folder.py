"""Audio folder: sounds of your own, in class folders or named by class, as a folder or in a zip file."""

from dataclasses import dataclass

from metashot.data.files import division, folders
from metashot.data.kinds import sounds
from metashot.data.sources.folder import FolderSource, about

Raw = folders.Raw
ABOUT = about("an audio folder")
_FOLDER = FolderSource(sounds.SUFFIXES, "sounds")
digest, download, items = _FOLDER.digest, _FOLDER.download, _FOLDER.items


@dataclass(frozen=True, kw_only=True)
class Prepare(sounds.Prepare, division.Prepare):
    """Section ``prepare`` of a data set of sounds."""
