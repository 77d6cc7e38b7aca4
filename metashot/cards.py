"""Results for people: what MLflow says of an experiment, a run and a model, in Markdown; the report files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metashot.compare import Comparison, Row, accuracy, duration
from metashot.files import replacing


def overview(comparison: Comparison) -> str:
    """The whole comparison: the champion first, then every method, then why."""
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
    return "\n\n".join(["\n".join(lines), *notes])


def result(comparison: Comparison, row: Row, record: Mapping[str, Any]) -> str:
    """One method's result, and how it came about.

    Args:
        comparison: What it was measured with.
        row: The method.
        record: The training's record.
    """
    untrained = accuracy(row.untrained_accuracy, row.untrained_ci95)
    return (
        f"{row.method}: {accuracy(row.accuracy, row.ci95)} on {comparison.data}, {comparison.protocol}.\n\n"
        f"Untrained backbone {untrained}, chance {comparison.chance:.1%}. "
        f"{'Transductive' if row.transductive else 'Not transductive'}. {row.parameters:,} parameters, "
        f"trained in {duration(record['seconds'])} on {record['device']['name']}."
    )


def usage(comparison: Comparison) -> str:
    """How to call the registered model."""
    return f"""One table is one task: rows with a `label` are the support set, rows whose `label` is null are
answered, in their order.

```python
model = mlflow.pyfunc.load_model("models:/{comparison.group}@champion")
# image: the bytes of a PNG or JPEG file
task = pandas.DataFrame({{"image": [a, b, unknown], "label": ["a", "b", None]}})
model.predict(task)  # columns label, probability, probabilities
```

Pictures are scaled to the model's size. Models with one channel read drawings: dark ink on light paper and
light ink on dark are both understood, told apart by the picture's border."""


def write_report(comparison: Comparison, folder: Path) -> None:
    """Write ``<data set>-<setting>.json`` and ``.png`` into a folder, each whole or not at all."""
    from metashot.plots import comparison_plot  # matplotlib is slow to import

    for suffix, data in {"json": comparison.json.encode(), "png": comparison_plot(comparison)}.items():
        with replacing(folder / f"{comparison.group}.{suffix}") as partial:
            partial.write_bytes(data)
