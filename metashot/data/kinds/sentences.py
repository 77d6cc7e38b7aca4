"""Texts as embeddings by a frozen sentence encoder, a folder in the layout of Sentence Transformers.

Reimers and Gurevych 2019 (arXiv:1908.10084). Texts are encoded in preprocessing, and in requests to a
registered model; training sees vectors only.
"""

import functools
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from metashot import files
from metashot.data import Form
from metashot.data.kinds import texts
from metashot.errors import MetashotError, reason_of
from metashot.section import Section

ENCODER = "METASHOT_ENCODER"  # environment variable: where the encoder is, if it has moved
_LOCK = threading.Lock()

Encode = Callable[[str], NDArray[np.float32]]


USE = replace(
    texts.USE,
    prepared="Texts are encoded by the sentence encoder of the training data. The model does not include "
    "it: it has to be where it was then, or in the folder that METASHOT_ENCODER names.",
)


@dataclass(frozen=True, kw_only=True)
class Prepare(Section):
    """Encoding of texts: the keys of ``prepare`` that all sources of sentences share.

    Attributes:
        encoder: Folder of the encoder, relative to the repository or absolute.
        encoder_md5: Digest of its files, written by `metashot refresh`; empty before the first time.
        width: Dimension of the embeddings.
    """

    rotations: ClassVar[bool] = False

    encoder: str
    encoder_md5: str
    width: int

    def __post_init__(self) -> None:
        if not 1 <= self.width <= 65_536:
            raise ValueError(f"width: {self.width} is not between 1 and 65,536")

    @property
    def form(self) -> Form:
        """See `sources.Prepare`."""
        return Form("sentences", (self.width,), "float32", {"encoder": self.encoder, "md5": self.encoder_md5})


def decode(content: bytes, form: Form) -> tuple[NDArray[np.float32], bytes]:
    """Embedding ``[width]`` of a text in UTF-8, and a digest of the text (`texts.digest`).

    Each text is encoded by itself: its embedding depends on nothing else.

    Raises:
        ValueError: It is not UTF-8, is blank, or its embedding is not finite.
        MetashotError: The encoder is missing, or not the pinned one.
    """
    text = content.decode()
    normalised = texts.normalised(text)
    if not normalised:
        raise ValueError("empty")
    path = folder(form)
    with _LOCK:  # tokenizers are not thread-safe, and the encoder should be loaded once
        vector = _encoder(path, form.decoding["md5"])(text)
    if vector.shape != form.shape:
        raise MetashotError(f"{path}: its vectors have {len(vector)} numbers: set prepare.width to that")
    if not np.isfinite(vector).all():
        raise ValueError("a text whose vector is not finite")
    return vector, texts.digest(normalised)


def folder(form: Form, root: Path = Path()) -> Path:
    """Folder of the encoder: METASHOT_ENCODER if that is set, else its path in the repository ``root``."""
    moved = os.environ.get(ENCODER)
    return Path(moved) if moved else root / form.decoding["encoder"]


def digest(folder: Path) -> str:
    """Digest of an encoder: names and contents of the files in its folder, without hidden ones.

    Raises:
        MetashotError: It is not a folder in the layout of Sentence Transformers, or cannot be read.
    """
    if not (folder / "modules.json").is_file():
        raise MetashotError(
            f"{folder}: no sentence encoder (a folder that SentenceTransformer.save wrote); set "
            f"prepare.encoder, or {ENCODER} if a model is used elsewhere"
        )
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    try:
        return files.folder_md5(
            {
                name.as_posix(): files.md5(folder / name)
                for name in names
                if not any(part.startswith(".") for part in name.parts)  # downloads keep timestamps there
            }
        )
    except OSError as error:
        raise MetashotError(f"{error.filename}: cannot be read ({error.strerror})") from None


def served(value: object, form: Form) -> NDArray[np.float32]:
    """Embedding of a text, as in `decode`. Raises ValueError for other types."""
    return decode(texts.text_of(value), form)[0]


@functools.cache
def _encoder(folder: Path, md5: str) -> Encode:
    """Load the encoder in a folder. Raises MetashotError if it is not the pinned one or cannot be loaded."""
    if (present := digest(folder)) != md5:
        raise MetashotError(
            f"{folder}: not the encoder that is pinned (prepare.encoder_md5: {md5 or 'none yet'}); restore "
            f"its files, or run `metashot refresh` to pin the present ones ({present})"
        )
    for path in sorted(folder.rglob("pytorch_model.bin")):
        if not any(path.parent.glob("model.safetensors*")):  # which is preferred
            raise MetashotError(f"{path}: pickled weights are not read: save them as safetensors")
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when the library is imported; also disables telemetry
    try:
        import torch
        from sentence_transformers import SentenceTransformer
    except ModuleNotFoundError:
        raise MetashotError(
            "sentence encoders need the package sentence-transformers: pip install 'metashot[sentences]'"
        ) from None
    try:
        model = SentenceTransformer(
            str(folder),
            device="cpu",
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True},
        )
    except Exception as error:  # tokenizers raises nothing narrower
        raise MetashotError(f"{folder}: the encoder cannot be loaded ({reason_of(error)})") from error

    def encode(text: str) -> NDArray[np.float32]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # rounding must not depend on the number of cores
        try:
            vector = model.encode([text], show_progress_bar=False, convert_to_numpy=True)[0]
        finally:
            torch.set_num_threads(threads)
        return np.asarray(vector, np.float32)

    return encode
