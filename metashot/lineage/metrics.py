"""What an evaluation measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from metashot import formatting
from metashot.lineage.stored import Count, Flag, Md5, Name, Number, Stored


@dataclass(frozen=True, kw_only=True)
class Measured(Stored):
    """The accuracy on some test episodes.

    Attributes:
        accuracy: Mean over the episodes, as a fraction.
        ci95: Half width of its 95 % interval.
        episodes: Number of them.
    """

    accuracy: Number
    ci95: Number
    episodes: Count

    @property
    def shown(self) -> str:
        """As people read it: ``97.12 ± 0.31 %``."""
        return formatting.accuracy(self.accuracy, self.ci95)


@dataclass(frozen=True, kw_only=True)
class Metrics(Measured):
    """metrics.json: a model on the test episodes of its setting.

    Attributes:
        n_way: Classes of an episode.
        k_shot: Support samples of a class.
        n_query: Queries of a class.
        transductive: Whether an answer depends on the other queries of its episode.
        parameters: Number of trained parameters.
        untrained: The same network with the weights that training started from, on the first episodes; None
            for methods without training.
        extra: The same model on the episodes of the extra settings, by name.
        manifest: md5 of the setting's test episodes.
    """

    n_way: Annotated[Count, Field(ge=2, lt=10**6)]
    k_shot: Count
    n_query: Count
    transductive: Flag
    parameters: Count
    extra: Mapping[Name, Measured]
    manifest: Md5
    untrained: Measured | None = None

    @property
    def shape(self) -> str:
        """The protocol in short: ``5-way 1-shot``."""
        return f"{self.n_way}-way {self.k_shot}-shot"

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        return 1 / self.n_way


@dataclass(frozen=True, kw_only=True)
class TrainedOn(Stored):
    """The model of a cross test: data set, md5 of its samples, md5 of its weights."""

    dataset: Name
    data: Md5
    model: Md5


@dataclass(frozen=True, kw_only=True)
class TestedOn(Stored):
    """The episodes of a cross test: data set, md5 of its samples, md5 of the manifest."""

    dataset: Name
    data: Md5
    episodes: Md5


@dataclass(frozen=True, kw_only=True)
class CrossMetrics(Measured):
    """A model on the test episodes of another data set than it was trained on."""

    n_way: Annotated[Count, Field(ge=2, lt=10**6)]
    k_shot: Count
    trained_on: TrainedOn
    tested_on: TestedOn
