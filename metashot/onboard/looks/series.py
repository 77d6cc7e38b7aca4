"""Series: tables of measurements over time."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import numpy as np

from metashot.data import Item
from metashot.data.files import folders, split_lists, tables
from metashot.data.kinds import series
from metashot.data.sources import series_table
from metashot.errors import MetashotError, Mistakes
from metashot.onboard import channels
from metashot.onboard.looks.base import Gathered, Look, few_classes, spread

LENGTHS = 16, 1024  # of series


class Series:
    """Tables of series: files with the columns id and label, and others of numbers; see `series_table`."""

    source: ClassVar = "series_table"
    noun: ClassVar = "series"
    suffixes: ClassVar = series_table.SUFFIXES

    def gather(self, raw: folders.Raw, root: Path, known: Mapping[str, Any]) -> Gathered:
        """See `Inspector.gather`; channels are all columns of numbers that have no other meaning."""
        if raw.splits:
            raise MetashotError("--splits: series say their split in a column `split`")
        found = series_table.local(raw, root)
        columns = channels.columns_of(found, raw.path)
        division: folders.Division = (
            "listed" if columns.listed else folders.Shares(of="classes", seed=0, val=0.1, test=0.1)
        )
        prepare = series_table.Prepare(
            channels=columns.channels,
            length=LENGTHS[0],
            fit="crop",
            standardise="none",
            repeated="refuse",
            split=division,
        )
        samples: split_lists.Found = {}
        mistakes, labels = Mistakes(), tables.Labels()
        items: dict[str, Item] = {}
        for name, read in found.items():
            origin, suffix = series_table.origin_of(raw.path, name), series_table.kind_of(name)
            try:
                for item in series_table.of_table(read(), origin, suffix, prepare, labels, mistakes):
                    split, superclass, class_, id_ = item.key
                    series_table.again(items.setdefault(id_, item), item, mistakes)
                    place = (split, superclass, class_, id_) if columns.listed else (class_, id_)
                    samples["/".join(part.replace("/", "|") for part in place)] = item.read
            except MetashotError as error:
                mistakes.add_line(error)
        classes = {name.split("/")[-2] for name in samples}
        lines = [*mistakes.lines, *folders.indistinct(raw.path, classes)] or few_classes(raw.path, samples)
        shown = {"channels": ", ".join(columns.channels)}
        if columns.left_out:
            shown["left out"] = "; ".join(
                f"{name or 'a column without a name'} ({why})" for name, why in columns.left_out.items()
            )
        if labels.merged:
            shown["merged"] = labels.merged
        return Gathered(
            folders.Contents(dict(sorted(samples.items())), Counter(), 0, lines),
            {"path": raw.path},
            columns.listed,
            partial(self.look, prepare),
            shown,
        )

    def look(self, prepare: series_table.Prepare, content: bytes) -> Look:
        """Look at a series; see `Gathered.look`."""
        _, digest = series.decode(content, prepare.form)
        steps = len(content) // (8 * len(prepare.channels))
        return Look({"": digest}, None, (steps, prepare.channels))

    def rows(self, looks: Sequence[Look]) -> Mapping[str, str]:
        """See `Inspector.rows`."""
        return {"steps": spread([look.facts[0] for look in looks], ",.0f")}

    def warnings(self, looks: Mapping[str, Look]) -> Sequence[str]:
        """See `Inspector.warnings`."""
        return []

    def prepared(self, looks: Sequence[Look]) -> tuple[dict[str, Any], str]:
        """See `Inspector.prepared`."""
        steps = median(look.facts[0] for look in looks) if looks else LENGTHS[0]
        channels = list(looks[0].facts[1]) if looks else []
        return {"channels": channels, "length": int(np.clip(round(steps), *LENGTHS))}, ""

    def defaults(self, prepare: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """See `Inspector.defaults`."""
        return {
            "prepare": {"fit": "crop", "standardise": "series"},
            "backbone": {"name": "conv1d", "width": 64, "kernel": 5},
            "augment": {},
        }
