"""Stages made by workers: a real Prefect server, workers with clones of their own, and a DVC remote."""

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import boto3
import pytest
import yaml
from prefect.settings import PREFECT_API_URL, temporary_settings
from project import IDENTITY, METHODS, ROOT, Project, wait_until
from servers import Server, free_port

from flows import worker
from metashot.errors import MetashotError
from metashot.files import md5

pytestmark = pytest.mark.slow

TRAINED = [f"train@glyphs-5w1s-{method}" for method in METHODS]
EVALUATED = [f"evaluate@glyphs-5w1s-{method}" for method in METHODS]
BIN = str(Path(sys.executable).parent)
PATH = os.pathsep.join([BIN, os.environ["PATH"]])


def small(root: Path) -> Project:
    """A project with fewer images than others test with."""
    project = Project(root)
    with project.params() as params:
        params["data"]["glyphs"]["raw"]["writers"] = 6
        params["setting"]["5w1s"] |= {"n_query": 3, "extra": {}}
    return project


class Site:
    """A coordinator's repository, its git and DVC remotes, and workers of one Prefect server."""

    def __init__(self, folder: Path, address: str, endpoint: str, environment: dict[str, str]) -> None:
        self.folder = folder
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.project = small(folder / "coordinator")
        self.environment = {**self.project.environment, **environment}
        self.run("dvc", "remote", "add", "--default", "store", address)
        if endpoint:
            self.run("dvc", "remote", "modify", "store", "endpointurl", endpoint)
        subprocess.run(["git", "init", "-q", "--bare", folder / "origin.git"], check=True)
        self.run("git", "remote", "add", "origin", str(folder / "origin.git"))
        self.commit()

    def commit(self) -> None:
        self.run("git", *IDENTITY, "commit", "-qam", "change")
        self.run("git", "push", "-q", "origin", "HEAD:main")

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.project.root, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def pipeline(self, *targets: str) -> str:
        """Run the pipeline with workers; return its final state."""
        code = (
            "import sys; from pathlib import Path; from flows.pipeline import pipeline; "
            "state = pipeline(Path.cwd(), sys.argv[1:], remote=True, return_state=True); "
            "print('STATE', state.type.value, state.message)"
        )
        output = self.run("python", "-c", code, *targets)
        (self.folder / "pipeline.log").write_text(output)
        return output.partition("STATE ")[2].strip()

    def start_worker(self, name: str) -> None:
        """Start a worker with a clone of its own, from another folder."""
        clone, home = self.folder / name, self.folder / f"{name}-home"
        origin = self.folder / "origin.git"
        subprocess.run(["git", "clone", "-q", "--branch", "main", origin, clone], check=True)
        home.mkdir()
        environment = {**self.environment, "METASHOT_CLONE": str(clone)}
        environment.pop("PYTHONPATH")
        command = ["prefect", "worker", "start", "--pool", "gpu", "--name", name, "--limit", "1"]
        with (home / "log").open("wb") as log:
            self.workers[name] = subprocess.Popen(
                command, cwd=home, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        wait_until(lambda: f"Worker '{name}' started" in (home / "log").read_text())

    def lose(self, name: str) -> None:
        """Kill all processes of a worker at once, as a power failure does."""
        mark = f"METASHOT_CLONE={self.folder / name}\0".encode()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                if mark in (process / "environ").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)
        self.workers.pop(name).wait()

    def stop(self) -> None:
        for name in list(self.workers):
            self.lose(name)

    def log(self, tree: str) -> str:
        """Everything that stages printed in a tree."""
        logs = sorted((self.folder / tree / ".metashot/logs").glob("*/*.log"))
        return "".join(log.read_text() for log in logs)

    def ran(self, tree: str) -> list[str]:
        """The stages that were run in a tree, not restored."""
        return re.findall(r"^Running stage '(.+)':", self.log(tree), re.M)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a Prefect server that has the work pool gpu."""
    home, port = tmp_path_factory.mktemp("prefect"), str(free_port())
    settings = {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    }
    environment = {**os.environ, **settings, "PATH": PATH}
    command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
    with Server(command, f"{settings['PREFECT_API_URL']}/health", home / "log", env=environment):
        for arguments in (["work-pool", "create", "gpu", "--type", "process"], ["deploy", "--name", "gpu"]):
            subprocess.run(
                ["prefect", "--no-prompt", *arguments],
                cwd=ROOT,
                env=environment,
                check=True,
                capture_output=True,
            )
        yield settings


@pytest.fixture(scope="module", params=["folder", "s3"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, server: dict[str, str]
) -> Iterator[Site]:
    """Two workers, with a DVC remote of either kind."""
    folder = tmp_path_factory.mktemp(request.param)
    with remote(request.param, folder) as (address, endpoint, credentials):
        site = Site(folder, address, endpoint, {**server, **credentials})
        try:
            site.start_worker("one")
            site.start_worker("two")
            yield site
        finally:
            site.stop()


@contextmanager
def remote(kind: str, folder: Path) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Address, endpoint and credentials of a DVC remote."""
    if kind == "folder":
        yield str(folder / "store"), "", {}
        return
    endpoint = f"http://127.0.0.1:{(port := str(free_port()))}"
    credentials = {
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "key",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    command = ["moto_server", "--host", "127.0.0.1", "--port", port]
    with Server(command, endpoint, folder / "s3.log", env={**os.environ, "PATH": PATH}):
        boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id="id",
            aws_secret_access_key="key",
            region_name="us-east-1",
        ).create_bucket(Bucket="store")
        yield "s3://store/metashot", endpoint, credentials


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What `dvc repro` alone makes of the same parameters."""
    project = small(tmp_path_factory.mktemp("alone"))
    project.repro(*EVALUATED)
    return outcome(project.root)


def outcome(root: Path) -> dict:
    """dvc.lock without the records, which hold clock times."""
    lock = yaml.safe_load((root / "dvc.lock").read_text())["stages"]
    for entry in lock.values():
        entry["outs"] = [out for out in entry["outs"] if not out["path"].startswith("records/")]
    return lock


@pytest.mark.slow
def test_workers_make_what_they_are_for_once_and_the_coordinator_only_the_rest(
    site: Site, expected: dict
) -> None:
    assert site.pipeline(*EVALUATED).startswith("COMPLETED"), site.log("coordinator")
    here, there = site.ran("coordinator"), site.ran("one") + site.ran("two")
    assert sorted(there) == sorted(TRAINED + EVALUATED)
    assert sorted(here) == ["check", "code", "download@glyphs", "episodes@glyphs-5w1s", "preprocess@glyphs"]
    assert outcome(site.project.root) == expected


@pytest.mark.slow
@pytest.mark.parametrize("site", ["folder"], indirect=True)
def test_a_stale_clone_trains_on_new_data_and_a_bad_stage_is_final(site: Site) -> None:
    before = Counter(site.ran("one") + site.ran("two"))
    with site.project.params() as params:
        params["setting"]["5w1s"]["train_episodes"] = 25
        params["method"]["maml"]["lr"] = 1e30
    site.commit()
    state = site.pipeline(*TRAINED)
    assert state.startswith("FAILED")
    assert "train@glyphs-5w1s-maml: " in state
    assert "training diverged" in state
    after = Counter(site.ran("one") + site.ran("two"))
    assert after - before == Counter(TRAINED)  # what they stand on is restored, and none is tried twice
    assert set(site.ran("coordinator")).isdisjoint(TRAINED)
    record = site.project.root / "records/train/glyphs-5w1s/prototypical/record.json"
    for path, facts in json.loads(record.read_text())["inputs"].items():
        assert facts["md5"] == md5(site.project.root / path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository with a DVC remote, at a commit that its git remote has."""
    root = tmp_path / "tree"
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "origin.git"], check=True)
    subprocess.run(["git", "init", "-q", root], check=True)
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text(
        "[core]\n    remote = store\n['remote \"store\"']\n    url = /nowhere\n"
    )
    (root / ".dvc/.gitignore").write_text("/tmp\n")
    (root / "dvc.yaml").write_text("stages: {}\n")
    for command in (
        ["add", "."],
        ["commit", "-qm", "start"],
        ["remote", "add", "origin", "../origin.git"],
        ["push", "-q", "origin", "HEAD:main"],
    ):
        subprocess.run(["git", *IDENTITY, *command], cwd=root, check=True)
    return root


def add(root: Path) -> None:
    (root / "new.py").write_text("")


def commit(root: Path) -> None:
    subprocess.run(["git", *IDENTITY, "commit", "-q", "--allow-empty", "-m", "more"], cwd=root, check=True)


def drop_remote(root: Path) -> None:
    (root / ".dvc/config").write_text("")
    subprocess.run(["git", *IDENTITY, "commit", "-qam", "no remote"], cwd=root, check=True)
    subprocess.run(["git", "push", "-q", "origin", "HEAD:main"], cwd=root, check=True)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (add, "workers run committed code only, and this tree has uncommitted changes"),
        (commit, r"no remote branch has commit \w{10}, which workers need: `git push` it"),
        (drop_remote, "workers return results through a DVC remote, and none is configured: `dvc remote add"),
    ],
)
def test_what_workers_could_not_have_is_refused(
    tree: Path, change: Callable[[Path], None], line: str
) -> None:
    change(tree)
    with pytest.raises(MetashotError, match=f"^{line}.*$"):
        worker.ready(tree, ["gpu"], [])


def test_a_pool_that_nobody_works_for_is_refused(tree: Path, server: dict[str, str]) -> None:
    environment = {**os.environ, **server, "PATH": PATH}
    with temporary_settings({PREFECT_API_URL: server["PREFECT_API_URL"]}):
        with pytest.raises(MetashotError, match="has no work pool tpu: `prefect work-pool create tpu"):
            worker.ready(tree, ["tpu"], [])
        subprocess.run(["prefect", "work-pool", "create", "tpu", "--type", "process"], env=environment)
        with pytest.raises(MetashotError, match="has no deployment make-remotely/tpu: `prefect deploy"):
            worker.ready(tree, ["tpu"], [])


def test_a_worker_refuses_a_dirty_clone_and_an_unknown_commit(tree: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", "--branch", "main", tmp_path / "origin.git", clone], check=True)
    (clone / "dvc.lock").write_text("left by an earlier stage")
    commit(tree)
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=tree, text=True).strip()
    with pytest.raises(MetashotError, match="`git push` it to that remote"):
        worker.checkout(clone, head)
    subprocess.run(["git", "push", "-q", "origin", "HEAD:main"], cwd=tree, check=True)
    worker.checkout(clone, head)
    assert subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=clone, text=True).strip() == head
    add(clone)
    with pytest.raises(MetashotError, match=r"the worker's clone .* has changes of its own"):
        worker.checkout(clone, head)


def test_a_worker_checks_out_nothing_but_what_its_remote_has(tree: Path, tmp_path: Path) -> None:
    def git(where: Path, *arguments: str) -> str:
        return subprocess.check_output(["git", *IDENTITY, *arguments], cwd=where, text=True).strip()

    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", "--branch", "main", tmp_path / "origin.git", clone], check=True)
    start = git(clone, "rev-parse", "HEAD")
    commit(clone)
    own = git(clone, "rev-parse", "HEAD")
    git(clone, "tag", "own")
    git(clone, "update-ref", "refs/remotes/evil/x", own)
    for unknown in (own, git(clone, "rev-parse", "HEAD^{tree}"), "0" * 40):
        with pytest.raises(
            MetashotError, match=r"^commit .* is on no branch or tag of the remote of the worker's clone "
        ):
            worker.checkout(clone, unknown)
    commit(tree)
    tagged = git(tree, "rev-parse", "HEAD")
    git(tree, "tag", "release")
    git(tree, "push", "-q", "origin", "release")
    worker.checkout(clone, tagged)
    assert git(clone, "rev-parse", "HEAD") == tagged
    git(tree, "push", "-q", "--delete", "origin", "release")
    with pytest.raises(MetashotError, match="is on no branch or tag of"):
        worker.checkout(clone, tagged)
    worker.checkout(clone, start)
    (tmp_path / "origin.git").rename(tmp_path / "away.git")
    worker.checkout(clone, start)
    with pytest.raises(MetashotError, match=r"^git fetch in "):
        worker.checkout(clone, own)


@pytest.mark.parametrize(
    ("target", "commit"),
    [
        *(
            (target, "0" * 40)
            for target in ("--force", "../../x", "train@../x", "a b", "check\n", "dvc.yaml", 7)
        ),
        *(
            ("check", commit)
            for commit in ("HEAD", "main", "--help", "0" * 39, "0" * 41, "0" * 40 + "\n", None)
        ),
    ],
)
def test_a_worker_refuses_what_is_no_stage_or_commit(
    target: str, commit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where nothing could be checked out or made
    state = worker.make_remotely.fn(target, commit)
    assert state.is_failed()
    assert re.match(r"parameter (target|commit) is refused \(.*\): ", state.message)
    assert "\n" not in state.message
    assert list(tmp_path.iterdir()) == []


def test_a_worker_makes_stages_alone(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()
    state = worker.make_remotely.fn("train@glyphs-5w1s-maml", head)
    assert (state.is_failed(), state.message.partition(":")[0]) == (
        True,
        "dvc.yaml has no stage train@glyphs-5w1s-maml",
    )


@pytest.mark.slow
@pytest.mark.parametrize("site", ["folder"], indirect=True)
def test_a_stage_of_a_lost_worker_is_made_by_the_other(site: Site, server: dict[str, str]) -> None:
    """With heartbeats every 30 s, the least Prefect allows, and the automation waiting for three of them."""
    automations = yaml.safe_load((ROOT / "flows/automations.yaml").read_text())
    automations["automations"][0]["trigger"]["within"] = 3 * 30
    (site.folder / "automations.yaml").write_text(yaml.safe_dump(automations))
    site.run("prefect", "automation", "create", "--from-file", str(site.folder / "automations.yaml"))
    with site.project.params() as params:
        params["data"]["glyphs"]["budget"]["prototypical"] = 150
    site.commit()
    before = {tree: Counter(site.ran(tree)) for tree in ("coordinator", "one", "two")}

    def new(tree: str) -> list[str]:
        return list((Counter(site.ran(tree)) - before[tree]).elements())

    code = (
        "from pathlib import Path; from flows.pipeline import pipeline; "
        "pipeline(Path.cwd(), ['train@glyphs-5w1s-prototypical'], remote=True)"
    )
    with (site.folder / "pipeline.log").open("wb") as log:
        pipeline = subprocess.Popen(
            ["python", "-c", code], cwd=site.project.root, env=site.environment, stdout=log, stderr=log
        )
    try:
        wait_until(lambda: new("one") + new("two") != [])
        lost = next(name for name in ("one", "two") if new(name))
        site.lose(lost)
        assert pipeline.wait(timeout=700) == 0, (site.folder / "pipeline.log").read_text()
    finally:
        pipeline.kill()
    other = {"one": "two", "two": "one"}[lost]
    assert new(other) == ["train@glyphs-5w1s-prototypical"]
    assert new("coordinator") == ["check", "code"]
    assert "train@glyphs-5w1s-prototypical" in outcome(site.project.root)
