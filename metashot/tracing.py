"""Where a registered version came from, for a person: one page, from the lineage its run carries."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.errors import NotRenderableError
from rich.table import Table
from rich.text import Text

from metashot import cards
from metashot.compare import Marks, accuracy, duration
from metashot.errors import MetashotError, line
from metashot.publishing import flat
from metashot.tracking import COMMIT, DECISION, PUBLISHER, Registered

SHAPELESS = (  # what reading and showing come to where the lineage has not the shape it had
    ArithmeticError,
    AttributeError,
    LookupError,
    NotRenderableError,
    RecursionError,
    TypeError,
    ValueError,
)


def trace(version: Registered) -> dict[str, Any]:
    """Return all that is known of a version: what MLflow holds of it, and its lineage.

    Raises:
        MetashotError: Its run carries no lineage.
    """
    tags = version.entry.tags
    return {
        "version": version.name,
        "aliases": list(version.aliases),
        "registered": version.entry.creation_timestamp,
        "publisher": tags.get(PUBLISHER),
        "commit": tags.get(COMMIT),
        "decision": tags.get(DECISION),
        "run": version.entry.run_id,
        "lineage": version.lineage,
    }


def page(traced: Mapping[str, Any]) -> RenderableType:
    """Return a trace for a terminal, the raw download first.

    Raises:
        MetashotError: The lineage, which comes from MLflow, has not the shape it was written in.
    """
    try:
        return _page(traced)
    except SHAPELESS as error:
        raise MetashotError(
            f"the lineage of {traced['version']} is not laid out as metashot writes it "
            f"({type(error).__name__}: {error}): `metashot audit {traced['version']}` says more"
        ) from None


def _page(traced: Mapping[str, Any]) -> RenderableType:
    said = traced["lineage"]
    metrics, trained, origin = said["metrics"], said["training"], said["origin"]
    tree, device = trained["git"], trained["device"]
    parts: list[RenderableType] = [
        Text(line(f"{traced['version']}  {' '.join(traced['aliases'])}"), style="bold")
    ]

    def section(title: str, rows: Mapping[str, str]) -> None:
        view = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
        view.add_column(style="dim", no_wrap=True)
        view.add_column(overflow="fold")
        for key, value in rows.items():
            if value:
                view.add_row(key, value)
        parts.extend([Text(f"\n{title}", style="bold"), view])

    labels = cards.labels(said)
    section(
        "Result",
        {
            "method": said["method"],
            "accuracy": f"{labels['accuracy']}, {metrics['n_way']}-way {metrics['k_shot']}-shot, "
            f"{metrics['episodes']:,} episodes",
            **{
                f"  {name}": accuracy(extra["accuracy"], extra["ci95"])
                for name, extra in metrics["extra"].items()
            },
            "untrained": accuracy(metrics["untrained"]["accuracy"], metrics["untrained"]["ci95"]),
            "result": said["result"],
            "key": said["key"],
            **{f"  {name}": md5 for name, md5 in said["model"].items()},
        },
    )
    section(
        "Data",
        {
            "source": Marks.of(origin).on(origin["source"]),
            "licence": origin["licence"],
            "citation": origin["citation"],
            **{f"  {name}": f"md5 {md5}" for name, md5 in origin["files"].items()},
        },
    )
    dirty = ", tree changed: changes of code are in the training's record" if tree["dirty"] else ""
    others = tree.get("others", {"count": 0, "names": []})
    section(
        "Training",
        {
            "commit": f"{tree['commit']}{dirty}",
            "also changed": f"{others['count']} other files: {', '.join(others['names'])}"
            if others["count"]
            else "",
            "device": f"{device['name']} ({device['type']}), {device['threads']} threads",
            "packages": ", ".join(f"{name} {number}" for name, number in trained["versions"].items()),
            "steps": f"{trained['steps']:,} in {duration(trained['seconds'])}, best {trained['best_step']:,}",
            "parameters": ", ".join(f"{key}={value}" for key, value in flat(trained["params"])),
        },
    )
    made = {out["path"] for entry in said["stages"].values() for out in entry["outs"]}
    code: dict[str, str] = {}
    stages = Table(box=None, padding=(0, 2, 0, 2), show_header=False)
    stages.add_column(overflow="fold")
    stages.add_column(overflow="fold", min_width=36)
    stages.add_column(justify="right", no_wrap=True)
    for name in _in_order(said["stages"]):
        entry = said["stages"][name]
        stages.add_row(Text(line(name), style="bold"), f"key {entry['key'][:28]}", "")
        for dep in entry["deps"]:
            if dep["path"] in made:
                stages.add_row(f" in {dep['path']}", dep["md5"], f"{dep['size']:,}")
            elif dep["path"].endswith(".py"):
                code[dep["path"]] = dep["md5"]
        for values in entry["params"].values():
            for key, value in values.items():
                stages.add_row(f" {key.replace('tool.metashot.pins.', 'package ')}", str(value), "")
        for out in entry["outs"]:
            stages.add_row(f" out {out['path']}", out["md5"], f"{out['size']:,}")
    parts.extend([Text("\nStages", style="bold"), stages])
    section("Code", code)
    section(
        "Published",
        {
            "by": traced["publisher"] or "",
            "dvc.lock": f"commit {traced['commit']}" if traced["commit"] else "not committed yet",
            "decision": traced["decision"] or "",
            "run": traced["run"],
        },
    )
    return Group(*parts)


def _in_order(stages: Mapping[str, Any]) -> list[str]:
    """Stages behind those they need."""
    made = {out["path"]: name for name, entry in stages.items() for out in entry["outs"]}
    order: list[str] = []

    def visit(name: str) -> None:
        for dep in stages[name]["deps"]:
            if dep["path"] in made:
                visit(made[dep["path"]])
        if name not in order:
            order.append(name)

    for name in stages:
        visit(name)
    return order
