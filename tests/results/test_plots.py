"""Pictures that other tests do not draw."""

from metashot.results import plots


def test_every_line_is_drawn_and_looks_like_no_other() -> None:
    curves = {f"method {n}": [(1.0, 0.5), (2.0 + n, 0.9 - 0.02 * n)] for n in range(8)}
    pictures = [plots.minutes_plot("", dict(list(curves.items())[:count])) for count in range(5, 9)]
    assert len(set(pictures)) == 4  # a further method is a further line
    assert len({plots._style(number) for number in range(36)}) == 36
