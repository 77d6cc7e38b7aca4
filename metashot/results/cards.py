"""Results for people: MLflow's descriptions of experiments, runs and models in Markdown; the report files."""

from pathlib import Path

from metashot.data.kinds import KINDS
from metashot.files import replacing
from metashot.formatting import accuracy, duration
from metashot.learning.statistics import Difference
from metashot.lineage.document import CrossDocument, Document
from metashot.lineage.origin import DataFacts, EncoderFacts
from metashot.results.compare import Comparison
from metashot.results.differences import TRAINED, TRAINING_FREE, in_points, shown


def overview(comparison: Comparison) -> str:
    """The whole comparison: champion, what meta-training gained, every method, the gate's reasons, leads."""
    champion = comparison.champion
    verdict = f"{champion.name}, {accuracy(champion.accuracy, champion.ci95)}" if champion else "none"
    lines = [
        "| | method | accuracy (95 % interval) | untrained backbone | parameters |",
        "|:--|:--|--:|--:|--:|",
    ]
    for group, rows in comparison.groups.items():
        if len(comparison.groups) > 1:
            lines.append(f"| | *{group}* | | | |")
        for row in rows:
            mark = "★" if row == champion else ""
            tested = accuracy(row.accuracy, row.ci95)
            lines.append(f"| {mark} | {row.on_features} | {tested} | {row.untrained} | {row.parameters:,} |")
    gained = [f"{line[0].upper()}{line[1:]}." for line in comparison.gained]
    parts = [
        f"Champion: {verdict}. Few-shot classification on {comparison.data}: {comparison.protocol}.",
        *(f"**{line}**" for line in gained[:1]),
        "\n".join(lines),
        *gained[1:],
        *(f"{note}." for note in (*comparison.decision.reasons, *comparison.footnotes)),
    ]
    return "\n\n".join([*parts, *_differences(comparison)])


def headline(comparison: Comparison) -> str:
    """The champion, and the best model if that is another, in a few words."""
    best, champion = comparison.rows[0], comparison.champion
    verdict = f"champion {champion.name}" if champion else "no champion"
    shown = f"{100 * best.accuracy:.2f} %"
    return f"{verdict}, {shown}" if best == champion else f"{verdict}, best {best.name}, {shown}"


def versus(first: str, second: str, difference: Difference) -> str:
    """Two versions on the same episodes, in a sentence or two."""
    p = "< 0.001" if difference.p_value < 0.001 else f"= {difference.p_value:.3f}"
    needed = "no number of" if difference.needed is None else f"{difference.needed:,}"
    return (
        f"{first} minus {second}: {in_points(difference)} percentage points (95 % interval), p {p}. "
        f"In {difference.wins:,} episodes the first is more accurate, in {difference.ties:,} equally, in "
        f"{difference.losses:,} less. To tell them apart (5 %, power 80 %) takes {needed} episodes."
    )


def labels(document: Document) -> dict[str, str]:
    """What identifies a result at a glance: method and its group, setting, accuracy, version of the data."""
    return {
        "method": document.method,
        "group": TRAINED if document.metrics.untrained else TRAINING_FREE,
        "setting": document.setting,
        "accuracy": document.metrics.shown,
        "data": f"{document.dataset} {document.data_md5[:8]}{_pretrained(document.origin)}",
    }


def cross_labels(document: CrossDocument) -> dict[str, str]:
    """The same for a test on another data set's episodes."""
    return {
        "method": document.method,
        "setting": document.name.partition("-")[2],
        "accuracy": document.tested.shown,
        "data": f"{document.other} {document.tested.tested_on.data[:8]}"
        f"{_pretrained(document.origin[document.other])}",
    }


def cross_card(document: CrossDocument) -> str:
    """Describe a test on another data set's episodes: accuracy, data, lineage."""
    tested = document.tested
    trained_on, tested_on = (
        document.origin[name].marked(name) for name in (tested.trained_on.dataset, document.other)
    )
    return (
        f"**{document.method}: {tested.shown}** on {tested_on}, "
        f"{tested.n_way}-way {tested.k_shot}-shot, {tested.episodes:,} episodes, trained on "
        f"{trained_on}, and on nothing of the other.\n\n**Lineage.** Result `{document.model[:16]}`, data "
        f"`{tested.tested_on.data[:8]}`, episodes `{tested.tested_on.episodes[:8]}`: all stages "
        "of both are in lineage.json."
    )


def model_card(document: Document) -> str:
    """Describe a registered version: data, protocol, numbers, limits, use, lineage."""
    metrics, origin, trained = document.metrics, document.origin, document.training
    shape = metrics.shape
    rows = [
        (shape, metrics),
        *((f"{name}, same model", measured) for name, measured in metrics.extra.items()),
        *([(f"{shape}, untrained", metrics.untrained)] if metrics.untrained else []),
    ]
    numbers = [f"| {name} | {measured.shown} | {measured.episodes:,} |" for name, measured in rows]
    commit = f"commit {trained.git.commit[:10]}" if trained.git.commit else "no commit"
    limits = [
        "It answers any number of classes from 2.",
        "Transductive: an answer depends on the other queries of its task."
        if metrics.transductive
        else "Each query is answered by itself.",
        "Measured on new samples of the classes that it was trained on: how it does on other classes was not "
        "tried."
        if origin.known_classes
        else "Measured on classes of the same data set that training did not see; other kinds of data were "
        "not tried.",
        "One training, one seed: the interval is over test episodes only."
        if metrics.untrained
        else "The interval is over test episodes only.",
    ]
    if origin.encoder:
        limits.append(
            f"Its samples are vectors of a pretrained encoder, which {origin.encoder.shown_classes}: what is "
            "new to training may be known to the encoder."
        )
    if origin.synthetic:
        limits.append("The data are synthetic: the numbers say nothing about a published benchmark.")
    parts = [
        f"**{document.method}: {metrics.shown}** on {origin.marked(document.dataset)}, {shape}, "
        f"{metrics.n_query} queries per class, chance {metrics.chance:.1%}.",
        "| test episodes of | accuracy (95 % interval) | episodes |\n|:--|--:|--:|\n" + "\n".join(numbers),
        f"**Data.** {origin.source}. Licence: {origin.licence}. {origin.citation}".rstrip(),
        *([_encoder(origin.encoder)] if origin.encoder else []),
        f"**Training.** {_training(document)}; {commit}{', tree changed' if trained.git.dirty else ''}.",
        f"**Limits.** {' '.join(limits)}",
        f"**Use.** {usage(document.name, origin.kind)}",
        f"**Lineage.** Result `{document.result[:16]}`: `metashot trace`, `audit` and `reproduce` take it "
        "from here.",
    ]
    return "\n\n".join(parts)


def _training(document: Document) -> str:
    """What it took to make a model, and what was chosen where nothing was trained."""
    trained, parameters = document.training, document.metrics.parameters
    took = f"{duration(trained.seconds)} on {trained.device.name} ({trained.device.type})"
    if document.metrics.untrained:
        steps = f"{parameters:,} parameters, {trained.steps:,} outer steps in {took}"
        return f"{steps}, best validation at step {trained.best_step:,}"
    values = " and ".join(f"{name} {value:g}" for name, value in trained.params["chosen"].items())
    features = f"features `{trained.params['backbone']['name']}`{values and f', with {values}'}"
    return f"Nothing was trained: {features}, chosen on the validation episodes in {took}"


def _pretrained(data: DataFacts) -> str:
    return " (pretrained encoder)" if data.encoder else ""


def _encoder(encoder: EncoderFacts) -> str:
    """What made the vectors that a model was trained on."""
    files = f"Files `{encoder.md5}`." if encoder.md5 else "Its files are not part of the lineage."
    return (
        f"**Encoder.** {encoder.name}, pretrained and not changed here, on "
        f"{encoder.trained_on or 'data that nobody states'}. As stated, it {encoder.shown_classes}. {files}"
    )


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
