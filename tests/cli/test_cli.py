"""The commands as a person meets them, on real DVC and MLflow; the trainings never ran."""

import json
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import synthetic
import yaml
from ruamel.yaml import YAML
from shown import client_of
from typer.testing import CliRunner

from flows.pipeline import made
from metashot import cli
from metashot.errors import printable
from metashot.lineage import lockfile
from metashot.registry import publish, tracking
from metashot.results import compare, papers, plots

LISTS = f"""datasets: [glyphs] # what to make
settings:
  - 5w1s # one
# which
methods: [{", ".join(synthetic.ACCURACY)}]
"""


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Results that are up to date, and the real params.yaml but for its lists."""
    root = synthetic.make(tmp_path / "repository")
    text = (synthetic.ROOT / "params.yaml").read_text()
    start, end = text.index("datasets:"), text.index("\n", text.index("methods:")) + 1
    (root / "params.yaml").write_text(text[:start] + LISTS + text[end:])
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    synthetic.give_database(root)
    monkeypatch.chdir(root)
    return root


def invoke(*arguments: str):
    return CliRunner().invoke(cli.app, arguments)


def register(root: Path, command: str) -> None:
    """Let DVC's stages be those that dvc.lock says were run, and register this command."""
    group, cell = "${item.dataset}-${item.setting}", "${item.dataset}-${item.setting}/${item.method}"
    words = "${item.dataset} ${item.setting} ${item.method}"
    pairs = {"dataset": "${datasets}", "setting": "${settings}"}
    results = f"results/{cell}/episodes.parquet", f"results/{cell}/metrics.json"
    evaluated = *results, f"records/evaluate/{cell}"
    data, episodes = "data/processed/${item.dataset}.parquet", f"data/episodes/{group}"
    stages = {
        "train": {
            "matrix": {**pairs, "method": "${methods}"},
            "cmd": f"python -m stages.train {words}",
            "deps": [data, f"{episodes}/train.parquet", f"{episodes}/val.parquet"],
            "params": ["seed"],
            "outs": [{out: {"cache": False}} for out in (f"models/{cell}", f"records/train/{cell}")],
        },
        "evaluate": {
            "matrix": {**pairs, "method": "${methods}"},
            "cmd": f"python -m stages.evaluate {words}",
            "deps": [data, episodes, f"models/{cell}"],
            "outs": [{out: {"cache": False}} for out in evaluated],
        },
        "gate": {
            "matrix": pairs,
            "cmd": "python -m stages.gate ${item.dataset} ${item.setting}",
            "deps": ["raw.txt"],
            "outs": [{f"reports/{group}-gate.json": {"cache": False}}],
        },
        "register": {"matrix": pairs, "cmd": command, "deps": [f"results/{group}"]},
    }
    with (root / "dvc.yaml").open("w") as file:
        YAML().dump({"stages": stages}, file)


def test_compare_shows_the_table_or_one_line(repository):
    done = invoke("compare", "glyphs", "5w1s")
    assert (done.exit_code, "prototypical ★" in done.output) == (0, True)
    assert done.stderr == (
        "warning: MLflow does not show prototypical, matching, transfer of glyphs-5w1s as they are now: "
        "run `metashot publish`\n"
    )
    assert invoke("compare").output == invoke("compare", "glyphs").output == done.output
    done = invoke("compare", "omniglot", "5w1s")
    assert done.exit_code == 1
    assert done.stderr == (
        "error: no method was evaluated on omniglot-5w1s yet: run `dvc repro register@omniglot-5w1s`\n"
    )


def test_compare_prints_every_pair_for_machines_and_draws_the_leads(repository, tmp_path):
    picture = tmp_path / "pictures/leads.png"
    done = invoke("compare", "--json", "--plot", str(picture))
    assert (done.exit_code, done.stderr) == (0, "")
    [said] = json.loads(done.stdout)
    lock, methods = lockfile.Lock(repository), list(synthetic.ACCURACY)
    comparison = compare.compare(lock, "glyphs", "5w1s", methods)
    assert said == json.loads(comparison.json)
    names = {(pair["first"], pair["second"]) for pair in said["pairs"]}
    assert names == {("prototypical", "matching"), ("prototypical", "transfer"), ("matching", "transfer")}
    assert picture.read_bytes() == plots.differences_plot(comparison)
    minutes = tmp_path / "pictures/minutes.png"
    assert invoke("compare", "glyphs", "5w1s", "--curves", str(minutes)).exit_code == 0
    assert minutes.read_bytes() == plots.minutes_plot("glyphs-5w1s", compare.curves(lock, comparison))
    assert invoke("results").stdout == papers.page(repository)
    table = invoke("compare", "glyphs", "5w1s", "--plot", str(picture))
    assert table.output == invoke("compare", "glyphs", "5w1s").output
    assert "prototypical against each of the others, on the same episodes" in table.output


def test_a_comparison_of_what_was_not_made_is_one_line(repository):
    for arguments in (["omniglot"], ["omniglot", "--json"], ["omniglot", "--plot", "a.png"]):
        done = invoke("compare", *arguments)
        said = "nothing of omniglot was evaluated (there is: glyphs 5w1s): run `dvc repro`"
        assert (done.exit_code, done.stdout, done.stderr) == (1, "", f"error: {said}\n")


def test_a_plot_that_cannot_be_drawn_is_one_line(repository, tmp_path):
    (tmp_path / "file").write_text("no folder")
    done = invoke("compare", "--plot", str(tmp_path / "file/a.png"))
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith(f"error: {tmp_path}/file/a.png: cannot be written (Not a directory")
    (tmp_path / "folder").mkdir()
    assert invoke("compare", "--plot", str(tmp_path / "folder")).exit_code == 2
    assert (tmp_path / "folder").is_dir()


def test_compare_needs_no_mlflow_and_shows_no_password(repository, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    done = invoke("compare", "glyphs", "5w1s")
    assert (done.exit_code, "prototypical ★" in done.stdout) == (0, True)
    assert done.stderr.startswith("warning: MLflow at http://127.0.0.1:9 failed; see that it runs")
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.output
    assert invoke("ui").output == "MLflow runs at http://127.0.0.1:9\n"


@pytest.mark.parametrize(("option", "name"), [("data", "imagenet"), ("setting", "9w9s")])
def test_run_refuses_what_params_do_not_describe(repository, option, name):
    before = (repository / "params.yaml").read_text()
    known = ", ".join(yaml.safe_load(before)[option])
    done = invoke("run", f"--{option}", name)
    assert done.exit_code == 1
    assert (
        done.stderr
        == f"error: params.yaml has no {option}.{name} (it has {known}): describe it there first\n"
    )
    assert (repository / "params.yaml").read_text() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("datasets: [", "not YAML"),
        ("datasets: glyphs", "params.yaml: seed: missing"),
        ("[]", "not a mapping"),
    ],
)
def test_run_names_what_is_wrong_in_params(repository, text, message):
    (repository / "params.yaml").write_text(text)
    done = invoke("run", "--data", "omniglot")
    assert (done.exit_code, type(done.exception)) == (1, SystemExit)
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert (repository / "params.yaml").read_text() == text


@pytest.mark.slow
def test_run_adds_what_it_makes_to_the_lists_and_takes_it_back_when_it_fails(repository):
    """The stage succeeds for glyphs, whose results are there, and fails for omniglot."""
    text = (repository / "params.yaml").read_text()
    more = (
        "  5w5s: {n_way: 5, k_shot: 5, n_query: 5, val_episodes: 2, test_episodes: 2,\n"
        "         train_way: 60, train_query: 5, train_episodes: 2, extra: {}}\n"
    )
    text = text.replace("setting:\n", "setting:\n" + more)
    (repository / "params.yaml").write_text(text)
    (repository / "dvc.yaml").write_text(
        "stages:\n  register:\n    matrix: {dataset: '${datasets}', setting: '${settings}'}\n"
        "    cmd: cp params.yaml ${item.dataset}-${item.setting} && test ${item.dataset} = glyphs\n"
    )
    done = invoke("run", "--data", "omniglot", "--data", "glyphs", "--setting", "5w5s")
    assert done.stdout.startswith(
        "added omniglot to datasets in params.yaml\nadded 5w5s to settings in params.yaml\n"
    )
    assert done.stderr.count("\n") == 2, done.stderr + repr(done.exception)
    back, error = done.stderr.splitlines()
    assert back == "restored params.yaml"
    assert error.startswith("error: register@omniglot-5w5s: failed to reproduce 'register@omniglot-5w5s'")
    assert "register@glyphs" not in error
    assert (repository / "params.yaml").read_text() == text
    during = text.replace("[glyphs] #", "[glyphs, omniglot] #").replace("# one\n", "# one\n  - 5w5s\n")
    assert (repository / "omniglot-5w5s").read_text() == during
    assert not (repository / "omniglot-5w1s").exists()  # no more than was asked for


def test_run_ends_with_the_table_and_fills_mlflow_again(repository, monkeypatch):
    register(repository, "true")
    for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):  # nothing of it leaves this machine
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    done = invoke("run")
    assert (done.exit_code, "warning:" in done.stderr) == (0, False)
    assert next(line for line in done.stdout.splitlines() if "★" in line).split()[-1] == "v2"
    database = repository / "mlruns/mlflow.db"
    counts = "3 models, 3 new; champion prototypical v2"
    assert done.stdout.endswith(f"; glyphs-5w1s: {counts} (MLflow at sqlite:///{database})\n")
    assert sqlite3.connect(database).execute("select name, version from model_versions").fetchall() == [
        ("glyphs-5w1s", 1), ("glyphs-5w1s", 2), ("glyphs-5w1s", 3),
    ]  # fmt: skip


def test_foreign_text_in_mlflow_does_nothing_to_a_terminal(repository):
    publish.publish_all(repository)
    client, evil = client_of(repository), "[/b]\x1b[2J\x9b\u202e\r\nerror: forged\x07"
    shown = r"[/b]\x1b[2J\x9b\u202e\r\nerror: forged\x07"
    for tag in (tracking.PUBLISHER, tracking.DECISION, "metashot.result"):
        client.set_model_version_tag("glyphs-5w1s", "1", tag, evil)
    client.set_registered_model_tag("glyphs-5w1s", tracking.DECISION, evil)
    for command in ("trace glyphs-5w1s/1", "trace glyphs-5w1s/1 --json", "audit --all", "audit --all --json"):
        done = invoke(*command.split())
        assert done.exit_code in ([0] if "trace" in command else [1, 3])
        assert all(char == "\n" or printable(char) == char for char in done.output), command
        assert "\nerror:" not in done.output
    text = "".join(word.strip() for word in invoke("trace", "glyphs-5w1s/1").output.splitlines())
    assert shown in text
    assert json.loads(invoke("trace", "glyphs-5w1s/1", "--json").output)["publisher"] == evil


def test_run_shows_what_is_made_though_register_fails_without_mlflow(repository, monkeypatch):
    register(repository, "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    done = invoke("run")
    assert done.exit_code == 1
    assert next(line for line in done.stdout.splitlines() if "★" in line).split()[-1] == "-"
    warning, error = done.stderr.splitlines()
    assert warning.startswith("warning: MLflow at http://127.0.0.1:9 failed")
    assert error.startswith("error: register@glyphs-5w1s: failed to reproduce 'register@glyphs-5w1s'")
    # what is not made as params.yaml says would not be shown
    params = repository / "params.yaml"
    params.write_text(params.read_text().replace("seed: 0", "seed: 7", 1))
    assert made(repository, ["register@glyphs-5w1s"]) == []


COMMAND = "import sys; from metashot.cli import app; sys.argv[0] = 'metashot'; app()"


def shell(repository, *arguments: str, redirect: str = "", pass_fds=(), **environment: str):
    """Run a command in a shell, as a person does, with these environment variables."""
    words = shlex.join([sys.executable, "-c", COMMAND, *arguments])
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{words} {redirect}"],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(synthetic.ROOT), **environment},
        capture_output=True,
        pass_fds=pass_fds,
    )


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1", "COLUMNS": "20"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["ascii", "latin-1", "C"],
)
def test_commands_print_in_any_encoding(environment, repository):
    named = environment.get("PYTHONIOENCODING", "ascii")
    table = shell(repository, "compare", **environment)
    assert table.returncode == 0
    assert table.stderr.startswith(b"warning: MLflow does not show prototypical, ")
    assert table.stderr.count(b"\n") == 1
    rows = table.stdout.decode(named)
    if "COLUMNS" not in environment:
        assert "prototypical *" in rows
        assert "+-" in rows
    page = shell(repository, "results", **environment)
    assert (page.returncode, page.stderr) == (0, b"")
    assert page.stdout.decode(named)
    machines = shell(repository, "compare", "--json", **environment)
    assert json.loads(machines.stdout) == json.loads(invoke("compare", "--json").stdout)
    assert shell(repository, "--help", **environment).returncode == 0


def test_output_that_nobody_takes_is_no_traceback(repository):
    reader, writer = os.pipe()
    os.close(reader)
    done = shell(repository, "results", redirect=f">&{writer}", pass_fds=(writer,))
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")
    done = shell(repository, "results", redirect="| head -1")
    assert (done.stdout.count(b"\n"), done.stderr) == (1, b"")
    done = shell(repository, "results", redirect="> /dev/full")
    line = b"error: standard output: cannot be written (No space left on device): free space\n"
    assert (done.returncode, done.stderr) == (1, line)
    done = shell(repository, "compare", redirect="> /dev/full")
    assert (done.returncode, done.stderr.splitlines(keepends=True)[-1]) == (1, line)
    done = shell(repository, "compare", redirect="2>/dev/null >&- <&-")
    assert (done.returncode, done.stderr) == (0, b"")
    assert shell(repository, "plan", "nothing", redirect="2>&-").returncode == 1
    away = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    for redirect in ("2>/dev/full", "2> >(true)"):  # a warning that gets nowhere keeps no result back
        done = shell(repository, "compare", redirect=redirect, **away)
        assert (done.returncode, b"prototypical" in done.stdout) == (0, True)
    done = shell(repository, "compare", "--json", redirect="2>&-", **away)
    assert json.loads(done.stdout) == json.loads(invoke("compare", "--json").stdout)


def test_help_imports_nothing_slow():
    slow = {"torch", "mlflow", "prefect", "pydantic", "rich.table"}
    code = f"import sys; from metashot import cli; print({slow} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_omniglot_reads_the_folder_that_is_named(tmp_path):
    (tmp_path / "repository").mkdir()
    shutil.copy(synthetic.ROOT / "Makefile", tmp_path / "repository")

    def mirror(*words: str, **environment: str) -> str:
        command = ["make", "--dry-run", "--always-make", "--assume-old=.venv/installed", "omniglot", *words]
        done = subprocess.run(
            command,
            cwd=tmp_path / "repository",
            env={"PATH": "/usr/bin:/bin"} | environment,
            capture_output=True,
            text=True,
        )
        return done.stdout.split('METASHOT_MIRROR="')[1].split('"')[0]

    assert mirror() == ""
    (tmp_path / "shared/data/omniglot").mkdir(parents=True)
    assert mirror() == "../shared/data/omniglot"
    assert mirror(METASHOT_MIRROR="/mine") == "/mine"
    assert mirror("MIRROR=/other", METASHOT_MIRROR="/mine") == "/other"
