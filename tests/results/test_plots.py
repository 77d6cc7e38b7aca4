"""Pictures that other tests do not draw."""

from dataclasses import replace
from pathlib import Path

import synthetic

from metashot.lineage.lockfile import Lock
from metashot.results import compare, plots


def test_every_line_is_drawn_and_looks_like_no_other() -> None:
    curves = {f"method {n}": [(1.0, 0.5), (2.0 + n, 0.9 - 0.02 * n)] for n in range(8)}
    pictures = [plots.minutes_plot("", dict(list(curves.items())[:count])) for count in range(5, 9)]
    assert len(set(pictures)) == 4  # a further method is a further line
    assert len({plots._style(number) for number in range(36)}) == 36


def test_the_champion_and_the_length_of_every_bar_are_drawn(tmp_path: Path) -> None:
    root = synthetic.make(tmp_path)
    comparison = compare.compare(Lock(root), "glyphs", "5w1s", list(synthetic.ACCURACY))
    first, *others = comparison.rows
    pictures = [
        plots.comparison_plot(changed)
        for changed in (
            comparison,
            replace(comparison, decision=replace(comparison.decision, champion=None)),
            replace(comparison, rows=[replace(first, accuracy=first.accuracy - 0.05), *others]),
            replace(comparison, rows=[replace(first, ci95=first.ci95 + 0.02), *others]),
            replace(comparison, rows=[replace(first, untrained_accuracy=0.1), *others]),
            replace(comparison, n_way=4),  # chance
        )
    ]
    assert len(set(pictures)) == len(pictures)
    assert pictures[0] == plots.comparison_plot(comparison)
