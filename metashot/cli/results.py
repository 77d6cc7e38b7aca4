"""Commands on what was measured and judged."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metashot.cli.app import command, say_json, warnings, write
from metashot.errors import MetashotError, line
from metashot.output import echo
from metashot.project import find_root

if TYPE_CHECKING:
    from metashot.lineage.lockfile import Lock
    from metashot.results.compare import Comparison


@command
def compare(
    dataset: Annotated[
        str | None, typer.Argument(help="All that are made, if none is named; or a version, MODEL/VERSION.")
    ] = None,
    setting: Annotated[
        str | None, typer.Argument(help="All that are made, if none is named; or another version.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines, every pair of methods.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the differences: a PNG file.", dir_okay=False)
    ] = None,
    curves: Annotated[
        Path | None, typer.Option(help="Draw accuracy against minutes: a PNG file.", dir_okay=False)
    ] = None,
) -> None:
    """Print the methods of a data set and setting side by side, and how surely the best leads the others.

    Or hold two registered versions, MODEL/VERSION or MODEL@ALIAS, against each other.
    """
    if any(mark in f"{dataset}{setting}" for mark in "/@"):
        if plot or curves or not (dataset and setting):
            raise MetashotError("two versions are compared in words or as JSON: name both")
        _compare_versions(dataset, setting, as_json)
        return
    import json

    from metashot.lineage import lockfile
    from metashot.results import compare as comparing

    root = find_root(Path.cwd())
    lock, methods = lockfile.Lock(root), lockfile.listed(root, "methods")
    groups = [(dataset, setting)] if dataset and setting else lockfile.finished(lock)
    chosen = [(d, s) for d, s in groups if dataset in (None, d) and setting in (None, s)]
    if not chosen:
        made = ", ".join(f"{d} {s}" for d, s in groups)
        raise MetashotError(f"nothing of {dataset} was evaluated (there is: {made}): run `dvc repro`")
    comparisons: Iterable[Comparison] = (comparing.compare(lock, d, s, methods) for d, s in chosen)
    if plot or curves:
        comparisons = list(comparisons)
        _draw(comparisons, lock, plot, curves)
    if as_json:
        say_json([json.loads(comparison.json) for comparison in comparisons])
        return
    show_all(root, comparisons)


@command
def results() -> None:
    """Print what was measured beside what the papers report, as a Markdown page."""
    from metashot.results import papers

    echo(papers.page(find_root(Path.cwd())), nl=False)


@command
def adopt(dataset: str, setting: str) -> None:
    """Make the champion the incumbent, which the next training has to beat."""
    from metashot.results import champions

    row = champions.adopt(find_root(Path.cwd()), dataset, setting)
    if row is None:
        echo("nothing to adopt: there is no champion, or it is the incumbent already")
    else:
        echo(f"{row.name} is the incumbent of {dataset}-{setting} now: commit champions/ to git")


@command
def rollback(
    dataset: str,
    setting: str,
    reason: Annotated[str, typer.Option(help="Why: kept in git, and in every later decision.")],
) -> None:
    """Bar the champion for good and put the incumbent, or the next best model, in its place."""
    from metashot.results import champions

    root = find_root(Path.cwd())
    comparison = champions.rollback(root, dataset, setting, reason)
    show_all(root, [comparison])
    echo(f"recorded in champions/{comparison.group}.json: commit it with dvc.lock to git")


def _compare_versions(one: str, other: str, as_json: bool) -> None:
    """Print how two registered versions did on the same episodes, and show it in MLflow."""
    from dataclasses import asdict

    from metashot.lineage import history
    from metashot.registry import carried, publish, tracking, versions
    from metashot.results import cards
    from metashot.results import compare as comparing

    root = find_root(Path.cwd())
    with tracking.connect(root) as client:
        named = [versions.resolve(client, name) for name in (one, other)]
        locks = history.everywhere(root)
        sources = [history.find(locks, v.entry.name, v.entry.tags.get(carried.RESULT, "")) for v in named]
        difference = comparing.pair(*sources)
        first, second = named
        if as_json:
            say_json({"first": first.name, "second": second.name, **asdict(difference)})
        else:
            echo(cards.versus(line(first.name), line(second.name), difference))
        with warnings():
            publish.publish_pair(root, first, second, difference)


def _draw(
    comparisons: Sequence["Comparison"], lock: "Lock", differences: Path | None, curves: Path | None
) -> None:
    """Write the pictures of the one comparison: its differences, and accuracy against minutes of training."""
    from metashot.results import compare, plots  # matplotlib is slow to import

    if len(comparisons) != 1:
        raise MetashotError(
            f"a picture is of one comparison, not {len(comparisons)}: name a data set and a setting"
        )
    (comparison,) = comparisons
    if differences:
        write(differences, plots.differences_plot(comparison))
    if curves:
        write(curves, plots.minutes_plot(comparison.group, compare.curves(lock, comparison)))


def show_all(root: Path, comparisons: Iterable["Comparison"]) -> None:
    """Print comparisons, with the versions that are registered for as long as MLflow answers."""
    from metashot.registry import versions

    answers = True
    for comparison in comparisons:
        numbers: Mapping[str, int] = {}
        if answers:
            answers = False
            with warnings():
                numbers = versions.versions(root, comparison)
                answers = True
                if missing := [row.name for row in comparison.rows if row.name not in numbers]:
                    raise MetashotError(
                        f"MLflow does not show {', '.join(missing)} of {comparison.group} as they are now: "
                        "run `metashot publish`"
                    )
        show(root, comparison, numbers)


def show(root: Path, comparison: "Comparison", versions: Mapping[str, int]) -> None:
    """Print one comparison."""
    from metashot.cli import render
    from metashot.lineage import lockfile
    from metashot.results import compare as comparing
    from metashot.terminal import Terminal

    console, seconds = Terminal(), comparing.train_seconds(lockfile.Lock(root), comparison)
    console.print(render.comparison(comparison, seconds, versions))
    if comparison.pairs:
        console.print(render.pairs(comparison))
    plot = root / "reports" / f"{comparison.group}.png"
    if plot.exists():
        console.print(f"plot: {plot.relative_to(root)}")
