"""The fixed backbones that methods without training choose from, for each kind of samples."""

from collections.abc import Mapping, Sequence

FEATURES: Mapping[str, Sequence[str]] = {
    "images": ("identity",),
    "sentences": ("identity",),
    "series": ("identity",),
    "sounds": ("identity",),
    "texts": ("identity",),
}
