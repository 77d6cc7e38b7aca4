"""Stages made on other machines: what a worker does in its clone, and how a pipeline asks for it.

Git carries code and parameters to a worker, the DVC remote carries data there and results back, Prefect
carries the request. A worker commits nothing: the one dvc.lock is the pipeline's.
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

NAME = "make-remotely"
POLL = 1.0  # seconds between looks at a worker's flow run

_asked: set[UUID] = set()  # flow runs that somebody waits for


def _name() -> str:
    return line(flow_run.parameters["target"])


@flow(name=NAME, flow_run_name=_name, persist_result=False, validate_parameters=False)
def make_remotely(target: str, commit: str) -> State[None]:
    """Make one stage in this worker's clone, which is the working directory, and push what came out.

    Args:
        target: Address of a stage that dvc.yaml has at the commit.
        commit: What to check out, in full. The pipeline has pushed it.

    Returns:
        Completed, once the result is in the DVC remote; Failed if it would fail again, with the reason;
        Crashed if the stage was preempted or killed.
    """
    root = Path.cwd()
    try:
        asked = checked(Making, target=target, commit=commit)
        with dvc.stopped():
            checkout(root, asked.commit)
            dvc.ancestry(dvc.graph(root), [asked.target])  # a stage, and nothing else that DVC knows
            # The lock at the commit may be older than what the target stands on: not by `repro -s`
            dvc.make(root, target, pull=True, echo=get_run_logger().info)
            push(root, target)
    except dvc.StageInterrupted as error:
        return Crashed(message=str(error))
    except MetashotError as error:
        return Failed(message=str(error))
    return Completed(message=_summary(root, target))


def checkout(root: Path, commit: str) -> None:
    """Bring a worker's clone to a commit, once nothing runs there any more; its dvc.lock as well.

    Raises:
        MetashotError: The clone has changes of its own, or no branch or tag of its remote leads to it.
    """
    dvc.wait_for_stages(root)
    if git.state(root)["dirty"]:
        raise MetashotError(
            f"the worker's clone {root} has changes of its own (`git status` there lists them): "
            "commit them elsewhere or `git stash --include-untracked`"
        )
    if not git.published(root, commit):
        raise MetashotError(
            f"no branch or tag of the remote that {root} was cloned from leads to commit {commit[:10]}: "
            "`git push` it to where the worker's clone fetches from"
        )
    git.run(root, "checkout", "--quiet", "--force", "--detach", commit)


@task(retries=3, retry_delay_seconds=[5, 30, 120], cache_policy=NO_CACHE, persist_result=False)
def push(root: Path, target: str) -> None:
    """Send what was made to the DVC remote: tried again, for it has cost a training."""
    dvc.push(root, target)


def ready(root: Path, pools: Iterable[str], planned: Sequence[Step]) -> str:
    """Return the commit that workers are to check out, once they can have all they need.

    What is up to date here is sent to the DVC remote; what this run makes is to follow, with `push`.

    Raises:
        MetashotError: Something of this tree is not committed or not pushed, there is no DVC remote, or a
            pool has nobody to work for it.
    """
    state = git.state(root)
    commit: str | None = state["commit"]
    if commit is None or state["dirty"]:
        raise MetashotError(
            "workers make what is committed, and this tree has changes (`git status` lists them): "
            "commit and push them"
        )
    if not git.run(root, "branch", "--remotes", "--contains", commit):
        raise MetashotError(f"no remote branch has commit {commit[:10]}, which workers need: `git push` it")
    if not dvc.output(root, "remote", "list"):
        raise MetashotError(
            "workers send results through a DVC remote, and there is none: "
            "`dvc remote add --default NAME ADDRESS`, then commit and push .dvc/config"
        )
    with get_client(sync_client=True) as client:
        for pool in set(pools):
            _check_pool(client, pool)
    if made := [step.stage for step in planned if step.state == "up to date"]:
        dvc.push(root, *made)
    return commit


@contextmanager
def cancelled() -> Iterator[None]:
    """If the block fails or is interrupted, cancel every flow run that `make` waits for."""
    try:
        yield
    except BaseException:
        with get_client(sync_client=True) as client:
            for run in list(_asked):
                client.set_flow_run_state(run, Cancelling())
        raise


def make(root: Path, target: str, pool: str, commit: str, echo: Callable[[str], None]) -> None:
    """Have a worker of a pool make one stage, then bring the result here.

    What the stage needs of this tree must have been pushed. A request for the same stage at the same commit
    that is under way, whoever made it, is joined.

    Raises:
        StageFailed: It failed, and would again.
        StageInterrupted: The worker was lost, or the stage preempted.
        MetashotError: No worker is there to take it, or the run was cancelled.
    """
    outcome = _ask(target, pool, commit, echo)
    if outcome.is_crashed():
        raise dvc.StageInterrupted(f"{target} on pool {pool}: {outcome.message}")
    if outcome.is_failed():
        raise dvc.StageFailed(f"{target} on pool {pool}: {outcome.message}")
    if not outcome.is_completed():
        raise MetashotError(f"{target} on pool {pool}: {outcome.name}")
    echo(f"made on pool {pool}: {line(outcome.message)}")
    before = attempts.read_status(root, target)
    dvc.make(root, target, pull=True, echo=echo)
    if attempts.read_status(root, target) != before:
        echo(f"warning: {target} was made again here: the DVC remote lacks what the worker made")


def _ask(target: str, pool: str, commit: str, echo: Callable[[str], None]) -> State[Any]:
    """Have a flow run make a target, and wait for its final state."""
    with get_client(sync_client=True) as client:
        for attempt in itertools.count(1):
            run: Any = run_deployment(
                f"{NAME}/{pool}",
                parameters={"target": target, "commit": commit},
                idempotency_key=f"{target} {commit} {attempt}",
                timeout=0,
            )
            if not run.state.is_final():  # a final one is an earlier pipeline's, or an earlier attempt
                break
        echo(f"asked pool {pool}: flow run {line(run.name)}")
        _asked.add(run.id)
        try:
            while not run.state.is_final():
                time.sleep(POLL)
                with suppress(httpx.TransportError):  # the server is away; the worker goes on, and so do we
                    run = client.read_flow_run(run.id)
                    if run.state.is_scheduled():
                        _check_pool(client, pool)
        finally:
            _asked.discard(run.id)
        state: State[Any] = run.state
        return state


def _check_pool(client: SyncPrefectClient, pool: str) -> None:
    """Raise a MetashotError unless a pool can take a request."""
    where = f"Prefect at {client.api_url}"
    try:
        found = client.read_work_pool(pool)
    except ObjectNotFound:
        raise MetashotError(
            f"{where} has no work pool {pool}: `prefect work-pool create {pool} --type process`, "
            f"then `prefect deploy --name {pool}`"
        ) from None
    try:
        client.read_deployment_by_name(f"{NAME}/{pool}")
    except ObjectNotFound:
        raise MetashotError(
            f"{where} has no deployment {NAME}/{pool}: `prefect deploy --name {pool}`"
        ) from None
    if found.is_paused:
        raise MetashotError(f"work pool {pool} is paused: `prefect work-pool resume {pool}`")
    workers = client.read_workers_for_work_pool(pool)
    if not any(worker.status == WorkerStatus.ONLINE for worker in workers):
        raise MetashotError(
            f"work pool {pool} has no worker online: `prefect worker start --pool {pool} --limit 1` on one"
        )


def _summary(root: Path, target: str) -> str:
    """What was made, where, and how long it took."""
    entry = lockfile.Lock(root).entries[target]
    said = [f"key {entry.key[:12]}, result {entry.result[:12]}"]
    for out in entry.outs:
        record = root / str(out["path"]) / "record.json"
        if record.is_file():
            made = Record.parse(record.read_bytes(), str(record))
            said.append(f"{made.seconds:.1f} s on {made.device.type} {made.device.name}")
    return ", ".join([*said, f"worker {os.environ.get('PREFECT__WORKER_NAME', 'unnamed')}"])
