"""Sentence table: labelled texts of your own as in `text_table`, encoded by a frozen sentence encoder."""

from dataclasses import dataclass
from pathlib import Path

from metashot.data.files import division
from metashot.data.kinds import sentences
from metashot.data.sources import text_table

Raw = text_table.Raw
ABOUT = text_table.ABOUT
digest, download, items = text_table.digest, text_table.download, text_table.items


@dataclass(frozen=True, kw_only=True)
class Prepare(sentences.Prepare, division.Prepare):
    """Section ``prepare`` of a data set of texts for a sentence encoder."""


def encoder_digest(prepare: Prepare, root: Path) -> str:
    """See `sources.Encoded`."""
    return sentences.digest(sentences.folder(prepare.form, root))
