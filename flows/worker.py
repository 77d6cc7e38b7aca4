"""Stages made on other machines: what a worker does in its clone, and how the pipeline requests it.

Git carries code and parameters to a worker, the DVC remote carries data there and results back, Prefect
carries the request. A worker commits nothing: only the pipeline writes dvc.lock.
"""

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect import flow, get_client, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State, WorkerStatus
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Cancelling, Completed, Crashed, Failed

from flows.parameters import Making, checked
from flows.plan import Step
from metashot.errors import MetashotError, line
from metashot.lineage import lockfile
from metashot.lineage.record import Record
from metashot.project import attempts, dvc, git
from metashot.project import make as dvc_make

NAME = "make-remotely"
POLL = 1.0  # seconds between queries of a worker's flow run

_requested: set[UUID] = set()  # flow runs that this process waits for


def _name() -> str:
    return line(flow_run.parameters["target"])


@flow(name=NAME, flow_run_name=_name, persist_result=False, validate_parameters=False)
def make_remotely(target: str, commit: str) -> State[None]:
    """Make one stage in this worker's clone, which is the working directory, and push its outputs.

    Args:
        target: The address of a stage that dvc.yaml has at the commit.
        commit: The full hash of the commit to check out, which the pipeline has pushed.

    Returns:
        Completed, once the result is in the DVC remote; Failed if it would fail again, with the reason;
        Crashed if the stage was preempted or killed.
    """
    root = Path.cwd()
    try:
        request = checked(Making, target=target, commit=commit)
        with dvc_make.stopped():
            checkout(root, request.commit)
            dvc.ancestry(dvc.graph(root), [request.target])  # refuses DVC targets other than stages
            # dvc.lock at the commit may be out of date, so what the target needs is made or pulled as well
            dvc_make.make(root, target, pull=True, echo=get_run_logger().info)
            push(root, target)
    except attempts.StageInterrupted as error:
        return Crashed(message=str(error))
    except MetashotError as error:
        return Failed(message=str(error))
    return Completed(message=_summary(root, target))


def checkout(root: Path, commit: str) -> None:
    """Check out a commit in a worker's clone, dvc.lock included, once no stage runs there.

    Raises:
        MetashotError: The clone has changes of its own, or the commit is on no branch or tag of its remote.
    """
    dvc_make.wait_for_stages(root)
    if git.state(root)["dirty"]:
        raise MetashotError(
            f"the worker's clone {root} has changes of its own (`git status` there lists them): "
            "commit them elsewhere or `git stash --include-untracked`"
        )
    if not git.published(root, commit):
        raise MetashotError(
            f"commit {commit[:10]} is on no branch or tag of the remote of the worker's clone {root}: "
            "`git push` it to that remote"
        )
    git.run(root, "checkout", "--quiet", "--force", "--detach", commit)


@task(retries=3, retry_delay_seconds=[5, 30, 120], cache_policy=NO_CACHE, persist_result=False)
def push(root: Path, target: str) -> None:
    """Push outputs to the DVC remote, with retries, for they may have cost a training."""
    dvc.push(root, target)


def ready(root: Path, pools: Iterable[str], planned: Sequence[Step]) -> str:
    """Push the outputs that are up to date; return the commit that workers must check out.

    Outputs that this run makes must follow, by `push`.

    Raises:
        MetashotError: The tree has changes that are not committed or not pushed, there is no DVC remote, or a
            pool has no worker.
    """
    state = git.state(root)
    commit: str | None = state["commit"]
    if commit is None or state["dirty"]:
        raise MetashotError(
            "workers run committed code only, and this tree has uncommitted changes (`git status` lists "
            "them): commit and push them"
        )
    if not git.run(root, "branch", "--remotes", "--contains", commit):
        raise MetashotError(f"no remote branch has commit {commit[:10]}, which workers need: `git push` it")
    if not dvc.output(root, "remote", "list"):
        raise MetashotError(
            "workers return results through a DVC remote, and none is configured: "
            "`dvc remote add --default NAME ADDRESS`, then commit and push .dvc/config"
        )
    with get_client(sync_client=True) as client:
        for pool in set(pools):
            _check_pool(client, pool)
    if up_to_date := [step.stage for step in planned if step.state == "up to date"]:
        dvc.push(root, *up_to_date)
    return commit


@contextmanager
def cancelled() -> Iterator[None]:
    """If the block fails or is interrupted, cancel every flow run that `make` is waiting for."""
    try:
        yield
    except BaseException:
        with get_client(sync_client=True) as client:
            for run in list(_requested):
                client.set_flow_run_state(run, Cancelling())
        raise


def make(root: Path, target: str, pool: str, commit: str, echo: Callable[[str], None]) -> None:
    """Have a worker of a pool make one stage, then pull the result.

    Whatever the stage needs must have been pushed. If the same stage at the same commit has been requested
    before and is not done, by whomever, this waits for that request.

    Args:
        root: The repository.
        target: The address of a stage.
        pool: The work pool.
        commit: The full hash of the commit that the worker checks out.
        echo: Called with each line of output.

    Raises:
        StageFailed: It failed, and would again.
        StageInterrupted: The worker was lost, or the stage preempted.
        MetashotError: No worker is available, or the run was cancelled.
    """
    outcome = _request(target, pool, commit, echo)
    if outcome.is_crashed():
        raise attempts.StageInterrupted(f"{target} on pool {pool}: {outcome.message}")
    if outcome.is_failed():
        raise attempts.StageFailed(f"{target} on pool {pool}: {outcome.message}")
    if not outcome.is_completed():
        raise MetashotError(f"{target} on pool {pool}: {outcome.name}")
    echo(f"made on pool {pool}: {line(outcome.message)}")
    before = attempts.read_status(root, target)
    dvc_make.make(root, target, pull=True, echo=echo)
    if attempts.read_status(root, target) != before:
        echo(f"warning: {target} was made again here: the DVC remote lacks what the worker made")


def _request(target: str, pool: str, commit: str, echo: Callable[[str], None]) -> State[Any]:
    """Start a flow run that makes a target, or join one under way; return its final state."""
    with get_client(sync_client=True) as client:
        for attempt in itertools.count(1):
            run: Any = run_deployment(
                f"{NAME}/{pool}",
                parameters={"target": target, "commit": commit},
                idempotency_key=f"{target} {commit} {attempt}",
                timeout=0,
            )
            if not run.state.is_final():  # else it is of an earlier pipeline or attempt
                break
        echo(f"requested from pool {pool}: flow run {line(run.name)}")
        _requested.add(run.id)
        try:
            while not run.state.is_final():
                time.sleep(POLL)
                with suppress(httpx.TransportError):  # the server may be down; the worker continues
                    run = client.read_flow_run(run.id)
                    if run.state.is_scheduled():
                        _check_pool(client, pool)
        finally:
            _requested.discard(run.id)
        state: State[Any] = run.state
        return state


def _check_pool(client: SyncPrefectClient, pool: str) -> None:
    """Raise a MetashotError unless a pool can take a request."""
    server = f"Prefect at {client.api_url}"
    try:
        work_pool = client.read_work_pool(pool)
    except ObjectNotFound:
        raise MetashotError(
            f"{server} has no work pool {pool}: `prefect work-pool create {pool} --type process`, "
            f"then `prefect deploy --name {pool}`"
        ) from None
    try:
        client.read_deployment_by_name(f"{NAME}/{pool}")
    except ObjectNotFound:
        raise MetashotError(
            f"{server} has no deployment {NAME}/{pool}: `prefect deploy --name {pool}`"
        ) from None
    if work_pool.is_paused:
        raise MetashotError(f"work pool {pool} is paused: `prefect work-pool resume {pool}`")
    workers = client.read_workers_for_work_pool(pool)
    if not any(worker.status == WorkerStatus.ONLINE for worker in workers):
        raise MetashotError(
            f"work pool {pool} has no worker online: `prefect worker start --pool {pool} --limit 1` on one"
        )


def _summary(root: Path, target: str) -> str:
    """Return key and result of a stage, and where it was made in how many seconds."""
    entry = lockfile.Lock(root).entries[target]
    parts = [f"key {entry.key[:12]}, result {entry.result[:12]}"]
    for out in entry.outs:
        path = root / str(out["path"]) / "record.json"
        if path.is_file():
            record = Record.parse(path.read_bytes(), str(path))
            parts.append(f"{record.seconds:.1f} s on {record.device.type} {record.device.name}")
    return ", ".join([*parts, f"worker {os.environ.get('PREFECT__WORKER_NAME', 'unnamed')}"])
