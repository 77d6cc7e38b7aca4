"""What kinds of samples have in common: how people give them to a model, and files in a table."""

import base64
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Use:
    """How samples of a kind are given to a model by people.

    Attributes:
        noun: What one is called.
        column: Of a table that is served.
        holds: What is in the column.
        prepared: What becomes of it, in whole sentences.
        suffixes: Of files with samples; empty where these are given in tables alone.
        formats: The same for a person.
        varied: Whether training may vary the samples (`metashot.learning.augmentation`).
        merged: Whether samples that differ as files may be the same once they are prepared.
    """

    noun: str
    column: str
    holds: str
    prepared: str
    suffixes: frozenset[str] = frozenset()
    formats: str = ""
    varied: bool = False
    merged: bool = False


def file_bytes(file: Any, what: str) -> bytes:
    """Return a file's bytes out of a table, where JSON and CSV carry them as base64.

    Raises:
        ValueError: It is neither.
    """
    if isinstance(file, bytes):
        return file
    if isinstance(file, str):
        try:
            return base64.b64decode("".join(file.split()), validate=True)
        except ValueError:
            raise ValueError(f"text, but not the base64 of a {what} file") from None
    raise ValueError(f"{described(file)}: give the bytes of a {what} file, or their base64")


def described(value: Any) -> str:
    """Return what a value of a table is, for a message: ``null``, or the name of its type."""
    missing = value is None or type(value).__name__ in ("NAType", "NaTType")
    return "null" if missing or (isinstance(value, float) and value != value) else type(value).__name__
