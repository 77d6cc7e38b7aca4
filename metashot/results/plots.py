"""Plots as PNG bytes, deterministic for the same numbers."""

import io
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from metashot.data.kinds import images
from metashot.errors import MetashotError
from metashot.formatting import accuracy
from metashot.results.compare import Comparison, Row
from metashot.results.differences import TRAINED, TRAINING_FREE, shown

# Okabe and Ito's colours: told apart with every common colour blindness, and in print
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#6E6E6E"
COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9")
MARKS = ("o-", "s-", "^-", "D-", "v-", "P-")
ODDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998)
LINE = 90  # characters of a title
LABEL = 26  # characters of a method and its features in one line
CLASSES, SHOWN, ANSWERED = 30, 4, 10  # at most so many rows, and pictures in them


def _title(comparison: Comparison) -> str:
    """Data set with its marks, and shape of the episodes, on as many lines as they need."""
    return textwrap.fill(f"{comparison.data}: {comparison.n_way}-way {comparison.k_shot}-shot", LINE)


def comparison_plot(comparison: Comparison) -> bytes:
    """Draw every method's test accuracy with its 95 % interval, its untrained backbone, and chance.

    Methods that are trained stand above those that are not.
    """
    places, titles = _places(comparison)
    rows = [row for row, _ in places]
    heights = [y for _, y in places]
    with mpl.rc_context():
        mpl.rcdefaults()
        lines, above = len(places) + len(titles), 0.3 * bool(titles)
        figure = Figure(figsize=(9, 1.9 + 0.5 * lines + above), dpi=120, layout="constrained")
        axes = figure.subplots()
        _accuracies(axes, places)
        axes.axvline(100 * comparison.chance, color=ORANGE, linestyle="--", label="chance", zorder=1)
        axes.set_xlim(0, 100.5)
        axes.set_ylim(-0.6, lines - 0.4)
        labels = [row.on_features for row in rows]
        labels = [label.replace(" on ", "\non ") if len(label) > LABEL else label for label in labels]
        axes.set_yticks(heights, labels, fontsize=13)
        for title, y in titles.items():
            axes.annotate(
                title,
                (0, y),
                (-7, 0),
                xycoords=axes.get_yaxis_transform(),
                textcoords="offset points",
                color=GREY,
                fontsize=12,
                fontstyle="italic",
                horizontalalignment="right",
                verticalalignment="center",
            )
        values = axes.twinx()  # the numbers stand in a column of their own, whatever the dots do
        values.set_ylim(axes.get_ylim())
        values.set_yticks(heights, [accuracy(row.accuracy, row.ci95) for row in rows], fontsize=13)
        values.tick_params(length=0)
        for row, label, value in zip(rows, axes.get_yticklabels(), values.get_yticklabels(), strict=True):
            if row == comparison.champion:
                label.set_fontweight("bold")
                value.set_fontweight("bold")
        for side in (axes, values):
            side.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="x", labelsize=12)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} %"))
        axes.grid(axis="x", color="#EEEEEE")
        axes.set_axisbelow(True)
        episodes, queries = f"{comparison.episodes:,}", comparison.n_query
        tested = f"the same {episodes} test episodes for all, {queries} queries per class"
        notes = ["test accuracy, mean and 95 % interval", *comparison.footnotes]
        if comparison.headline:
            notes.insert(1, tested)
        axes.set_xlabel(_lines(notes, 88), fontsize=11)
        figure.suptitle(_title(comparison), fontsize=15)
        if comparison.headline:
            axes.set_title(comparison.headline.replace(" (", "\n(", 1), fontsize=12)
        else:
            axes.set_title(tested, fontsize=11, color=GREY)
        figure.legend(loc="outside lower center", ncols=4, fontsize=11, frameon=False)
        return _png(figure)


def differences_plot(comparison: Comparison) -> bytes:
    """Draw the best method's lead over each of the others with 95 % intervals: a forest plot.

    Raises:
        MetashotError: There is one method only.
    """
    if not comparison.leads:
        raise MetashotError(f"{comparison.group} has one method only: evaluate another to compare it with")
    leads = comparison.leads[::-1]  # the closest on top
    places = range(len(leads))
    with mpl.rc_context():
        mpl.rcdefaults()
        figure = Figure(figsize=(9, 2.1 + 0.5 * len(leads)), dpi=120, layout="constrained")
        axes = figure.subplots()
        far = any(abs(pair.difference.mean) + pair.difference.ci95 > 0.01 for _, pair in leads)
        if far:  # close ones stay readable beside one that is far off
            axes.set_xscale("symlog", linthresh=1)
        for y, (_, pair) in zip(places, leads, strict=True):
            axes.errorbar(
                100 * pair.difference.mean,
                y,
                xerr=100 * pair.difference.ci95,
                fmt="o",
                color=BLUE if pair.apart else GREY,
                markerfacecolor=BLUE if pair.apart else "white",
                markersize=6,
                capsize=8,
                capthick=1.5,
            )
        axes.axvline(0, color=ORANGE, linestyle="--", zorder=1)
        if far:
            low, high = axes.get_xlim()
            marks = (0.5, 1, 2, 5, 10, 20, 50, 100)
            axes.set_xticks([x for x in (*(-mark for mark in marks), 0, *marks) if low <= x <= high])
            axes.set_xlim(low, high)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}" if value else "0"))
        axes.set_ylim(-0.6, len(leads) - 0.4)
        axes.set_yticks(places, [row.label for row, _ in leads], fontsize=13)
        values = axes.twinx()
        values.set_ylim(axes.get_ylim())
        values.set_yticks(places, ["{}   p {}".format(*shown(pair)) for _, pair in leads], fontsize=13)
        values.tick_params(length=0)
        for side in (axes, values):
            side.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="x", labelsize=12)
        axes.grid(axis="x", color="#EEEEEE")
        axes.set_axisbelow(True)
        lead = f"lead of {comparison.rows[0].label} in percentage points, mean and 95 % interval"
        notes = [lead + "; logarithmic beyond 1" * far, *comparison.footnotes]
        figure.supxlabel(_lines(notes), fontsize=11)
        figure.suptitle(_title(comparison), fontsize=15)
        axes.set_title(
            f"the same {comparison.episodes:,} test episodes for all; filled where p < 0.05, "
            "corrected for all pairs (Holm)",
            fontsize=11,
            color=GREY,
        )
        return _png(figure)


def learning_curve(title: str, points: Sequence[Mapping[str, float]]) -> bytes:
    """Draw training loss and validation accuracy against the outer step.

    Args:
        title: What was trained.
        points: One mapping for each journal line, with ``step``, maybe ``train_loss`` and ``val_accuracy``.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        figure = Figure(figsize=(8, 4), dpi=120, layout="constrained")
        left = figure.subplots()
        right = left.twinx()
        curves = (
            (left, "train_loss", "training loss", ORANGE, 1.0, "-"),
            (right, "val_accuracy", "validation accuracy (%)", BLUE, 100.0, "o-"),
        )
        for axes, key, label, colour, scale, style in curves:
            drawn = [(point["step"], scale * point[key]) for point in points if key in point]
            if not drawn:  # nothing was trained
                axes.set_yticks([])
                continue
            axes.plot([x for x, _ in drawn], [y for _, y in drawn], style, color=colour, markersize=4)
            axes.set_ylabel(label, color=colour)
            axes.tick_params(axis="y", labelcolor=colour)
        if all("train_loss" not in point for point in points):
            left.set_xticks([point["step"] for point in points])
        left.set_xlabel("outer step")
        left.set_title(title)
        left.grid(color="#EEEEEE")
        return _png(figure)


def minutes_plot(title: str, curves: Mapping[str, Sequence[tuple[float, float]]]) -> bytes:
    """Draw validation accuracy against minutes of training, a line or point for each method.

    Accuracies are spaced by their log-odds, so that half the errors is about as far anywhere; those beyond
    0.1 and 99.9 % are drawn there.

    Args:
        title: What they were trained on.
        curves: By method: minutes since its training began, and accuracy as a fraction.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        figure = Figure(figsize=(9, 5), dpi=120, layout="constrained")
        axes = figure.subplots()
        best = sorted(curves.items(), key=lambda item: -max(accuracy for _, accuracy in item[1]))
        for number, (method, points) in enumerate(best):
            colour, mark = _style(number)
            minutes, accuracies = zip(*points, strict=True)
            label = f"{method}, {100 * max(accuracies):.1f} %"
            drawn = [min(max(a, 0.001), 0.999) for a in accuracies]
            style = mark if len(points) > 1 else mark[0]  # a point where nothing was trained
            axes.plot(minutes, drawn, style, color=colour, markersize=4, label=label)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("minutes of training")
        axes.set_yscale("logit")
        axes.yaxis.set_major_locator(FixedLocator(ODDS))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylabel("accuracy on validation episodes (%)")
        axes.set_title(title, loc="left")
        axes.grid(color="#EEEEEE", which="both")
        figure.legend(loc="outside right center", title="best")
        return _png(figure)


def answers_plot(support: Sequence[tuple[bytes, str]], answers: Sequence[tuple[bytes, str, float]]) -> bytes:
    """Draw a row for each class: support pictures, then those classified as it, most certain first.

    Args:
        support: Picture files with their classes.
        answers: Other picture files with the classes they are taken for, and how probable those are.
    """
    classes = sorted({label for _, label in support})
    drawn = classes[:CLASSES]
    surest = sorted(answers, key=lambda answer: (-answer[2], answer[0]))
    of_class = {label: [answer for answer in surest if answer[1] == label] for label in drawn}
    shown = {label: [file for file, name in support if name == label][:SHOWN] for label in drawn}
    left = max(len(files) for files in shown.values())
    right = max(1, min(ANSWERED, max(len(taken) for taken in of_class.values())))
    with mpl.rc_context():
        mpl.rcdefaults()
        size = 1.5 + 1.1 * (left + right), 1.1 + 1.35 * len(drawn)
        figure = Figure(figsize=size, dpi=100, layout="constrained")
        grid = figure.subplots(len(drawn), left + right, squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        for row, label in zip(grid, drawn, strict=True):
            for axes, file in zip(row, shown[label], strict=False):
                _show(axes, file, BLUE)
            row[0].set_title(label, loc="left", fontsize=11, color=BLUE, parse_math=False)  # `$` is a `$`
            for axes, (file, _, probability) in zip(row[left:], of_class[label], strict=False):
                _show(axes, file, GREY)
                axes.set_title(f"{probability:.0%}", fontsize=10, color=GREY)
        parts = [f"{len(answers):,} pictures", "blue: the support set", "grey: taken for the class"]
        left_out = sum(max(0, len(taken) - right) for taken in of_class.values())
        left_out += sum(label not in of_class for _, label, _ in answers)
        figure.suptitle("; ".join(parts) + (f"; {left_out:,} not drawn" if left_out else ""), fontsize=12)
        return _png(figure)


def _places(comparison: Comparison) -> tuple[list[tuple[Row, int]], dict[str, int]]:
    """Each row with its height in the picture, the highest first; the heights of the titles of groups."""
    groups, places, titles = comparison.groups, list[tuple[Row, int]](), dict[str, int]()
    height = len(comparison.rows) + (len(groups) if len(groups) > 1 else 0)
    for group, rows in groups.items():
        if len(groups) > 1:
            height -= 1
            titles[group] = height
        for row in rows:
            height -= 1
            places.append((row, height))
    return places, titles


def _accuracies(axes: Axes, places: Sequence[tuple[Row, int]]) -> None:
    """Draw accuracies with their intervals at these heights, and lines from those of untrained backbones."""
    starts = [
        (y, row, row.untrained_accuracy, row.untrained_ci95)
        for row, y in places
        if row.untrained_accuracy is not None and row.untrained_ci95 is not None
    ]
    for y, row, start, _ in starts:
        axes.plot([100 * start, 100 * row.accuracy], [y, y], color="#D5D5D5", zorder=1)
    if starts:
        axes.errorbar(
            [100 * start for *_, start, _ in starts],
            [y for y, *_ in starts],
            xerr=[100 * ci95 for *_, ci95 in starts],
            fmt="o",
            color=GREY,
            markerfacecolor="white",
            markersize=5,
            capsize=5,
            label="untrained backbone",
        )
    for group, colour, mark in ((TRAINED, BLUE, "o"), (TRAINING_FREE, GREEN, "s")):
        drawn = [(row, y) for row, y in places if row.group == group]
        if drawn:
            axes.errorbar(
                [100 * row.accuracy for row, _ in drawn],
                [y for _, y in drawn],
                xerr=[100 * row.ci95 for row, _ in drawn],
                fmt=mark,
                color=colour,
                markersize=5,
                capsize=8,
                capthick=1.5,
                label=group,
            )


def _lines(notes: Sequence[str], width: int = 104) -> str:
    """The notes, a line each, or more where one is longer than the width."""
    return "\n".join(line for note in notes for line in textwrap.wrap(note, width))


def _style(number: int) -> tuple[str, str]:
    """Colour and mark of a line, another for each of 36."""
    round_, place = divmod(number, len(COLOURS))
    return COLOURS[place], MARKS[(place + round_) % len(MARKS)]


def _show(axes: Axes, file: bytes, colour: str) -> None:
    stored = images.opened(file)
    picture = images.shown(stored, colour=True, bits=images.bits_used(stored))
    picture.thumbnail((110, 110))
    axes.imshow(picture)
    axes.axis("on")
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_color(colour)
        side.set_linewidth(2)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", metadata={"Software": None})  # no version or date in the bytes
    return buffer.getvalue()
