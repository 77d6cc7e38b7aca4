"""Results in words, as Markdown: what MLflow shows beside an experiment, a run and a model."""

from collections.abc import Mapping
from typing import Any

from metashot.compare import TRANSDUCTIVE, Comparison, Row, accuracy, duration


def overview(comparison: Comparison) -> str:
    """The whole comparison: the champion first, then every method, then why."""
    champion = comparison.decision.champion
    best = next((row for row in comparison.rows if row.method == champion), None)
    verdict = f"{best.method}, {accuracy(best.accuracy, best.ci95)}" if best else "none"
    lines = [
        f"Champion: {verdict}. Few-shot classification on {comparison.data}: {comparison.protocol}.",
        "",
        "| | method | accuracy (95 % interval) | untrained backbone | parameters |",
        "|:--|:--|--:|--:|--:|",
    ]
    for row in comparison.rows:
        mark = "★" if row.method == champion else ""
        trained = accuracy(row.accuracy, row.ci95)
        untrained = accuracy(row.untrained_accuracy, row.untrained_ci95)
        lines.append(f"| {mark} | {row.label} | {trained} | {untrained} | {row.parameters:,} |")
    notes = [f"{reason}." for reason in comparison.decision.reasons]
    if any(row.transductive for row in comparison.rows):
        notes.append(f"{TRANSDUCTIVE}.")
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
