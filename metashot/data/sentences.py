"""Texts as the vectors of a frozen sentence encoder, a folder in the layout of Sentence Transformers.

Reimers and Gurevych 2019 (arXiv:1908.10084). A text is encoded when data are preprocessed, and wherever a
registered model is asked about it; training sees vectors.
"""

import functools
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from metashot import files
from metashot.data import Form, texts
from metashot.errors import MetashotError

ENCODER = "METASHOT_ENCODER"  # the environment variable with the encoder's folder, where it is another one
_LOCK = threading.Lock()

Encode = Callable[[str], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """How texts become vectors: the keys of ``prepare`` that every source of sentences has.

    Attributes:
        encoder: Folder of the encoder, relative to the repository or absolute.
        encoder_md5: Digest of its files.
        width: Numbers in a vector.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    rotations: ClassVar[bool] = False

    encoder: str
    encoder_md5: str
    width: int

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width: {self.width} is less than 1")

    @property
    def form(self) -> Form:
        """See `source.Prepare`."""
        return Form("sentences", (self.width,), "float32", {"encoder": self.encoder, "md5": self.encoder_md5})


def decode(content: bytes, form: Form) -> tuple[NDArray[np.float32], bytes]:
    """A text in UTF-8 as a vector ``[width]``, and a digest of the text (`texts.digest`).

    Each text is encoded by itself: its vector depends on nothing else. The encoder is looked for where the
    data were prepared, or in the folder `ENCODER` names.

    Raises:
        ValueError: It is no UTF-8, or without a character.
        MetashotError: There is no such encoder.
    """
    text = content.decode()
    normalised = texts.normalised(text)
    if not normalised:
        raise ValueError("empty")
    folder = os.environ.get(ENCODER) or form.decoding["encoder"]
    with _LOCK:  # its tokenizer is for one thread, and it is to be loaded once
        encode = _encoder(Path(folder), form.decoding["md5"])
        if isinstance(encode, str):
            raise MetashotError(encode)
        vector = encode(text)
    if vector.shape != form.shape:
        raise MetashotError(f"{folder}: its vectors have {len(vector)} numbers: set prepare.width to that")
    return vector, texts.digest(normalised)


def digest(folder: Path) -> str:
    """Digest of an encoder: of the names and contents of its files.

    Raises:
        MetashotError: It is no folder in the layout of Sentence Transformers.
    """
    if not (folder / "modules.json").is_file():
        raise MetashotError(
            f"{folder}: no sentence encoder (a folder that SentenceTransformer.save wrote); set "
            f"prepare.encoder, or {ENCODER} where a model is used elsewhere"
        )
    inside = (path for path in folder.rglob("*") if path.is_file())
    return files.folder_md5({path.relative_to(folder).as_posix(): files.md5(path) for path in inside})


@functools.cache  # of what is wrong with it as well, for it is asked for every text
def _encoder(folder: Path, md5: str) -> Encode | str:
    """The encoder in a folder, or why there is none."""
    try:
        return _loaded(folder, md5)
    except MetashotError as error:
        return str(error)


def _loaded(folder: Path, md5: str) -> Encode:
    if (found := digest(folder)) != md5:
        raise MetashotError(
            f"{folder}: not the encoder that is pinned (prepare.encoder_md5: {md5 or 'none yet'}): restore "
            f"its files, or pin it as {found}"
        )
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when the library is imported
    try:
        import torch
        from sentence_transformers import SentenceTransformer
    except ModuleNotFoundError:
        raise MetashotError(
            "sentence encoders need the package sentence-transformers: pip install 'metashot[sentences]'"
        ) from None
    if pickled := [path.name for path in sorted(folder.rglob("*")) if path.suffix in (".bin", ".pt", ".pkl")]:
        raise MetashotError(f"{folder}: has pickled weights ({pickled[0]}): save it as safetensors")
    try:
        model = SentenceTransformer(
            str(folder), device="cpu", local_files_only=True, model_kwargs={"use_safetensors": True}
        )
    except Exception as error:  # tokenizers raises nothing narrower
        reason = " ".join(str(error).split())
        raise MetashotError(f"{folder}: the encoder cannot be loaded ({reason[:300]})") from error

    def encode(text: str) -> NDArray[np.float32]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # how sums round is not to depend on the machine's cores
        try:
            vector = model.encode([text], show_progress_bar=False, convert_to_numpy=True)[0]
        finally:
            torch.set_num_threads(threads)
        return np.asarray(vector, np.float32)

    return encode
