"""The graph of dvc.yaml as a Prefect flow: DVC says what there is to do, Prefect does it side by side."""

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
from metashot.results import cards
from metashot.results.compare import compare

ATTEMPTS = 3  # at a stage that is preempted or killed

Slot = dict[str, str]  # what a stage that runs in it finds in its environment
Watch = Callable[[str, str], None]  # told a stage, and what became of it


def slots(root: Path, jobs: int | None = None) -> list[Slot]:
    """Return what stages can run on at the same time: a GPU each, or the CPU cores that ``threads`` asks for.

    Args:
        root: The repository.
        jobs: How many, whatever the machine has.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None and shutil.which("nvidia-smi"):
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
        named = ",".join(str(number) for number in range(listed.stdout.count("GPU ")))
    if gpus := [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in (named or "").split(",") if gpu]:
        return [gpus[job % len(gpus)] for job in range(jobs or len(gpus))]
    threads: int = params.read(root / "params.yaml", "threads", params.Threads)
    return [{}] * (jobs or max(1, (os.cpu_count() or 1) // threads))


def _ignore(stage: str, what: str) -> None:
    """A watch that nobody keeps."""


def _may_be_tried_again(task: object, run: TaskRun, state: State[Any]) -> bool:
    failure = state.result(raise_on_failure=False)
    return isinstance(failure, dvc.StageInterrupted) and not dvc.stopping()


@task(
    task_run_name="{step.stage}",
    retries=ATTEMPTS - 1,
    retry_condition_fn=_may_be_tried_again,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def make(root: Path, step: Step, free: Any, watch: Any, pool: str | None, commit: str | None) -> None:
    """Make one stage: here, once there is a free slot for it, or by a worker.

    Args:
        root: The repository.
        step: The stage.
        free: The slots.
        watch: As of the pipeline.
        pool: The work pool whose workers make it, None if it is made here.
        commit: What workers check out, None if none take part.

    Raises:
        StageFailed: It failed, and would again.
        StageInterrupted: It was preempted or killed, and again when it was tried again.
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
            dvc.make(root, target, pull=pull, echo=log, environment=slot)
        if commit and not pool:  # workers need what it stands for
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
    """Make MLflow agree with what was made; returns what it holds now, in words.

    Raises:
        MetashotError: MLflow cannot be reached; a later publish makes up for it.
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
    """Make every stage that is not up to date, publish, and leave the comparisons as artifacts.

    A stage that fails stops those that need it, and no other.

    Args:
        root: The repository.
        targets: Stages, with what they stand on; all of dvc.yaml if there are none.
        jobs: Stages at the same time; see `slots`.
        watch: Called, if given, with a stage's address and ``waiting``, ``running``, ``made``,
            ``cached`` or ``failed: ...``.
        remote: Whether workers make what asks for a work pool in dvc.yaml; the rest is made here.

    Returns:
        Completed, with what MLflow holds as its message; or Failed, with each stage that failed.
    """
    try:
        planned = plan(root, targets)
        steps = [step for step in planned if step.state != "up to date"]
        asked = dvc.pools(root) if remote else {}
        pools = {s.stage: asked[s.stage] for s in steps if s.state == "must run" and s.stage in asked}
        commit = worker.ready(root, pools.values(), planned) if pools else None
    except MetashotError as error:
        return Failed(message=str(error))
    free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
    for slot in slots(root, jobs):
        free.put(slot)
    tell = watch or _ignore
    for step in steps:
        tell(step.stage, "waiting")
    with dvc.stopped(), worker.cancelled():
        tasks: dict[str, Any] = {}
        for step in steps:  # in an order they can be made in, so that none waits for one behind it
            needed = [tasks[name] for name in step.needs if name in tasks]
            pool = pools.get(step.stage)
            tasks[step.stage] = make.submit(root, step, free, tell, pool, commit, wait_for=needed)  # type: ignore[call-overload]
        for made in tasks.values():
            made.wait()
    wrong = [
        f"{name}: {made.state.result(raise_on_failure=False)}"
        for name, made in tasks.items()
        if made.state.is_failed() or made.state.is_crashed()
    ]
    published = _show(root, planned)
    if published and published.is_failed():
        wrong.append(f"publish: {published.result(raise_on_failure=False)}")
    if wrong:
        return Failed(message="; ".join(wrong))
    done = f"{len(steps)} stages made" if steps else "everything is up to date"
    return Completed(message="; ".join([done, *(published.result() if published else [])]))


def run(root: Path, targets: Sequence[str], jobs: int | None, watch: Watch, remote: bool) -> State[Any]:
    """Run the flow to its end, whatever that is. Arguments as `pipeline`.

    Raises:
        MetashotError: Prefect itself gave up; what fails within the flow ends in its state.
    """
    try:
        state: State[Any] = pipeline(root, targets, jobs, watch, remote, return_state=True)
    except (RuntimeError, httpx.HTTPError, PrefectException) as error:
        raise MetashotError(
            f"Prefect gave up ({' '.join(str(error).split())}): run again, or use `dvc repro`"
        ) from None
    return state


def _show(root: Path, planned: Sequence[Step]) -> State[Any] | None:
    """Publish what is made, and leave each comparison as an artifact; None where nothing is made yet."""
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
    """Return the data sets and settings, of those that stages register, whose methods are all judged."""
    datasets, settings, methods = (
        lockfile.listed(root, "datasets"),
        lockfile.listed(root, "settings"),
        lockfile.listed(root, "methods"),
    )
    done = set(lockfile.Lock(root).entries) if (root / "dvc.lock").exists() else set()
    done -= set(dvc.status(root))
    cells = ("train", "evaluate")
    return [
        (d, s)
        for d in datasets
        for s in settings
        if f"register@{d}-{s}" in stages
        and done.issuperset([f"gate@{d}-{s}", *(f"{c}@{d}-{s}-{m}" for c in cells for m in methods)])
    ]
