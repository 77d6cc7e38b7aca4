"""Texts as the vectors of a frozen sentence encoder, a folder in the layout of Sentence Transformers.

Reimers and Gurevych 2019 (arXiv:1908.10084). A text is encoded when data are preprocessed, and wherever a
registered model is asked about it; training sees vectors.
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
from metashot.errors import MetashotError
from metashot.section import Section

ENCODER = "METASHOT_ENCODER"  # the environment variable with the encoder's folder, where it is another one
_LOCK = threading.Lock()

Encode = Callable[[str], NDArray[np.float32]]


USE = replace(
    texts.USE,
    prepared="Texts go through the sentence encoder of the training data. The model does not carry it: it "
    "has to lie where it lay then, or in the folder that METASHOT_ENCODER names.",
)


@dataclass(frozen=True, kw_only=True)
class Prepare(Section):
    """How texts become vectors: the keys of ``prepare`` that every source of sentences has.

    Attributes:
        encoder: Folder of the encoder, relative to the repository or absolute.
        encoder_md5: Digest of its files, written by `metashot refresh`; empty before the first time.
        width: Numbers in a vector.
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
    """A text in UTF-8 as a vector ``[width]``, and a digest of the text (`texts.digest`).

    Each text is encoded by itself: its vector depends on nothing else.

    Raises:
        ValueError: It is not UTF-8, without a character, or its vector is not of finite numbers.
        MetashotError: There is no such encoder.
    """
    text = content.decode()
    normalised = texts.normalised(text)
    if not normalised:
        raise ValueError("empty")
    place = folder(form)
    with _LOCK:  # its tokenizer is for one thread, and it is to be loaded once
        vector = _encoder(place, form.decoding["md5"])(text)
    if vector.shape != form.shape:
        raise MetashotError(f"{place}: its vectors have {len(vector)} numbers: set prepare.width to that")
    if not np.isfinite(vector).all():
        raise ValueError("a text whose vector is not finite")
    return vector, texts.digest(normalised)


def folder(form: Form, root: Path = Path()) -> Path:
    """Where the encoder is: as METASHOT_ENCODER says, or else where it was in the repository ``root``."""
    elsewhere = os.environ.get(ENCODER)
    return Path(elsewhere) if elsewhere else root / form.decoding["encoder"]


def digest(place: Path) -> str:
    """Digest of an encoder: of names and contents of the files in its folder, hidden ones left out.

    Raises:
        MetashotError: It is not a folder in the layout of Sentence Transformers, or cannot be read.
    """
    if not (place / "modules.json").is_file():
        raise MetashotError(
            f"{place}: no sentence encoder (a folder that SentenceTransformer.save wrote); set "
            f"prepare.encoder, or {ENCODER} where a model is used elsewhere"
        )
    found = (path.relative_to(place) for path in place.rglob("*") if path.is_file())
    try:
        return files.folder_md5(
            {
                name.as_posix(): files.md5(place / name)
                for name in found
                if not any(part.startswith(".") for part in name.parts)  # a download leaves its times there
            }
        )
    except OSError as error:
        raise MetashotError(f"{error.filename}: cannot be read ({error.strerror})") from None


def served(value: object, form: Form) -> NDArray[np.float32]:
    """A text as its vector; see `decode`. Raises ValueError for what is not a text."""
    return decode(texts.text_of(value), form)[0]


@functools.cache
def _encoder(place: Path, md5: str) -> Encode:
    """The encoder in a folder, which has to be the one that is pinned."""
    if (found := digest(place)) != md5:
        raise MetashotError(
            f"{place}: not the encoder that is pinned (prepare.encoder_md5: {md5 or 'none yet'}); restore "
            f"its files, or pin those that are there, {found}: `metashot refresh`"
        )
    for path in sorted(place.rglob("pytorch_model.bin")):
        if not any(path.parent.glob("model.safetensors*")):  # which is read where both are there
            raise MetashotError(f"{path}: pickled weights, which are not read; save them as safetensors")
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when the library is imported; telemetry is off as well
    try:
        import torch
        from sentence_transformers import SentenceTransformer
    except ModuleNotFoundError:
        raise MetashotError(
            "sentence encoders need the package sentence-transformers: pip install 'metashot[sentences]'"
        ) from None
    try:
        model = SentenceTransformer(
            str(place),
            device="cpu",
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True},
        )
    except Exception as error:  # tokenizers raises nothing narrower
        reason = " ".join(str(error).split())
        raise MetashotError(f"{place}: the encoder cannot be loaded ({reason[:300]})") from error

    def encode(text: str) -> NDArray[np.float32]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # how sums round is not to depend on the machine's cores
        try:
            vector = model.encode([text], show_progress_bar=False, convert_to_numpy=True)[0]
        finally:
            torch.set_num_threads(threads)
        return np.asarray(vector, np.float32)

    return encode
