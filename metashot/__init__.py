"""Audited, compared, registered few-shot models."""

from typing import Any

__all__ = [
    "Difference",
    "Evaluation",
    "Form",
    "Manifest",
    "MetashotError",
    "Method",
    "Progress",
    "SampleSet",
    "build",
    "compare",
    "draw_episodes",
    "evaluate",
    "load",
    "load_registered",
    "load_samples",
    "make_samples",
    "save",
    "train",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: torch is slow to import."""
    if name == "__version__":
        from importlib import metadata

        return metadata.version(__name__)
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(__import__(f"{__name__}.api", fromlist=[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
