"""dvc.lock read: digests against hand-written JSON and real DVC, cells, files, mistakes."""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
import synthetic
import typer.testing

from metashot import files
from metashot.cli import app
from metashot.errors import MetashotError
from metashot.lineage import lockfile
from metashot.lineage.lockfile import Lock
from metashot.lineage.objects import Store
from metashot.project import entries
from metashot.registry import publish

LOCK = """
schema: '2.0'
stages:
  train@glyphs-5w1s-maml:
    cmd: python -m stages.train glyphs 5w1s maml
    deps:
    - path: metashot/learning/models/methods/maml.py
      hash: md5
      md5: bbb
      size: 2
    - path: data/glyphs.parquet
      hash: md5
      md5: aaa
      size: 1
    params:
      params.yaml:
        method.maml.lr: 1e-05
        method.maml.first_order: false
    outs:
    - path: records/train/glyphs-5w1s/maml
      hash: md5
      md5: dddddddddddddddddddddddddddddddd.dir
      size: 4
      nfiles: 2
    - path: models/glyphs-5w1s/maml
      hash: md5
      md5: cccccccccccccccccccccccccccccccc.dir
      size: 3
      nfiles: 2
"""
INPUTS = (
    '"cmd":"python -m stages.train glyphs 5w1s maml",'
    '"deps":[{"hash":"md5","md5":"aaa","path":"data/glyphs.parquet","size":1},'
    '{"hash":"md5","md5":"bbb","path":"metashot/learning/models/methods/maml.py","size":2}],'
)
OUTS = (
    f'"outs":[{{"hash":"md5","md5":"{"c" * 32}.dir","nfiles":2,"path":"models/glyphs-5w1s/maml","size":3}}],'
)
PARAMS = '"params":{"params.yaml":{"method.maml.first_order":false,"method.maml.lr":1e-05}}'


def test_key_and_result_are_the_sha256_of_the_canonical_entry_without_records(tmp_path):
    (tmp_path / "dvc.lock").write_text(LOCK)
    entry = Lock(tmp_path).entries["train@glyphs-5w1s-maml"]
    assert entry.key == hashlib.sha256(f"{{{INPUTS}{PARAMS}}}".encode()).hexdigest()
    assert entry.result == hashlib.sha256(f"{{{INPUTS}{OUTS}{PARAMS}}}".encode()).hexdigest()


def test_times_in_records_change_no_result_and_weights_do(tmp_path):
    (tmp_path / "dvc.lock").write_text(LOCK)
    before = Lock(tmp_path).entries["train@glyphs-5w1s-maml"]
    (tmp_path / "dvc.lock").write_text(LOCK.replace("d" * 32, "e" * 32))
    assert Lock(tmp_path).entries["train@glyphs-5w1s-maml"].result == before.result
    (tmp_path / "dvc.lock").write_text(LOCK.replace("c" * 32, "e" * 32))
    after = Lock(tmp_path).entries["train@glyphs-5w1s-maml"]
    assert (after.key, after.result != before.result) == (before.key, True)


def test_digests_and_entries_are_those_of_dvc(tmp_path):
    """Real DVC makes a file and a folder; its lock is read, and its digests recomputed from the files."""
    (tmp_path / "in.txt").write_text("in")
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  make:\n    cmd: mkdir -p out/sub && echo a > out/b.txt && echo ü > out/sub/a.txt"
        " && cp in.txt f\n"
        "    deps: [in.txt]\n    outs: [out, f]\n"
    )
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    for arguments in (["init", "--no-scm", "-q"], ["repro", "-q"]):
        subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=tmp_path, env=environment, check=True)
    lock = Lock(tmp_path)
    entry = lock.entries["make"]
    assert {out["path"]: out["md5"] for out in entry.outs} == {
        path: files.md5(tmp_path / path) for path in ("out", "f")
    }
    assert lock.file(entry, "out/sub/a.txt") == tmp_path / "out/sub/a.txt"
    (tmp_path / "out/sub/a.txt").write_text("changed")
    with pytest.raises(MetashotError, match=re.escape("out is not what dvc.lock names: run `dvc checkout")):
        lock.file(entry, "out/b.txt")


def test_cells_are_those_listed_and_evaluated(tmp_path):
    lock = Lock(synthetic.make(tmp_path))
    assert [cell.method for cell in lock.cells("glyphs", "5w1s", ["transfer", "maml", "matching"])] == [
        "transfer",
        "matching",
    ]
    assert lockfile.finished(lock) == [("glyphs", "5w1s")]
    lock.entries.clear()
    with pytest.raises(MetashotError, match="no method was evaluated yet: run `dvc repro`"):
        lockfile.finished(lock)


def test_ancestry_goes_back_to_the_raw_data(tmp_path):
    lock = Lock(synthetic.make(tmp_path))
    cell = lock.cell("glyphs", "5w1s", "matching")
    names = [entry.stage for entry in lock.ancestry(cell.train, cell.evaluate)]
    cell = "glyphs-5w1s-matching"
    data = ["download@glyphs", "episodes@glyphs-5w1s", f"evaluate@{cell}", "preprocess@glyphs"]
    assert names == [*data, f"train@{cell}"]


def test_an_evaluation_of_an_earlier_model_is_no_cell(tmp_path):
    root = synthetic.make(tmp_path)
    lock = (root / "dvc.lock").read_text()
    weights = files.md5(root / "models/glyphs-5w1s/matching")
    (root / "dvc.lock").write_text(lock.replace(weights, "0" * 32 + ".dir", 1))
    with pytest.raises(
        MetashotError, match=re.escape("evaluate@glyphs-5w1s-matching in dvc.lock is of an earlier model")
    ):
        Lock(root).cell("glyphs", "5w1s", "matching")


CONFLICT = """schema: '2.0'
stages:
<<<<<<< HEAD
  check:
    cmd: python -m stages.check
=======
  check:
    cmd: python -m stages.other
>>>>>>> theirs
"""
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def one(**stage: object) -> str:
    """A dvc.lock of one stage."""
    return json.dumps({"schema": "2.0", "stages": {"make": stage}})


DAMAGED = {
    None: "nothing has been made yet, run `dvc repro`",
    "a: [": "dvc.lock: not YAML",
    "[]": "not a dvc.lock of schema 2.0",
    "": "not a dvc.lock of schema 2.0",
    "schema: '2.0'": "no method was evaluated on glyphs-5w1s yet: run `dvc repro register@glyphs-5w1s`",
    CONFLICT: "dvc.lock: merge conflict (line 3 has git's marker <<<<<<<): keep one side with `git",
    CONFLICT.replace("<<<<<<< HEAD\n", ""): "merge conflict (line 5 has git's marker =======)",
    CONFLICT.replace("\n", "\r\n"): "merge conflict (line 3 has git's marker <<<<<<<)",
    BOMB: "expands to more than 3,200,000 values",
    "a: &a [*a]": "nothing before the alias *a has that name",
    "[" * 200_000: "more than 30 nested mappings and lists",
    "- " * 200_000: "more than 30 nested mappings and lists",
    "schema: '2.0'\nstages: [1]": "not as DVC writes it",
    "schema: '2.0'\nstages: {make: 3}": "not as DVC writes it (make",
    one(): "not as DVC writes it (make.cmd: Field required)",
    one(cmd="x", outs=[{"path": "a", "size": 1}]): "make.outs.0.md5: Field required",
    one(cmd="x", outs=[{"path": "a", "md5": "../../a", "size": 1}]): "make.outs.0.md5: String should match",
    one(
        cmd="x", outs=[{"path": "/a/b", "md5": "0" * 32, "size": 1}]
    ): "'/a/b' is not a path within the repository",
    one(cmd="x", outs=[{"path": "a/../../b", "md5": "0" * 32, "size": 1}]): "is not a path within",
    one(cmd="x", deps=[{"path": "a"}]): "a has no md5 or no size",
    one(cmd="x", deps=3): "make.deps: Input should be a valid list",
    one(cmd="x", params={"params.yaml": 3}): "make.params.params.yaml",
    "a: \udcff": "dvc.lock: not YAML",  # not UTF-8
    "a: \0": "dvc.lock: not YAML",
}


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_mistakes_are_one_line(tmp_path, text):
    if text is not None:
        (tmp_path / "dvc.lock").write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
    with pytest.raises(MetashotError) as caught:
        Lock(tmp_path).cells("glyphs", "5w1s", ["maml"])
    assert DAMAGED[text] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_what_is_no_file_is_one_line(tmp_path):
    os.mkfifo(tmp_path / "dvc.lock")
    with pytest.raises(MetashotError, match=re.escape("dvc.lock: not a file")):
        Lock(tmp_path)


def test_external_dependencies_and_aliases_of_ones_own_are_read(tmp_path):
    (tmp_path / "dvc.lock").write_text(
        "schema: '2.0'\nstages:\n  own:\n    cmd: x\n    deps:\n    - {path: 's3://b/k', etag: x}\n"
        "    params:\n      params.yaml:\n        a: &one [1, 2]\n        b: *one\n"
    )
    assert Lock(tmp_path).entries["own"].params == {"params.yaml": {"a": [1, 2], "b": [1, 2]}}


@pytest.mark.parametrize(
    "digest",
    ["../../outside", "", "0" * 31, "A" * 32, f"{'0' * 32}.dir/..", f"{'0' * 32}\n", f"{'0' * 32}.x"],
)
def test_what_is_no_digest_names_no_object(tmp_path, digest):
    store = Store(fsspec.filesystem("file"), str(tmp_path))
    with pytest.raises(MetashotError, match="is not the md5 of a file or folder"):
        store.has(digest)


@pytest.mark.parametrize(
    "listing",
    [
        [{"relpath": "../outside", "md5": "0" * 32}],
        [{"relpath": "/outside", "md5": "0" * 32}],
        [{"relpath": "a", "md5": "../../outside"}],
        [{"relpath": "a"}],
        {"a": 1},
        3,
    ],
)
def test_a_listing_of_a_folder_leads_nowhere_else(tmp_path, listing):
    store = Store(fsspec.filesystem("file"), str(tmp_path))
    path = Path(store.object(f"{'0' * 32}.dir"))
    path.parent.mkdir(parents=True)
    for text in (json.dumps(listing), "[" * 200_000, "x"):
        path.write_text(text)
        with pytest.raises(
            MetashotError, match="a folder's listing in the DVC cache is not as DVC writes it"
        ):
            store.listing(f"{'0' * 32}.dir")


def test_a_run_that_cannot_be_read_is_none(tmp_path):
    store = Store(fsspec.filesystem("file"), str(tmp_path))
    texts = "cmd: x\nouts:\n- {path: a, md5: '%s', size: 1}\n" % ("0" * 32), "cmd: x\nouts: [", "cmd: x\n\xff"
    for name, text in enumerate(texts):
        path = tmp_path / f"runs/00/{name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("latin-1"))
    (run,) = store.runs("x")
    assert run.outs == [{"path": "a", "md5": "0" * 32, "size": 1}]


def test_every_command_names_a_merge_conflict(tmp_path, monkeypatch):
    root = synthetic.make(tmp_path)
    synthetic.version(root)
    synthetic.commit(root, "made")
    synthetic.give_database(root)
    publish.publish_all(root)
    monkeypatch.chdir(root)
    group = "glyphs", "5w1s"
    plain = [["compare"], ["publish"], ["results"], ["rollback", *group, "--reason", "x"], ["adopt", *group]]
    commands = {
        "dvc.yaml": [["plan"]],
        "params.yaml": [["plan"], *plain],
        "dvc.lock": [["plan"], *plain, ["audit", "--all"], ["reproduce", "glyphs-5w1s"]],
    }
    for name, listed in commands.items():
        before = (root / name).read_text()
        (root / name).write_text(f"<<<<<<< HEAD\n=======\n>>>>>>> theirs\n{before}")
        os.utime(root / "dvc.lock", (0, 0))  # it rests
        for command in listed:
            done = typer.testing.CliRunner().invoke(app, command)
            assert done.exit_code == 1, command
            (line,) = done.stderr.splitlines()
            assert f"{name}: merge conflict (line 1 has git's marker <<<<<<<): " in line, command
            assert ("git checkout --ours dvc.lock" in line) == (name == "dvc.lock")
        (root / name).write_text(before)


WRITER = """
import pathlib, sys, time
lock, ready = map(pathlib.Path, sys.argv[1:])
lines = lock.read_text().splitlines(keepends=True)
for _ in range(3):
    with lock.open("w") as file:  # in place and little by little, as DVC does
        ready.touch()
        for line in lines:
            file.write(line)
            file.flush()
            time.sleep(0.02)
"""


def test_a_lock_is_read_whole_while_others_write_it(tmp_path):
    """Every beginning of the file that ends behind a stage is YAML as well, with stages missing."""
    lines = LOCK.strip("\n").splitlines()
    stages = [line.replace("maml", f"maml{n}") for n in range(3) for line in lines[2:]]
    path = tmp_path / "dvc.lock"
    path.write_text("\n".join(lines[:2] + stages) + "\n")
    ready = tmp_path / "ready"
    names = set(Lock(tmp_path).entries)
    assert len(names) == 3
    with subprocess.Popen([sys.executable, "-c", WRITER, path, ready]) as writer:
        while not ready.exists():
            time.sleep(0.01)
        assert len(path.read_text()) < len("".join(lines))  # it is being written
        while writer.poll() is None:
            assert set(Lock(tmp_path).entries) == names
            time.sleep(0.05)
    assert writer.returncode == 0


def test_a_lock_that_never_rests_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "dvc.lock").write_text(LOCK)
    monkeypatch.setattr(entries, "PATIENCE", 0.0)
    with pytest.raises(MetashotError, match="did not rest"):
        Lock(tmp_path)


def test_a_file_that_is_not_in_the_workspace_says_how_to_get_it(tmp_path):
    lock = Lock(synthetic.make(tmp_path))
    cell = lock.cell("glyphs", "5w1s", "matching")
    (tmp_path / cell.metrics).unlink()
    with pytest.raises(
        MetashotError,
        match=re.escape("metrics.json is in dvc.lock but not in the workspace: run `dvc checkout"),
    ):
        lock.file(cell.evaluate, cell.metrics)
    with pytest.raises(MetashotError, match=r"names no elsewhere\.txt"):
        lock.file(cell.train, "elsewhere.txt")


@pytest.fixture
def dvc_repository(tmp_path: Path) -> Callable[..., str]:
    """An empty repository of DVC's, and DVC in it."""
    root = tmp_path / "repository"
    root.mkdir()

    def dvc(*arguments: str) -> str:
        command = [sys.executable, "-m", "dvc", *arguments]
        return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout

    dvc("init", "--quiet", "--no-scm")
    return dvc


def test_a_remote_is_opened_with_the_credentials_that_dvc_has(
    tmp_path: Path, dvc_repository: Callable[..., str]
) -> None:
    assert Store.remote(tmp_path / "repository") is None
    dvc_repository("remote", "add", "--default", "store", "s3://bucket/prefix")
    for key, value in {
        "endpointurl": "http://127.0.0.1:9",
        "access_key_id": "me",
        "secret_access_key": "secret",
        "session_token": "token",
        "ssl_verify": "false",
    }.items():
        dvc_repository("remote", "modify", "--local", "store", key, value)
    store = Store.remote(tmp_path / "repository")
    assert store is not None
    assert store.base == "bucket/prefix"
    assert (store.fs.key, store.fs.secret, store.fs.token) == ("me", "secret", "token")
    assert store.fs.client_kwargs == {"endpoint_url": "http://127.0.0.1:9", "verify": False}


def test_a_remote_in_a_folder_holds_what_dvc_pushed(
    tmp_path: Path, dvc_repository: Callable[..., str]
) -> None:
    root = tmp_path / "repository"
    dvc_repository("remote", "add", "--default", "store", "../store")
    (root / "file").write_text("content")
    dvc_repository("add", "file")
    dvc_repository("push")
    store = Store.remote(root)
    assert store is not None
    assert store.has(hashlib.md5(b"content").hexdigest())
    assert not store.has(hashlib.md5(b"other").hexdigest())


def test_a_remote_that_dvc_cannot_open_is_one_line(
    tmp_path: Path, dvc_repository: Callable[..., str]
) -> None:
    config = tmp_path / "repository/.dvc/config"
    config.write_text("[core]\n    remote = store\n['remote \"store\"']\n    url = nope://x\n")
    with pytest.raises(MetashotError, match=r"the DVC remote cannot be opened: .*Unsupported URL") as caught:
        Store.remote(tmp_path / "repository")
    assert "\n" not in str(caught.value)
