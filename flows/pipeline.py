"""The graph of dvc.yaml as a Prefect flow: DVC says which stages must run, Prefect runs them in parallel."""

import os
import queue
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows import worker
from flows.plan import Step, plan
from metashot.config import params
from metashot.errors import MetashotError
from metashot.lineage import lockfile
from metashot.project import attempts, dvc
from metashot.project import make as dvc_make
from metashot.results import cards
from metashot.results.compare import compare

ATTEMPTS = 3  # at a stage that is preempted or killed

Slot = dict[str, str]  # environment variables of a stage that runs in it
Watch = Callable[[str, str], None]  # called with a stage's address and its new state


def slots(root: Path, jobs: int | None = None) -> list[Slot]:
    """Return a slot for each stage that can run in parallel: one for each GPU, or for `threads` CPU cores.

    Args:
        root: The repository.
        jobs: The number of slots, whatever the machine has.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None and shutil.which("nvidia-smi"):
        printed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
        visible = ",".join(str(number) for number in range(printed.stdout.count("GPU ")))
    if gpus := [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in (visible or "").split(",") if gpu]:
        return [gpus[job % len(gpus)] for job in range(jobs or len(gpus))]
    threads: int = params.read(root / "params.yaml", "threads", params.Threads)
    return [{}] * (jobs or max(1, (os.cpu_count() or 1) // threads))


def _ignore(stage: str, state: str) -> None:
    """A watch that does nothing."""


def _may_retry(task: object, run: TaskRun, state: State[Any]) -> bool:
    failure = state.result(raise_on_failure=False)
    return isinstance(failure, attempts.StageInterrupted) and not dvc_make.stopping()


@task(
    task_run_name="{step.stage}",
    retries=ATTEMPTS - 1,
    retry_condition_fn=_may_retry,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def make(root: Path, step: Step, free: Any, watch: Any, pool: str | None, commit: str | None) -> None:
    """Make one stage: here, in a free slot, or by a worker.

    Args:
        root: The repository.
        step: The stage.
        free: A queue of the free slots.
        watch: See `pipeline`.
        pool: The work pool whose workers make it; None if it is made here.
        commit: The commit that workers check out; None if none take part.

    Raises:
        StageFailed: It failed, and would again.
        StageInterrupted: It was preempted or killed in every attempt.
        MetashotError: No worker can take it, or the DVC remote cannot be reached.
    """
    target, log = step.stage, get_run_logger().info
    slot = {} if pool else free.get()
    try:
        watch(target, "running")
        before = attempts.read_status(root, target)
        if pool and commit:
            worker.make(root, target, pool, commit, log)
        else:
            pull = step.state == "cached on the remote"
            dvc_make.make(root, target, pull=pull, echo=log, environment=slot)
        if commit and not pool:  # workers may need its outputs
            worker.push(root, target)
        watch(target, "cached" if attempts.read_status(root, target) == before else "made")
    except BaseException as error:
        watch(target, f"failed: {error}")
        raise
    finally:
        if not pool:
            free.put(slot)


@task(cache_policy=NO_CACHE, persist_result=False)
def publish(root: Path, groups: Sequence[tuple[str, str]], methods: Sequence[str]) -> list[str]:
    """Publish results to MLflow; return a line for each group that says what MLflow holds now.

    Raises:
        MetashotError: MLflow cannot be reached; a later publish catches up.
    """
    from metashot.registry import publish  # slow to import

    return [str(published) for published in publish.publish(root, groups, methods)]


@flow(task_runner=ThreadPoolTaskRunner(max_workers=256), validate_parameters=False)  # type: ignore[arg-type]
def pipeline(
    root: Path,
    targets: Sequence[str] = (),
    jobs: int | None = None,
    watch: Watch | None = None,
    remote: bool = False,
) -> State[Any]:
    """Make every stage that is not up to date, publish, and store the comparisons as artifacts.

    A stage that fails stops those that need it, and no others.

    Args:
        root: The repository.
        targets: Stages to make, with those that they need; all of dvc.yaml if empty.
        jobs: How many stages run in parallel; see `slots`.
        watch: Called, if given, with a stage's address and its new state: ``waiting``, ``running``, ``made``,
            ``cached`` or ``failed: ...``.
        remote: Whether workers make the stages that name a work pool in dvc.yaml; the rest is made here.

    Returns:
        Completed, with what MLflow holds as its message; or Failed, with each stage that failed.
    """
    try:
        planned = plan(root, targets)
        steps = [step for step in planned if step.state != "up to date"]
        pool_of = dvc.pools(root) if remote else {}
        pools = {s.stage: pool_of[s.stage] for s in steps if s.state == "must run" and s.stage in pool_of}
        commit = worker.ready(root, pools.values(), planned) if pools else None
    except MetashotError as error:
        return Failed(message=str(error))
    free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
    for slot in slots(root, jobs):
        free.put(slot)
    watch = watch or _ignore
    for step in steps:
        watch(step.stage, "waiting")
    with dvc_make.stopped(), worker.cancelled():
        tasks: dict[str, Any] = {}
        for step in steps:  # in topological order, so that a task's needs are submitted before it
            needed = [tasks[name] for name in step.needs if name in tasks]
            pool = pools.get(step.stage)
            tasks[step.stage] = make.submit(root, step, free, watch, pool, commit, wait_for=needed)  # type: ignore[call-overload]
        for future in tasks.values():
            future.wait()
    failures = [
        f"{name}: {future.state.result(raise_on_failure=False)}"
        for name, future in tasks.items()
        if future.state.is_failed() or future.state.is_crashed()
    ]
    published = _publish_made(root, planned)
    if published and published.is_failed():
        failures.append(f"publish: {published.result(raise_on_failure=False)}")
    if failures:
        return Failed(message="; ".join(failures))
    summary = f"{len(steps)} stages made" if steps else "everything is up to date"
    return Completed(message="; ".join([summary, *(published.result() if published else [])]))


def run(root: Path, targets: Sequence[str], jobs: int | None, watch: Watch, remote: bool) -> State[Any]:
    """Run the flow and return its final state. Arguments like `pipeline`.

    Raises:
        MetashotError: Prefect itself failed; failures within the flow are part of its state.
    """
    try:
        state: State[Any] = pipeline(root, targets, jobs, watch, remote, return_state=True)
    except (RuntimeError, httpx.HTTPError, PrefectException) as error:
        raise MetashotError(
            f"Prefect gave up ({' '.join(str(error).split())}): run again, or use `dvc repro`"
        ) from None
    return state


def _publish_made(root: Path, planned: Sequence[Step]) -> State[Any] | None:
    """Publish what is made, and store each comparison as an artifact; None where nothing is made yet."""
    methods = lockfile.listed(root, "methods")
    groups = made(root, [step.stage for step in planned])
    if not groups:
        return None
    published: State[Any] = publish(root, groups, methods, return_state=True)
    for dataset, setting in groups:
        comparison = compare(lockfile.Lock(root), dataset, setting, methods)
        create_markdown_artifact(
            key=f"comparison-{comparison.group}".lower().replace("_", "-"),
            markdown=cards.overview(comparison),
            description=f"{comparison.data}: {comparison.protocol}",
        )
    return published


def made(root: Path, stages: Sequence[str]) -> list[tuple[str, str]]:
    """Return each data set and setting that ``stages`` register and whose methods are all judged."""
    datasets, settings, methods = (
        lockfile.listed(root, "datasets"),
        lockfile.listed(root, "settings"),
        lockfile.listed(root, "methods"),
    )
    up_to_date = set(lockfile.Lock(root).entries) if (root / "dvc.lock").exists() else set()
    up_to_date -= set(dvc.status(root))

    def needed(dataset: str, setting: str) -> list[str]:
        cells = [f"{stage}@{dataset}-{setting}-{m}" for stage in ("train", "evaluate") for m in methods]
        return [f"gate@{dataset}-{setting}", *cells]

    return [
        (dataset, setting)
        for dataset in datasets
        for setting in settings
        if f"register@{dataset}-{setting}" in stages and up_to_date.issuperset(needed(dataset, setting))
    ]
