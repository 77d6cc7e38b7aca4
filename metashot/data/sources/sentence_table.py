"""Sentence table: labelled texts of your own as in `text_table`, encoded by a frozen sentence encoder."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from metashot.data import Form, encoders
from metashot.data.encoders import sentence_transformers
from metashot.data.files import division
from metashot.data.kinds import sentences
from metashot.data.sources import text_table

ABOUT = text_table.ABOUT
digest, items, encoder_digest = text_table.digest, text_table.items, encoders.digest


@dataclass(frozen=True, kw_only=True)
class Raw(text_table.Raw, encoders.Raw):
    """Section ``raw`` of a data set of texts for a sentence encoder."""


@dataclass(frozen=True, kw_only=True)
class Prepare(sentences.Prepare, division.Prepare):
    """Section ``prepare`` of a data set of texts for a sentence encoder."""


def download(raw: Raw, directory: Path) -> None:
    """Pack the texts and the encoder. Raises MetashotError as `text_table.download` and `encoders.pack`."""
    text_table.download(raw, directory)
    encoders.pack(raw, directory)


def form(prepare: Prepare, directory: Path) -> Form:
    """See `sources.Encoded`."""
    return replace(prepare.form, decoding={"md5": encoders.place(directory / encoders.FOLDER)})


def encoder_facts(prepare: Prepare, directory: Path) -> Mapping[str, str]:
    """See `sources.Pretrained`."""
    folder = directory / encoders.FOLDER
    return encoders.facts(folder, prepare, *sentence_transformers.about(folder))
