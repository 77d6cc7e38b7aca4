"""What the commands show: every table and page for a terminal."""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from metashot.errors import line, printable
from metashot.formatting import accuracy, duration
from metashot.lineage.document import flat
from metashot.results.compare import Comparison
from metashot.results.differences import TRAINING_FREE, shown

if TYPE_CHECKING:
    from flows.plan import Step
    from metashot.audit.audit import Audited
    from metashot.audit.reproduce import Reproduced
    from metashot.audit.trace import Trace
    from metashot.onboard.propose import Proposal
    from metashot.registry.predict import Answer


def comparison(compared: Comparison, seconds: Mapping[str, float], versions: Mapping[str, int]) -> Table:
    """Return the comparison for a terminal.

    Args:
        compared: The methods.
        seconds: Training time of each row, by its name.
        versions: The registered model version of each row that has one.
    """
    title = f"{compared.data}: {compared.protocol}"
    # 80 columns hold the widest values; narrower ones are spread over them
    view = Table(title=title, title_justify="left", box=box.HORIZONTALS, padding=0, min_width=80)
    notes = [*compared.gained, *compared.decision.reasons, *compared.footnotes]
    view.caption, view.caption_justify = Text("\n".join(notes)), "left"
    view.caption.stylize("bold", 0, len(compared.headline))
    view.add_column("method", no_wrap=True)
    for column in ("accuracy", "untrained", "train time", "parameters", "model"):
        view.add_column(column, justify="right", no_wrap=True)
    for group, rows in compared.groups.items():
        if len(compared.groups) > 1:
            view.add_section()
            view.add_row(group, "", "features" if group == TRAINING_FREE else "", style="italic")
        for row in rows:
            champion = row == compared.champion
            view.add_row(
                row.label + (" ★" if champion else ""),
                accuracy(row.accuracy, row.ci95),
                _folded(row.features) or row.untrained,
                duration(seconds[row.name]),
                f"{row.parameters:,}",
                f"v{versions[row.name]}" if row.name in versions else "-",
                style="bold" if champion else None,
            )
    return view


def _folded(name: str, width: int = 18) -> str:
    """A long name in lines that end in its underscores."""
    return "\n".join(textwrap.wrap(name.replace("_", "_ "), width)).replace("_ ", "_")


def pairs(compared: Comparison) -> Table:
    """Return the best row's leads over all others for a terminal; the comparison has at least two rows."""
    best = compared.rows[0]
    title = f"{best.label} against each of the others, on the same episodes"
    view = Table(title=title, title_justify="left", box=box.HORIZONTALS, padding=0, min_width=80)
    view.caption, view.caption_justify = Text("\n".join(compared.pair_notes)), "left"
    view.add_column("method", no_wrap=True)
    for column in ("difference", "p", "win / tie / loss", "needed"):
        view.add_column(column, justify="right", no_wrap=True)
    for row, pair in compared.leads:
        view.add_row(row.label, *shown(pair))
    return view


def plan(steps: Sequence["Step"]) -> Table:
    """Return a plan for a terminal: what is to be done, and how much is not."""
    view = Table(box=box.HORIZONTALS, padding=(0, 1), title_justify="left", caption_justify="left")
    for column in ("stage", "state", "why"):
        view.add_column(column, overflow="fold")
    view.add_column("time", justify="right")
    for step in steps:
        if step.state != "up to date":
            time = "?" if step.seconds is None else duration(step.seconds)
            view.add_row(step.stage, step.state, step.reason, time)
    known = sum(step.seconds or 0 for step in steps)
    guess = "at least " if any(step.seconds is None for step in steps) else ""
    waiting = len(view.rows)
    view.caption = f"{waiting} of {len(steps)} stages to make, {guess}{duration(known)} one after another"
    if not waiting:
        view.caption = f"all {len(steps)} stages are up to date"
    return view


def proposal(proposed: "Proposal") -> RenderableType:
    """What was found and is proposed, for a terminal."""
    from metashot.onboard import propose

    view = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    view.add_column(style="dim", no_wrap=True)
    view.add_column(overflow="fold")
    for key, value in propose.summary(proposed).items():
        view.add_row(key, value)
    title = f"{proposed.inspection.inspector.noun} in {proposed.inspection.raw.path!r}"
    return Group(Text(printable(title), style="bold"), view)


def answers(given: Sequence["Answer"]) -> Table:
    """Return answers for a terminal."""
    view = Table(box=box.HORIZONTALS, padding=(0, 1))
    view.add_column("sample", overflow="fold")
    view.add_column("class")
    view.add_column("probability", justify="right")
    for answer in given:  # names are of other people: no markup, and nothing that moves the cursor
        names = (Text(printable(name)) for name in (answer.sample, answer.label))
        view.add_row(*names, f"{answer.probability:.1%}")
    return view


def audit(audited: list["Audited"]) -> Table:
    """Return verdicts for a terminal: every check of a single version, else those that are not ok."""
    view = Table(box=box.HORIZONTALS, padding=(0, 1))
    for column in ("version", "check", "verdict"):
        view.add_column(column, no_wrap=True)
    view.add_column("what was found, differs or is gone", overflow="fold")
    styles = {"ok": "green", "fails": "bold red", "cannot check": "yellow"}
    few = len(audited) <= 2
    for one in audited:
        listed = [check for check in one.checks if few or check.verdict != "ok"]
        for number, check in enumerate(listed):
            verdict = Text(check.verdict, style=styles[check.verdict])
            view.add_row("" if number else one.name, check.name, verdict, check.detail)
        if not listed:
            view.add_row(one.name, f"{len(one.checks)} checks", Text("ok", style="green"), "")
        view.add_section()
    counts = Counter(one.verdict for one in audited)
    view.caption = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
    view.caption_justify = "left"
    return view


def reproduction(made: "Reproduced") -> Table:
    """Return what was made beside what is on record, for a terminal."""
    view = Table(title=f"{made.version}: {made.verdict}", title_justify="left", caption_justify="left")
    for column in ("file", "md5 on record", "md5 now"):
        view.add_column(column, overflow="fold")
    for path, (recorded, now) in made.files.items():
        view.add_row(path, recorded[:12], "the same" if now == recorded else (now or "missing")[:12])
    notes = [
        f"accuracy {100 * made.accuracy[0]:.2f} % on record, {100 * made.accuracy[1]:.2f} % now",
        *made.differences,
    ]
    if made.verdict != "bit-equal":
        notes.append(f"tolerance on another device or with other packages: {100 * made.tolerance:g} points")
    view.caption = Text("\n".join(map(line, notes)))
    return view


def trace(traced: "Trace") -> RenderableType:
    """Return a trace for a terminal, the raw download first."""
    document = traced.lineage
    metrics, trained, origin = document.metrics, document.training, document.origin
    tree, device = trained.git, trained.device
    parts: list[RenderableType] = [Text(line(f"{traced.version}  {' '.join(traced.aliases)}"), style="bold")]

    def section(title: str, rows: Mapping[str, str]) -> None:
        view = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
        view.add_column(style="dim", no_wrap=True)
        view.add_column(overflow="fold")
        for key, value in rows.items():
            if value:
                view.add_row(key, value)
        parts.extend([Text(f"\n{title}", style="bold"), view])

    section(
        "Result",
        {
            "method": document.method,
            "accuracy": f"{metrics.shown}, {metrics.shape}, {metrics.episodes:,} episodes",
            **{f"  {name}": extra.shown for name, extra in metrics.extra.items()},
            "untrained": metrics.untrained.shown if metrics.untrained else "",
            "result": document.result,
            "key": document.key,
            **{f"  {name}": md5 for name, md5 in document.model.items()},
        },
    )
    section(
        "Data",
        {
            "source": origin.marked(origin.source),
            "licence": origin.licence,
            "citation": origin.citation,
            "encoder": (origin.encoder.md5 or "files not here") if origin.encoder else "",
            **{f"  {name}": f"md5 {md5}" for name, md5 in origin.files.items()},
        },
    )
    dirty = ", tree changed: changes of code are in the training's record" if tree.dirty else ""
    others = tree.others
    section(
        "Training",
        {
            "commit": f"{tree.commit}{dirty}",
            "also changed": f"{others.count} other files: {', '.join(others.names)}"
            if others and others.count
            else "",
            "device": f"{device.name} ({device.type}), {device.threads} threads",
            "packages": ", ".join(f"{name} {version}" for name, version in trained.versions.items()),
            "steps": f"{trained.steps:,} in {duration(trained.seconds)}, best {trained.best_step:,}"
            if metrics.untrained
            else f"none, made in {duration(trained.seconds)}",
            "parameters": ", ".join(f"{key}={value}" for key, value in flat(trained.params)),
        },
    )
    made = {out.path for stage in document.stages.values() for out in stage.outs}
    stages = Table(box=None, padding=(0, 2, 0, 2), show_header=False)
    stages.add_column(overflow="fold")
    stages.add_column(overflow="fold", min_width=36)
    stages.add_column(justify="right", no_wrap=True)
    for name in document.in_order:
        stage = document.stages[name]
        stages.add_row(Text(line(name), style="bold"), f"key {stage.key[:28]}", "")
        for dep in stage.deps:
            if dep.path in made:
                stages.add_row(f" in {dep.path}", dep.md5, f"{dep.size:,}")
        for values in stage.params.values():
            for key, value in values.items():
                stages.add_row(f" {key.replace('tool.metashot.pins.', 'package ')}", str(value), "")
        for out in stage.outs:
            stages.add_row(f" out {out.path}", out.md5, f"{out.size:,}")
    parts.extend([Text("\nStages", style="bold"), stages])
    section("Code", {**trained.code, **document.evaluation.code})  # as it was loaded
    section(
        "Published",
        {
            "by": traced.publisher or "",
            "dvc.lock": f"commit {traced.commit}" if traced.commit else "not committed yet",
            "decision": traced.decision or "",
            "run": traced.run,
        },
    )
    return Group(*parts)
