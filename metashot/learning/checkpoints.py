"""Checkpoints: the state of a training, in a file that is replaced as a whole or not at all."""

import hashlib
import io
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from metashot.errors import MetashotError
from metashot.files import replacing


def save(path: Path, state: Mapping[str, Any]) -> bool:
    """Write ``state``, nested containers of tensors and plain values; an earlier checkpoint is replaced.

    Returns:
        Whether it was written. If not, a warning says why, and the earlier checkpoint is as it was.
    """
    buffer = io.BytesIO()  # torch's writer reports a full disk as an internal error, or not at all
    torch.save(dict(state), buffer)
    content = buffer.getvalue()
    try:
        with replacing(path) as partial, partial.open("wb") as file:
            file.write(_digest(path, content) + content)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, MetashotError) as error:
        _warn(f"no checkpoint written, the training goes on without ({error})")
        return False
    return True


def load(path: Path) -> dict[str, Any] | None:
    """Read what `save` wrote, onto the CPU.

    Returns None if there is no file or, with a warning, if it is damaged or of another training. The file
    begins with a digest of its name and content: torch's reader accepts damaged numbers, and a file that was
    renamed is the checkpoint of another training.
    """
    if not path.exists():
        return None
    try:
        content = path.read_bytes()
    except OSError:
        content = b""
    length = len(_digest(path, b""))
    if content[:length] != _digest(path, content[length:]):
        _warn(f"{path}: damaged or not a checkpoint of this training: it starts anew")
        return None
    state: dict[str, Any] = torch.load(io.BytesIO(content[length:]), map_location="cpu", weights_only=True)
    return state


def _digest(path: Path, content: bytes) -> bytes:
    return hashlib.sha256(path.name.encode() + b"\0" + content).digest()


def _warn(line: str) -> None:
    with suppress(OSError):  # nobody reads on, or the log's disk is the full one
        tqdm.write(f"warning: {line}", file=sys.stderr)
