"""Which standardisation suits some series: tried without training, on validation episodes, in seconds."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np

from metashot.data import Form, Split
from metashot.data.kinds import series
from metashot.data.store import SampleSet
from metashot.learning import choosing
from metashot.learning.models.episodes import sample
from metashot.learning.models.methods.base import Problem
from metashot.learning.models.methods.centroid import Centroid
from metashot.learning.models.methods.training_free import Params

FEATURES = ("series_statistics", "outline", "identity")  # the quickest of those for series
MOST = 50  # series of a class that are looked at
EPISODES = 200


def accuracies(
    forms: Mapping[str, Form],
    contents: Mapping[str, Callable[[], bytes]],
    splits: Mapping[str, str],
    n_way: int,
    n_query: int,
) -> dict[str, float]:
    """Validation accuracy with each standardisation: of class means on the best of some fixed features.

    Args:
        forms: Form of the samples with each, before constants of the training split are added.
        contents: The series by path; the folder is the class.
        splits: Split of each.
        n_way: Classes in an episode.
        n_query: Queries of each class; one sample more is the support set.
    """
    by_split: dict[Split, dict[str, list[bytes]]] = {"train": {}, "val": {}}
    for name in sorted(contents):
        classes = by_split.get(splits[name])  # type: ignore[call-overload]
        if classes is not None:
            chosen = classes.setdefault(str(PurePosixPath(name).parent), [])
            if len(chosen) < MOST:
                chosen.append(contents[name]())
    measured = {}
    for standardise, form in forms.items():
        form = series.measured(form, (content for many in by_split["train"].values() for content in many))
        train, val = (_samples(form, split, classes) for split, classes in by_split.items())
        episodes = sample(val, n_way=n_way, k_shot=1, n_query=n_query, episodes=EPISODES, seed=0)
        networks = choosing.applicable(FEATURES, form.shape)
        candidates = [Centroid(Params(features="auto"), Problem(form, network)) for network in networks]
        measured[standardise] = choosing.choose(candidates, train, val, episodes)[1][0].accuracy
    return measured


def _samples(form: Form, split: Split, classes: Mapping[str, Sequence[bytes]]) -> SampleSet:
    arrays = [series.decode(content, form)[0] for many in classes.values() for content in many]
    labels = np.repeat(np.arange(len(classes)), [len(many) for many in classes.values()])
    return SampleSet(np.stack(arrays), labels, list(classes), form, "", split)
