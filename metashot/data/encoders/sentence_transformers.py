"""Sentence encoders: folders in the layout of Sentence Transformers (Reimers and Gurevych 2019)."""

import json
import threading
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metashot.data import encoders
from metashot.errors import MetashotError

BATCH, TOKENS = 8, 256  # texts in a batch, and tokens that these may have together
ON_GPU = 8  # times as many on a GPU
_LOCK = threading.Lock()  # tokenizers are not thread-safe


class SentenceEncoder:
    """A loaded sentence encoder.

    Texts of equally many tokens are encoded together, in batches whose size follows from that number alone;
    an incomplete one is filled up. So nothing is padded, and the shapes that a network computes with depend
    on the text: a vector is the same in any batch.

    Args:
        folder: Of the encoder.

    Raises:
        MetashotError: It cannot be loaded.
    """

    def __init__(self, folder: Path) -> None:
        for part in _modules(folder):
            if not str(part.get("type", "")).startswith("sentence_transformers."):
                reason = ValueError(f"modules.json names {part.get('type')}, which is not of the library")
                raise encoders.fails_to_load(folder, reason)
        encoders.offline()
        try:
            import torch
            from sentence_transformers import SentenceTransformer
            from transformers.utils import logging
        except ModuleNotFoundError:
            raise encoders.missing("sentence-transformers", "sentences") from None
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        self.device = encoders.device()
        try:
            self.model = SentenceTransformer(
                str(folder),
                device=self.device,
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"use_safetensors": True, "dtype": torch.float32},
            ).eval()
        except Exception as error:  # tokenizers raises nothing narrower
            raise encoders.fails_to_load(folder, error) from error
        name = self.model.default_prompt_name
        self.prompt = self.model.prompts.get(name) if name else None

    def __call__(self, samples: Sequence[str]) -> NDArray[np.float32]:
        """See `encoders.Encoder`."""
        import torch

        with _LOCK:
            inputs = [self.model.preprocess([text], prompt=self.prompt) for text in samples]
        groups: dict[Any, list[int]] = defaultdict(list)
        for row, features in enumerate(inputs):
            groups[_shapes(features) or row].append(row)
        batches: list[list[int]] = []
        for shapes, rows in groups.items():
            # Also the only one of its length is filled up, so that its batch has the shape of all others
            number = self._together(inputs[rows[0]]) if isinstance(shapes, tuple) else 1
            for start in range(0, len(rows), number):
                batch = rows[start : start + number]
                batches.append(batch + batch[-1:] * (number - len(batch)))

        def run(batch: list[int]) -> NDArray[np.float32]:
            joined = {
                key: torch.cat([inputs[row][key] for row in batch]).to(self.device)
                if isinstance(value, torch.Tensor)
                else value
                for key, value in inputs[batch[0]].items()
            }
            vectors = self.model(joined)["sentence_embedding"]
            numbers: NDArray[np.float32] = vectors[:, : self.model.truncate_dim].float().cpu().numpy()
            return numbers

        encoded: dict[int, NDArray[np.float32]] = {}
        for batch, vectors in zip(batches, encoders.in_threads(run, batches), strict=True):
            encoded.update(zip(batch, vectors, strict=True))
        return np.stack([encoded[row] for row in range(len(samples))])

    def _together(self, features: Any) -> int:
        """How many texts with as many tokens as this one make a batch."""
        length: int = max(value.shape[1] for value in features.values() if hasattr(value, "shape"))
        scale = ON_GPU if self.device == "cuda" else 1
        return min(BATCH * scale, max(1, TOKENS * scale // length))


def about(folder: Path) -> tuple[str, str]:
    """Name of a sentence encoder, and what it was trained on; empty where its files do not say."""
    config = encoders.config(folder, "config.json")
    architectures = config.get("architectures") or [""]
    return str(config.get("_name_or_path") or architectures[0] or "sentence encoder"), ""


def _modules(folder: Path) -> list[dict[str, Any]]:
    try:
        modules = json.loads((folder / "modules.json").read_bytes())
        return [dict(part) for part in modules]
    except (OSError, ValueError, TypeError, RecursionError):
        raise MetashotError(f"{folder}: modules.json is not a list of modules") from None


def _shapes(features: Any) -> tuple[Any, ...] | None:
    """What texts that can be encoded together have in common; None for one that is encoded by itself."""
    shared = []
    for key, value in sorted(features.items()):
        if hasattr(value, "shape"):
            if value.ndim < 2 or value.shape[0] != 1:
                return None
            value = tuple(value.shape)
        shared.append((key, str(value)))
    return tuple(shared)
