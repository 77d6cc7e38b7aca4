"""Scheduled retraining: pin new data, make what is out of date, let the gate decide, commit everything."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.blocks.core import Block
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from flows.parameters import Retraining, checked
from flows.pipeline import pipeline, publish
from flows.plan import plan
from metashot.config import check, pin
from metashot.errors import MetashotError
from metashot.formatting import accuracy
from metashot.lineage import lockfile
from metashot.project import dvc, find_root, git
from metashot.results import champions
from metashot.results.compare import compare
from metashot.results.decision import decision_of, decision_path

COMMITTED = ("params.yaml", "dvc.lock", lockfile.CHAMPIONS)  # files in git that a retraining changes
NO_CHANGE, UNPUBLISHED = "No change", "Unpublished"
REGISTER = "register@", "register_cross@"  # the stages that need MLflow

Group = tuple[str, str]


@flow(persist_result=False, validate_parameters=False)
def retrain(
    branch: str = "retrain",
    tag: bool = False,
    push: bool = False,
    notify: str | None = None,
    jobs: int | None = None,
) -> State[Any]:
    """Retrain in the repository that is the working directory, if anything has changed.

    Args:
        branch: The branch to which params.yaml, dvc.lock and the champions are committed, with the gate's
            decisions in the message. It need not be checked out.
        tag: Whether to tag the commit as well, ``<branch>-<time>``.
        push: Whether to push results to the DVC remote, then the branch to git's ``origin``.
        notify: A notification block, ``<type>/<name>``, that gets the outcome, unless nothing changed.
        jobs: How many stages run in parallel; see `flows.pipeline.slots`.

    Returns:
        One of the states

        - Completed "No change": everything was up to date;
        - Completed "Retrained";
        - Completed "Unpublished": everything is made and committed, but MLflow could not be reached;
        - Completed "Published": only stages that publish to MLflow had to run;
        - Failed: each stage that failed, or why nothing was started. Finished stages are kept: the next run
          continues from there.
    """
    try:
        checked(Retraining, branch=branch, tag=tag, push=push, notify=notify, jobs=jobs)
    except MetashotError as error:
        return Failed(message=str(error))
    try:
        outcome = _retrain(find_root(Path.cwd()), branch, tag, push, jobs)
    except MetashotError as error:
        outcome = Failed(message=str(error))
    if notify and outcome.name != NO_CHANGE:
        send_notification(notify, f"metashot: {outcome.name}", outcome.message or "", return_state=True)
    return outcome


def _retrain(root: Path, branch: str, tag: bool, push: bool, jobs: int | None) -> State[Any]:
    _check(root)
    groups = [(d, s) for d in lockfile.listed(root, "datasets") for s in lockfile.listed(root, "settings")]
    if new := refresh(root):
        commit(root, branch, f"New data: {', '.join(new)}")
    steps = plan(root)
    todo = [step.stage for step in steps if step.state != "up to date"]
    if todo:
        if any(stage.startswith(("train@", "evaluate@")) for stage in todo):
            for group in groups:
                adopt(root, *group)
        outcome: State[Any] = pipeline(root, jobs=jobs, return_state=True)
        remaining = [step.stage for step in plan(root) if step.state != "up to date"]
        if any(not stage.startswith(REGISTER) for stage in remaining):
            return Failed(message=outcome.message)
        unpublished, message = bool(remaining) or not outcome.is_completed(), outcome.message
    else:  # MLflow may lack results: it may have been down, or be new
        outcome = publish(root, groups, lockfile.listed(root, "methods"), return_state=True)
        unpublished, message = not outcome.is_completed(), f"{len(steps)} stages are up to date"
        if unpublished:
            message = str(outcome.result(raise_on_failure=False))
    name = UNPUBLISHED if unpublished else _name(todo)
    if not git.holds(root, branch, COMMITTED):  # also where an earlier run was killed before its commit
        report = _report(root, name, groups)
        commit(root, branch, report, tag)
        message = f"{report}\n\n{message}"
    if push and _unpushed(root, branch):
        send(root, branch, tag)
    return Completed(name=name, message=message)


def _name(todo: Sequence[str]) -> str:
    if not todo:
        return NO_CHANGE
    return "Published" if all(stage.startswith(REGISTER) for stage in todo) else "Retrained"


def _check(root: Path) -> None:
    """Raise a MetashotError for wrong parameters, and for uncommitted changes."""
    check.check(root / "params.yaml")
    others = [f":(exclude,top){path}" for path in COMMITTED]
    if changed := git.run(
        root, "status", "--porcelain", "--untracked-files=normal", "--", ":/", *others
    ).splitlines():
        raise MetashotError(
            f"{root} has uncommitted changes ({len(changed)} in `git status`, the first is "
            f"{changed[0].split()[-1]}): commit them or `git stash --include-untracked`"
        )


@task(cache_policy=NO_CACHE, persist_result=False)
def refresh(root: Path) -> list[str]:
    """Pin the present content of every local data set; return the data sets whose content is new."""
    new = [dataset for dataset in lockfile.listed(root, "datasets") if pin.refresh(root, dataset)]
    get_run_logger().info("new data: %s", ", ".join(new) or "none")
    return new


@task(cache_policy=NO_CACHE, persist_result=False)
def adopt(root: Path, dataset: str, setting: str) -> None:
    """Make the champion the incumbent that new models have to beat, unless it is already."""
    group = f"{dataset}-{setting}"
    pointer, decision = f"{lockfile.CHAMPIONS}/{group}.dvc", decision_path(group)
    if not (root / "dvc.lock").exists() or f"gate@{group}" not in lockfile.Lock(root).entries:
        return
    # A run that was killed may have removed these
    dvc.output(root, "checkout", "--force", decision, *([pointer] if (root / pointer).exists() else []))
    champion = decision_of(lockfile.Lock(root), group).champion
    incumbents = {cell.weights for _, cell in lockfile.adopted(root, dataset, setting)}
    # After a run that failed half-way, some results are not those that were judged; but that run has adopted
    if champion and champion.model not in incumbents:
        champions.adopt(root, dataset, setting)


@task(cache_policy=NO_CACHE, persist_result=False)
def commit(root: Path, branch: str, message: str, tag: bool = False) -> None:
    """Commit what a retraining changes; the checkout and uncommitted work are left alone."""
    new = git.commit(root, branch, COMMITTED, message)
    if tag:
        git.run(root, "tag", f"{branch}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}", new)
    get_run_logger().info("%s on %s: %s", new[:10], branch, message)


@task(retries=3, retry_delay_seconds=[5, 30, 120], cache_policy=NO_CACHE, persist_result=False)
def send(root: Path, branch: str, tag: bool) -> None:
    """Push the data, then the commit that refers to it, with its tags."""
    dvc.push(root)
    git.run(root, "push", "--quiet", *(["--tags"] if tag else []), "origin", branch)


def _unpushed(root: Path, branch: str) -> bool:
    """Whether the branch differs from the remote's, as last fetched or pushed."""
    refs = f"refs/heads/{branch}", f"refs/remotes/origin/{branch}"
    local, remote = (git.run(root, "for-each-ref", "--format=%(objectname)", ref) for ref in refs)
    return local not in ("", remote)


@task(cache_policy=NO_CACHE, persist_result=False)
def send_notification(block: str, subject: str, body: str) -> None:
    """Send a notification through a Prefect block."""
    notification: Any = Block.load(block)
    notification.notify(body, subject)


def _report(root: Path, name: str, groups: Sequence[Group]) -> str:
    """Return the commit message: the outcome and the champions in one line, then the gate's reasons."""
    verdicts, reasons = [], []
    for dataset, setting in groups:
        group = f"{dataset}-{setting}"
        decision = compare(lockfile.Lock(root), dataset, setting, lockfile.listed(root, "methods")).decision
        champion = "no champion"
        if decision.champion:
            shown = accuracy(decision.champion.accuracy, decision.champion.ci95)
            champion = (
                f"{'new' if decision.promoted else 'same'} champion {decision.champion.method}, {shown}"
            )
        verdicts.append(f"{group} has {champion}")
        reasons.append(
            "\n".join([f"{decision_path(group)}:", *(f"- {reason}" for reason in decision.reasons)])
        )
    return "\n\n".join([f"{name}: {'; '.join(verdicts)}", *reasons])
