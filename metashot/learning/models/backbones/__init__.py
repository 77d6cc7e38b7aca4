"""Embedding networks, a module each: samples to feature vectors.

Each has a dataclass of its parameters (`base.Params`) and a network (`base.Backbone`).
"""

from collections.abc import Mapping
from typing import Any

from metashot.catalogue import Catalogue
from metashot.learning.models.backbones.base import Backbone, Params, channels_last

__all__ = ["BACKBONES", "Backbone", "Params", "channels_last", "params_of"]

BACKBONES: Catalogue[type[Params]] = Catalogue(
    "backbone",
    __name__,
    {
        "colours": "colours:ColoursParams",
        "conv1d": "conv1d:Conv1dParams",
        "conv4": "conv4:Conv4Params",
        "dense": "dense:DenseParams",
        "hog": "hog:HogParams",
        "identity": "identity:IdentityParams",
        "mfcc": "mfcc:MfccParams",
        "mfcc_statistics": "mfcc_statistics:MfccStatisticsParams",
        "minirocket": "minirocket:MinirocketParams",
        "ngrams": "ngrams:NgramsParams",
        "outline": "outline:OutlineParams",
        "outline_statistics_minirocket": "mixed:MixedParams",
        "resnet12": "resnet12:Resnet12Params",
        "series_statistics": "series_statistics:SeriesStatisticsParams",
        "statistics_minirocket": "mixed:MixedParams",
        "tfidf": "tfidf:TfidfParams",
    },
    ("build", "count"),
)


def params_of(about: Mapping[str, Any]) -> Params:
    """Return the parameters of which ``about`` is ``asdict``.

    Raises:
        MetashotError: There is no such backbone.
        ValueError, TypeError: It has no such parameters.
    """
    return BACKBONES[str(about.get("name"))](**about)
