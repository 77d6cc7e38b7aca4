"""What kinds of samples share: how requests contain them, and the decoding of files in a table."""

import base64
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Use:
    """A kind of samples as the user of a registered model sees it.

    Attributes:
        noun: Name of a sample: ``picture``.
        column: Column of a request that contains the samples.
        holds: Content of the column.
        prepared: How samples are prepared, in whole sentences.
        suffixes: Suffixes of files with samples; empty if samples are only given in tables.
        formats: The formats of these files, for messages.
        varied: Whether training may augment the samples (`metashot.learning.augmentation`).
        merged: Whether samples that differ as files may be equal after preparation.
    """

    noun: str
    column: str
    holds: str
    prepared: str
    suffixes: frozenset[str] = frozenset()
    formats: str = ""
    varied: bool = False
    merged: bool = False


def file_bytes(file: Any, noun: str) -> bytes:
    """Return the bytes of a file in a table; JSON and CSV contain them as base64.

    Args:
        file: Bytes, or their base64.
        noun: What the file contains, for messages.

    Raises:
        ValueError: It is neither.
    """
    if isinstance(file, bytes):
        return file
    if isinstance(file, str):
        try:
            return base64.b64decode("".join(file.split()), validate=True)
        except ValueError:
            raise ValueError(f"text, but not the base64 of a {noun} file") from None
    raise ValueError(f"{described(file)}: give the bytes of a {noun} file, or their base64")


def described(value: Any) -> str:
    """Return the type of a value in a table, for messages; ``null`` for missing values."""
    missing = value is None or type(value).__name__ in ("NAType", "NaTType")
    return "null" if missing or (isinstance(value, float) and value != value) else type(value).__name__
