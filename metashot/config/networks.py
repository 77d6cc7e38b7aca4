"""Which backbones a cell may build: the data set's, or for methods without training those to choose from."""

from collections.abc import Mapping
from typing import Any

from metashot.config import params
from metashot.learning.features import FEATURES


def networks(method: Mapping[str, Any], budget: Any, backbone: str, kind: str) -> list[str]:
    """Return the names of the backbones that a method may build on a data set.

    Args:
        method: Section ``method.<method>``.
        budget: Section ``data.<dataset>.budget.<method>``.
        backbone: Name of the data set's backbone.
        kind: Of its samples.
    """
    section = {**method, **params.budgeted(budget)[1]}
    if params.maker(section) == "training":
        return [backbone]
    return list(FEATURES[kind].NAMES if section["features"] == "auto" else section["features"])
