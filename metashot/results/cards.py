"""Results for people: what MLflow says of an experiment, a run and a model, in Markdown; the report files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metashot.data.kinds import KINDS
from metashot.files import replacing
from metashot.formatting import accuracy, duration
from metashot.learning.statistics import Difference
from metashot.results.compare import Comparison, Marks, points, shown


def overview(comparison: Comparison) -> str:
    """The whole comparison: the champion first, then every method, why, and the best against the others."""
    champion = comparison.champion
    verdict = f"{champion.name}, {accuracy(champion.accuracy, champion.ci95)}" if champion else "none"
    lines = [
        f"Champion: {verdict}. Few-shot classification on {comparison.data}: {comparison.protocol}.",
        "",
        "| | method | accuracy (95 % interval) | untrained backbone | parameters |",
        "|:--|:--|--:|--:|--:|",
    ]
    for row in comparison.rows:
        mark = "★" if row == champion else ""
        trained = accuracy(row.accuracy, row.ci95)
        untrained = accuracy(row.untrained_accuracy, row.untrained_ci95)
        lines.append(f"| {mark} | {row.label} | {trained} | {untrained} | {row.parameters:,} |")
    notes = [f"{note}." for note in (*comparison.decision.reasons, *comparison.footnotes)]
    return "\n\n".join(["\n".join(lines), *notes, *_differences(comparison)])


def headline(comparison: Comparison) -> str:
    """Who is champion, and who is best if it is another, in a few words."""
    best, champion = comparison.rows[0], comparison.champion
    verdict = f"champion {champion.name}" if champion else "no champion"
    shown = f"{100 * best.accuracy:.2f} %"
    return f"{verdict}, {shown}" if best == champion else f"{verdict}, best {best.name}, {shown}"


def versus(first: str, second: str, difference: Difference) -> str:
    """Two versions on the same episodes, in a sentence or two."""
    p = "< 0.001" if difference.p_value < 0.001 else f"= {difference.p_value:.3f}"
    needed = "no number of" if difference.needed is None else f"{difference.needed:,}"
    return (
        f"{first} minus {second}: {points(difference)} percentage points (95 % interval), p {p}. "
        f"In {difference.wins:,} episodes the first is more accurate, in {difference.ties:,} equally, in "
        f"{difference.losses:,} less. To tell them apart (5 %, power 80 %) takes {needed} episodes."
    )


def labels(document: Mapping[str, Any]) -> dict[str, str]:
    """What a result is told by at a glance: method, setting, accuracy and version of the data.

    Args:
        document: Its lineage (`metashot.lineage.documents`).
    """
    metrics, data = document["metrics"], f"data/processed/{document['dataset']}.parquet"
    return {
        "method": document["method"],
        "setting": document["setting"],
        "accuracy": accuracy(metrics["accuracy"], metrics["ci95"]),
        "data": f"{document['dataset']} {document['training']['inputs'][data]['md5'][:8]}",
    }


def crossing_labels(document: Mapping[str, Any]) -> dict[str, str]:
    """The same of a test on another data set's episodes (`documents.crossing`)."""
    tested = document["tested"]
    return {
        "method": document["method"],
        "setting": document["name"].partition("-")[2],
        "accuracy": accuracy(tested["accuracy"], tested["ci95"]),
        "data": f"{document['other']} {tested['tested_on']['data'][:8]}",
    }


def crossing(document: Mapping[str, Any]) -> str:
    """What is to be known of a test on another data set's episodes (`documents.crossing`)."""
    tested = document["tested"]
    trained_on, tested_on = (
        Marks.of(document["origin"][name]).on(name)
        for name in (tested["trained_on"]["dataset"], document["other"])
    )
    return (
        f"**{document['method']}: {accuracy(tested['accuracy'], tested['ci95'])}** on {tested_on}, "
        f"{tested['n_way']}-way {tested['k_shot']}-shot, {tested['episodes']:,} episodes, trained on "
        f"{trained_on}, and on nothing of the other.\n\n**Lineage.** Result `{document['model'][:16]}`, data "
        f"`{tested['tested_on']['data'][:8]}`, episodes `{tested['tested_on']['episodes'][:8]}`: all stages "
        "of both are in lineage.json."
    )


def model_card(document: Mapping[str, Any]) -> str:
    """What is to be known of a registered version: data, protocol, numbers, limits, use, lineage.

    Args:
        document: Its lineage (`metashot.lineage.documents`).
    """
    metrics, origin = document["metrics"], document["origin"]
    trained, name = document["training"], document["name"]
    marks = Marks.of(origin)
    data = marks.on(document["dataset"])
    shape = f"{metrics['n_way']}-way {metrics['k_shot']}-shot"
    tested = [(shape, metrics), *((f"{key}, same model", extra) for key, extra in metrics["extra"].items())]
    numbers = [f"| {what} | {accuracy(m['accuracy'], m['ci95'])} | {m['episodes']:,} |" for what, m in tested]
    untrained = metrics["untrained"]
    numbers.append(
        f"| {shape}, untrained | {accuracy(untrained['accuracy'], untrained['ci95'])} | "
        f"{untrained['episodes']:,} |"
    )
    tree, device = trained["git"], trained["device"]
    commit = f"commit {tree['commit'][:10]}" if tree["commit"] else "no commit"
    limits = [
        "It answers any number of classes from 2.",
        "Transductive: an answer depends on the other queries of its task."
        if metrics["transductive"]
        else "Each query is answered by itself.",
        "Measured on new samples of the classes that it was trained on: how it does on other classes was not "
        "tried."
        if marks.known_classes
        else "Measured on classes of the same data set that training did not see; other kinds of data were "
        "not tried.",
        "One training, one seed: the interval is over test episodes only.",
    ]
    if marks.synthetic:
        limits.append("The data are synthetic: the numbers say nothing about a published benchmark.")
    parts = [
        f"**{document['method']}: {accuracy(metrics['accuracy'], metrics['ci95'])}** on {data}, {shape}, "
        f"{metrics['n_query']} queries per class, chance {1 / metrics['n_way']:.1%}.",
        "| test episodes of | accuracy (95 % interval) | episodes |\n|:--|--:|--:|\n" + "\n".join(numbers),
        f"**Data.** {origin['source']}. Licence: {origin['licence']}. {origin['citation']}".rstrip(),
        f"**Training.** {metrics['parameters']:,} parameters, {trained['steps']:,} outer steps in "
        f"{duration(trained['seconds'])} on {device['name']} ({device['type']}), best validation at step "
        f"{trained['best_step']:,}; {commit}{', tree changed' if tree['dirty'] else ''}.",
        f"**Limits.** {' '.join(limits)}",
        f"**Use.** {usage(name, origin['kind'])}",
        f"**Lineage.** Result `{document['result'][:16]}`: `metashot trace`, `audit` and `reproduce` take it "
        "from here.",
    ]
    return "\n\n".join(parts)


def usage(name: str, kind: str) -> str:
    """How to call a registered model of a kind of samples."""
    use = KINDS[kind].USE
    return f"""One table is one task: rows with a `label` are the support set, rows whose `label` is null are
answered, in their order.

```python
model = mlflow.pyfunc.load_model("models:/{name}@champion")  # or {name}/VERSION
# {use.column}: {use.holds}
task = pandas.DataFrame({{"{use.column}": [a, b, unknown], "label": ["a", "b", None]}})
model.predict(task)  # columns label, probability, probabilities
```

{use.prepared}"""


def _differences(comparison: Comparison) -> list[str]:
    """The best method against each of the others, and what the columns mean."""
    if not comparison.pairs:
        return []
    lines = [
        f"| {comparison.rows[0].label} against | difference | p | win / tie / loss | needed |",
        "|:--|--:|--:|--:|--:|",
    ]
    for row, pair in comparison.leads:
        lines.append(f"| {row.label} | {' | '.join(shown(pair))} |")
    return ["\n".join(lines), *(f"{note}." for note in comparison.pair_notes)]


def write_report(comparison: Comparison, folder: Path) -> None:
    """Write ``<data set>-<setting>.json`` and ``.png`` into a folder, each whole or not at all."""
    from metashot.results.plots import comparison_plot  # matplotlib is slow to import

    for suffix, data in {"json": comparison.json.encode(), "png": comparison_plot(comparison)}.items():
        with replacing(folder / f"{comparison.group}.{suffix}") as partial:
            partial.write_bytes(data)
