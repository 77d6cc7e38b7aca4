"""Texts as vectors of a frozen sentence encoder, a folder in the layout of Sentence Transformers.

Reimers and Gurevych 2019 (arXiv:1908.10084). Texts are encoded in preprocessing, and in requests to a
registered model; training sees vectors only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from metashot.data import Form, encoders
from metashot.data.encoders.sentence_transformers import SentenceEncoder
from metashot.data.kinds import texts

place = encoders.place


USE = replace(
    texts.USE,
    prepared="Texts are encoded by the encoder of the training data: one that is too large for the model to "
    "carry is in the folder that METASHOT_ENCODER names.",
)


@dataclass(frozen=True, kw_only=True)
class Prepare(encoders.Prepare):
    """Encoding of texts: the keys of ``prepare`` that all sources of sentences share."""

    rotations: ClassVar[bool] = False

    @property
    def form(self) -> Form:
        """See `sources.Prepare`; without the encoder's digest, which `download` knows."""
        return Form("sentences", (self.width,), "float32", {})


def decode(content: bytes, form: Form) -> tuple[str, bytes]:
    """A text in UTF-8, and a digest of it (`texts.digest`).

    Raises ValueError if it is not UTF-8, or blank.
    """
    text = content.decode()
    normalised = texts.normalised(text)
    if not normalised:
        raise ValueError("empty")
    return text, texts.digest(normalised)


def encode(samples: Sequence[str], form: Form) -> NDArray[np.float32]:
    """See `Kind.encode`."""
    return encoders.encode(encoders.loaded(form, None, SentenceEncoder), samples, form)


def served(value: object, form: Form) -> str:
    """A text. Raises ValueError for other types."""
    return decode(texts.text_of(value), form)[0]
