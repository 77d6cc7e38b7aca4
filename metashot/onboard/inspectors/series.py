"""Series: tables of measurements over time."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, Literal

import numpy as np

from metashot.data import Form, Item
from metashot.data.files import Files, class_names, columnar, division, folders, tables
from metashot.data.kinds import series
from metashot.data.sources import series_table
from metashot.errors import MetashotError, Mistakes
from metashot.onboard import channels
from metashot.onboard.inspectors.base import Gathered, SampleInspection, spread, too_few_classes

LENGTHS = 16, 1024  # shortest and longest that are proposed, in time steps
STANDARDISATIONS: tuple[Literal["series", "channel", "none"], ...] = ("series", "channel", "none")


class Series:
    """Tables of series, with the columns id and label, and others of numbers; see `series_table`."""

    source: ClassVar = "series_table"
    noun: ClassVar = "series"
    suffixes: ClassVar = series_table.SUFFIXES

    def gather(self, raw: folders.Raw, root: Path, known: Mapping[str, Any]) -> Gathered:
        """See `Inspector.gather`; channels are all columns of numbers without another meaning."""
        if raw.splits:
            raise MetashotError("--splits: a table of series has a column `split` instead")
        files = columnar.find(raw.path, root)
        columns = channels.columns_of(files, raw.path)
        split: division.Division = (
            "listed" if columns.listed else division.Shares(of="classes", seed=0, val=0.1, test=0.1)
        )
        prepare = series_table.Prepare(
            channels=columns.channels,
            length=LENGTHS[0],
            fit="crop",
            standardise="none",
            repeated="refuse",
            split=split,
        )
        samples: Files = {}
        mistakes, labels = Mistakes(), tables.Labels()
        items: dict[str, Item] = {}
        for name, read in files.items():
            origin, suffix = columnar.origin_of(raw.path, name), columnar.suffix_of(name)
            try:
                for item in series_table.of_table(read(), origin, suffix, prepare, labels, mistakes):
                    key = item.key
                    series_table.check_unique(items.setdefault(key.name, item), item, mistakes)
                    parts = tuple(key) if columns.listed else (key.class_, key.name)
                    samples["/".join(part.replace("/", "|") for part in parts)] = item.read
            except MetashotError as error:
                mistakes.add_line(error)
        classes = {name.split("/")[-2] for name in samples}
        lines = [*mistakes.lines, *class_names.ambiguous(raw.path, classes)]
        summary = {"channels": ", ".join(columns.channels)}
        if columns.left_out:
            summary["left out"] = "; ".join(
                f"{name or 'a column without a name'} ({why})" for name, why in columns.left_out.items()
            )
        if labels.merged:
            summary["merged"] = labels.merged
        return Gathered(
            folders.Contents(
                dict(sorted(samples.items())), {}, 0, lines or too_few_classes(raw.path, samples)
            ),
            {"path": raw.path},
            columns.listed,
            partial(self.inspect, prepare),
            summary,
        )

    def inspect(self, prepare: series_table.Prepare, content: bytes) -> SampleInspection:
        """Inspect a series; see `Gathered.inspect`."""
        _, digest = series.decode(content, prepare.form)
        steps = len(content) // (8 * len(prepare.channels))
        return SampleInspection({"": digest}, None, (steps, prepare.channels))

    def summary(self, samples: Sequence[SampleInspection]) -> Mapping[str, str]:
        """See `Inspector.summary`."""
        return {"steps": spread([sample.facts[0] for sample in samples], ",.0f")}

    def warnings(self, samples: Mapping[str, SampleInspection]) -> Sequence[str]:
        """See `Inspector.warnings`."""
        return []

    def detected(self, samples: Sequence[SampleInspection]) -> tuple[dict[str, Any], str]:
        """See `Inspector.detected`. The length is the median, within `LENGTHS`."""
        steps = median(sample.facts[0] for sample in samples) if samples else LENGTHS[0]
        channels = list(samples[0].facts[1]) if samples else []
        return {"channels": channels, "length": int(np.clip(round(steps), *LENGTHS))}, ""

    def chosen(
        self,
        gathered: Gathered,
        prepare: Mapping[str, Any],
        splits: Mapping[str, str],
        n_way: int,
        n_query: int,
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """See `Chooser.chosen`: the standardisation, which changes results more than the method does."""
        from metashot.onboard import standardisation  # imports torch

        usual = self.defaults(prepare)["prepare"]
        forms: dict[str, Form] = {
            name: series.Prepare(
                channels=tuple(prepare["channels"]),
                length=prepare["length"],
                fit=usual["fit"],
                standardise=name,
            ).form
            for name in STANDARDISATIONS
        }
        tried = standardisation.accuracies(forms, gathered.contents.samples, splits, n_way, n_query)
        best = max(tried, key=tried.__getitem__)
        shown = ", ".join(f"{name} {accuracy:.1%}" for name, accuracy in tried.items())
        return {"standardise": best}, {"standardise": f"{best}; without training, in validation: {shown}"}

    def defaults(self, prepare: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """See `Inspector.defaults`."""
        return {
            "prepare": {"fit": "crop", "standardise": "series"},
            "backbone": {"name": "conv1d", "width": 64, "kernel": 5},
            "augment": {},
        }
