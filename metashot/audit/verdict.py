"""Verdicts of an audit: what differs, and what cannot be known."""

from typing import Any

from metashot.lineage.history import PastLock
from metashot.lineage.lockfile import Lock


class Differs(Exception):
    """Something is not what a record says; the message names it."""


class Unknown(Exception):
    """Something cannot be checked, as bytes or commits are missing here; the message says which."""


def same(what: str, value: Any, expected: Any, where_: str = "") -> None:
    """Raise Differs unless a value is the expected one."""
    if value != expected:
        raise Differs(f"{what} is {short(value)}, not {short(expected)}{f' as {where_}' if where_ else ''}")


def short(value: Any) -> str:
    """Return a value for a message, shortened."""
    text = "missing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def where(lock: Lock) -> str:
    """Name a dvc.lock for a message."""
    return f"dvc.lock of commit {lock.commit[:10]}" if isinstance(lock, PastLock) else "dvc.lock"
