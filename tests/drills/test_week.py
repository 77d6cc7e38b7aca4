"""A week of scheduled retraining, on a real Prefect server and worker and a real MLflow server."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import yaml
from PIL import Image
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Pending
from project import IDENTITY, Project, wait_until
from servers import Server, free_port

from metashot.project.attempts import read_status

GROUP = "image_folder-5w1s"
pytestmark = pytest.mark.slow


def served(health: str, log: Path, environment: dict[str, str], *command: str) -> tuple[Server, str]:
    """Start a server that takes --host and --port; return it with its address, once it answers."""
    port = str(free_port())
    address = f"http://127.0.0.1:{port}"
    words = [sys.executable, "-m", *command, "--host", "127.0.0.1", "--port", port]
    server = Server(words, address + health, log, env=environment)
    server.start()
    server.wait()
    return server, address


def listen(messages: list[str]) -> ThreadingHTTPServer:
    """Start a webhook that collects the messages posted to it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def draw(folder: Path, classes: range) -> None:
    """Eight pictures of each class: a pattern of 7 × 7 fields, shifted and noisy."""
    for class_ in classes:
        pattern = np.random.default_rng(class_).random((7, 7)) < 0.5
        for image in range(8):
            random = np.random.default_rng([class_, image])
            picture = np.roll(np.kron(pattern, np.ones((4, 4))) > 0, random.integers(-2, 3, 2), (0, 1))
            picture ^= random.random(picture.shape) < 0.1
            path = folder / f"class{class_:02d}/{image}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(~picture).save(path)


class Week:
    """A repository with an image folder, its deployment, and the servers it is seen on."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.images, root = folder, folder / "images", folder / "repository"
        draw(self.images, range(60))
        self.project = Project(root)
        self.environment: dict[str, str] = {}
        with self.project.params() as params:
            params["datasets"], params["methods"] = ["image_folder"], ["prototypical"]
            data = params["data"]["image_folder"]
            data["raw"] |= {"path": str(self.images), "splits": "", "md5": ""}
            data["prepare"]["split"] = {"of": "classes", "seed": 0, "val": 0.2, "test": 0.3}
            params["setting"]["5w1s"] |= {"n_query": 5, "train_way": 20, "test_episodes": 100, "extra": {}}
            data["budget"] = {"prototypical": 40}
        self.run("dvc", "remote", "add", "--default", "store", str(folder / "store"))
        self.git("commit", "-qam", "params")
        self.started = self.git("rev-parse", "HEAD")
        self.git("init", "-q", "--bare", str(folder / "origin.git"))
        self.git("remote", "add", "origin", str(folder / "origin.git"))
        self.serve(folder / "servers")

    def serve(self, stores: Path) -> None:
        """Start MLflow, Prefect with the deployment and a worker, and the webhook."""
        stores.mkdir()
        plain = {**self.project.environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.mlflow, mlflow_address = served(
            *("/health", stores / "mlflow.log", plain),
            *("mlflow", "server", "--backend-store-uri", f"sqlite:///{stores}/mlflow.db"),
            *("--artifacts-destination", str(stores / "artifacts"), "--workers", "1"),
        )
        plain |= {"PREFECT_HOME": str(stores / "prefect")}
        self.prefect, prefect_address = served(
            "/api/health", stores / "prefect.log", plain, "prefect", "server", "start"
        )
        self.environment = plain | {
            "PREFECT_API_URL": f"{prefect_address}/api",
            "MLFLOW_TRACKING_URI": mlflow_address,
            "METASHOT_CLONE": str(self.project.root),
        }
        self.notifications: list[str] = []
        self.webhook = listen(self.notifications)
        block = CustomWebhookNotificationBlock(
            name="team", url=f"http://127.0.0.1:{self.webhook.server_port}", json_data={"text": "{{subject}}"}
        )
        with temporary_settings({PREFECT_API_URL: self.environment["PREFECT_API_URL"]}):
            block.save("team")
        self.run("prefect", "work-pool", "create", "local", "--type", "process")
        self.run("prefect", "deploy", "--name", "nightly")
        with (stores / "worker.log").open("w") as log:
            self.worker = subprocess.Popen(
                [sys.executable, "-m", "prefect", "worker", "start", "--pool", "local"],
                cwd=stores,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop_worker(self) -> None:
        if self.worker.poll() is None:
            os.killpg(self.worker.pid, signal.SIGTERM)
            self.worker.wait()

    def stop(self) -> None:
        self.stop_worker()
        self.webhook.shutdown()
        self.prefect.stop()
        self.mlflow.stop()

    def run(self, *command: str, cwd: Path | None = None) -> str:
        done = subprocess.run(
            command,
            cwd=cwd or self.project.root,
            env={**self.project.environment, **self.environment},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def git(self, *command: str) -> str:
        return self.run("git", *IDENTITY, *command).strip()

    def day(self, name: str) -> None:
        """Run the deployment, as its schedule does every day, and wait until the run has ended."""
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name("retrain/nightly")
            parameters = {"push": True, "tag": True, "notify": "custom-webhook/team"}
            run = client.create_flow_run_from_deployment(deployment.id, name=name, parameters=parameters)
            wait_until(lambda: client.read_flow_run(run.id).state.is_final(), seconds=600, every=0.5)

    def states(self) -> dict[str, Any]:
        """The final state of each day's run in Prefect, by the day's name."""
        with get_client(sync_client=True) as client:
            runs = client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=["retrain"])))
            return {run.name: run.state for run in runs if run.state.is_final()}

    def change(self, **values: object) -> str:
        """Commit other hyper-parameters to what is checked out, as the owner of the repository does."""
        path = self.project.root / "params.yaml"
        for key, value in values.items():
            path.write_text(re.sub(rf"(?m)^(    {key}): .*$", rf"\1: {value}", path.read_text()))
        self.git("commit", "-qm", f"Try {values}", "--", "params.yaml")
        return self.git("rev-parse", "HEAD")

    def decision(self) -> dict[str, Any]:
        path = self.project.root / f"reports/{GROUP}-gate.json"
        decision: dict[str, Any] = json.loads(path.read_text())
        return decision

    def versions(self) -> dict[str, str]:
        """The registered versions, each with its aliases."""
        client = mlflow.MlflowClient(self.environment["MLFLOW_TRACKING_URI"])
        aliases = client.get_registered_model(GROUP).aliases
        numbers = [str(version.version) for version in client.search_model_versions(f"name='{GROUP}'")]
        return {n: " ".join(sorted(a for a, v in aliases.items() if str(v) == n)) for n in numbers}


@pytest.fixture
def week(tmp_path: Path) -> Iterator[Week]:
    week = Week(tmp_path)
    with temporary_settings({PREFECT_API_URL: week.environment["PREFECT_API_URL"]}):
        yield week
    week.stop()


def test_the_story_of_a_week_is_told_by_prefect_mlflow_and_git(week: Week) -> None:
    week.day("setup")
    first = week.decision()
    assert first["promoted"]
    assert week.versions() == {"1": "challenger champion"}

    week.day("Monday")
    draw(week.images, range(60, 80))
    week.day("Tuesday")
    second = week.decision()
    assert second["manifest"] != first["manifest"]
    assert second["incumbent"]["model"] == first["champion"]["model"]
    assert second["incumbent"]["accuracy"] != first["champion"]["accuracy"]  # tested on the new episodes
    assert second["difference"]
    tuesday = week.versions()
    assert sorted(tuesday) == ["1", "2"]

    week.day("Wednesday")
    assert (week.decision(), week.versions()) == (second, tuesday)

    week.change(lr="30.0")
    week.day("Thursday")
    third = week.decision()
    assert third["champion"]["model"] == second["champion"]["model"] != third["challenger"]["model"]
    assert not third["promoted"]
    assert third["difference"]["high"] < 0
    thursday = week.versions()
    champion = {number for number, aliases in tuesday.items() if "champion" in aliases}
    assert {number for number, aliases in thursday.items() if "champion" in aliases} == champion
    assert thursday["3"] == "challenger"

    head = week.change(lr="0.003")  # as none of the trainings before
    week.mlflow.stop()
    week.day("Friday")
    week.mlflow.start()
    week.mlflow.wait()
    fourth = week.decision()
    assert fourth["judged"] not in (first["judged"], second["judged"], third["judged"])
    assert week.versions() == thursday
    week.day("Saturday")
    assert week.decision() == fourth
    assert sorted(week.versions()) == ["1", "2", "3", "4"]
    week.day("Sunday")

    # Prefect
    states = week.states()
    assert {name: state.name for name, state in states.items()} == {
        "setup": "Retrained",
        "Monday": "No change",
        "Tuesday": "Retrained",
        "Wednesday": "No change",
        "Thursday": "Retrained",
        "Friday": "Unpublished",
        "Saturday": "Published",
        "Sunday": "No change",
    }
    assert all(state.is_completed() for state in states.values())
    assert "MLflow at" in states["Friday"].message
    ends = ["Retrained", "Retrained", "Retrained", "Unpublished", "Published"]
    assert week.notifications == [f"metashot: {end}" for end in ends]

    # git
    assert week.git("rev-parse", "HEAD") == head  # what is checked out was left alone
    commits = week.git(
        "log", "--first-parent", "--reverse", "--format=%H", f"{week.started}..retrain"
    ).split()
    texts = [week.git("show", "--no-patch", "--format=%B", commit) for commit in commits]
    assert [text.partition(":")[0] for text in texts] == ["New data", ends[0], "New data", *ends[1:]]
    for number, decision in ((1, first), (3, second), (4, third), (5, fourth), (6, fourth)):
        reasons = [line.removeprefix("- ") for line in texts[number].splitlines() if line.startswith("- ")]
        assert reasons == decision["reasons"]
        lock = yaml.safe_load(week.git("show", f"{commits[number]}:dvc.lock"))
        (out,) = lock["stages"][f"gate@{GROUP}"]["outs"]
        text = json.dumps(decision, indent=2, ensure_ascii=False) + "\n"
        assert out["md5"] == hashlib.md5(text.encode()).hexdigest()

    # The remotes: a clone gets all of it and has nothing to do
    assert len(week.git("ls-remote", "--tags", "origin", "retrain-*").splitlines()) == len(ends)
    clone = week.folder / "clone"
    week.git("clone", "--quiet", "--branch", "retrain", str(week.folder / "origin.git"), str(clone))
    week.run("dvc", "pull", "--quiet", cwd=clone)
    assert week.run("dvc", "status", cwd=clone) == "Data and pipelines are up to date.\n"


def test_a_run_that_is_due_while_another_is_under_way_is_turned_away(week: Week) -> None:
    week.stop_worker()
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("retrain/nightly")
        (schedule,) = deployment.schedules
        assert (schedule.schedule.cron, schedule.schedule.timezone) == ("0 2 * * *", "Europe/Berlin")
        runs = [client.create_flow_run_from_deployment(deployment.id) for _ in range(2)]
        for run in runs:
            client.set_flow_run_state(run.id, Pending())
        first, second = (client.read_flow_run(run.id).state for run in runs)
        assert (first.name, second.name) == ("Pending", "Cancelled")
        assert second.message == "Deployment concurrency limit reached."


def test_a_run_cancelled_by_prefect_leaves_a_checkpoint_and_no_process(week: Week) -> None:
    root, target = week.project.root, f"train@{GROUP}-prototypical"
    with week.project.params() as params:
        params["data"]["image_folder"]["budget"]["prototypical"] = 5000
    week.git("commit", "-qam", "A long training")

    def step() -> float:
        status = read_status(root, target)
        return status.progress.get("step", 0) if status else 0

    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("retrain/nightly")
        run = client.create_flow_run_from_deployment(deployment.id)
        wait_until(lambda: step() > 0, seconds=600)
        week.run("prefect", "flow-run", "cancel", str(run.id))
        wait_until(lambda: client.read_flow_run(run.id).state.is_final(), seconds=600)
        assert client.read_flow_run(run.id).state.is_cancelled()
    assert week.project.processes() == {}
    assert read_status(root, target).state == "preempted"
    assert list((root / ".metashot/checkpoints" / target).iterdir())
    assert not (root / f"models/{GROUP}/prototypical").exists()
