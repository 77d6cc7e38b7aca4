"""Git as a process: commits to a branch that is not checked out, changed trees, what it cannot read."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from metashot.errors import MetashotError
from metashot.lineage import history
from metashot.lineage.record import Record, Recorder
from metashot.project import git

PATHS = ("params.yaml", "dvc.lock", "champions")
CELL = ("glyphs", "5w1s", "maml")


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which git knows no name."""
    (tmp_path / "gitconfig").write_text("[user]\n\tuseConfigOnly = true\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.delenv(f"GIT_{name}_NAME", raising=False)
        monkeypatch.delenv(f"GIT_{name}_EMAIL", raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with work in progress: staged, not staged and new."""
    root = tmp_path / "repository"
    root.mkdir()
    git.run(root, "init", "--quiet", "--initial-branch=main")
    for name in ("params.yaml", "code.py", "notes"):
        (root / name).write_text("first\n")
    (root / ".gitignore").write_text("/champions/data\n")
    owner_commits(root)
    (root / "code.py").write_text("staged\n")
    git.run(root, "add", "code.py")
    (root / "code.py").write_text("not staged\n")
    (root / "new").write_text("new\n")
    return root


def owner_commits(root: Path) -> str:
    git.run(root, "add", "--all")
    git.run(
        root, "-c", "user.name=owner", "-c", "user.email=owner@localhost", "commit", "--quiet", "-m", "own"
    )
    return git.run(root, "rev-parse", "HEAD")


def seen(root: Path) -> tuple[str, ...]:
    """All that the owner sees of the paths that are not committed."""
    status = git.run(root, "status", "--porcelain", "--branch", "--", "code.py", "new", "notes")
    return (
        status,
        git.run(root, "diff"),
        git.run(root, "diff", "--cached"),
        git.run(root, "rev-parse", "HEAD"),
    )


def retrain(root: Path, text: str) -> str:
    (root / "dvc.lock").write_text(text)
    (root / "champions/data").mkdir(parents=True, exist_ok=True)
    (root / "champions/data/weights").write_text("large")
    (root / "champions/g.dvc").write_text(text)
    return git.commit(root, "retrain", PATHS, f"Retrain: {text}\n\nwhy")


def test_a_commit_leaves_what_is_checked_out_and_being_worked_on(root: Path) -> None:
    before = seen(root)
    made = retrain(root, "one")
    assert seen(root) == before
    assert git.run(root, "rev-parse", "retrain") == made
    assert git.run(root, "show", f"{made}:dvc.lock") == "one"
    assert git.run(root, "show", f"{made}:code.py") == "first"
    assert git.run(root, "ls-tree", "-r", "--name-only", made).split() == [
        *(".gitignore", "champions/g.dvc", "code.py", "dvc.lock", "notes", "params.yaml"),
    ]
    assert git.run(root, "log", "-1", "--format=%an %s|%b", made) == "metashot Retrain: one|why"
    assert git.run(root, "rev-parse", f"{made}^@") == git.run(root, "rev-parse", "main")


def test_commits_follow_each_other_and_nothing_new_makes_none(root: Path) -> None:
    first = retrain(root, "one")
    assert retrain(root, "one") == first
    second = retrain(root, "two")
    assert git.run(root, "rev-parse", f"{second}^@") == first


def test_a_branch_holds_what_was_committed_until_it_changes(root: Path) -> None:
    assert not git.holds(root, "retrain", PATHS)
    retrain(root, "one")
    assert git.holds(root, "retrain", PATHS)
    owner_commits(root)
    assert git.holds(root, "retrain", PATHS)
    (root / "champions/g.dvc").write_text("two")
    assert not git.holds(root, "retrain", PATHS)
    (root / "champions/g.dvc").unlink()
    assert not git.holds(root, "retrain", PATHS)


def test_where_the_owner_went_on_the_commit_merges(root: Path) -> None:
    first = retrain(root, "one")
    head = owner_commits(root)  # with dvc.lock in it
    second = retrain(root, "two")
    assert git.run(root, "rev-parse", f"{second}^@").split() == [first, head]
    assert git.run(root, "show", f"{second}:code.py") == "not staged"
    git.run(root, "merge", "--quiet", "--ff-only", "--autostash", "retrain")


def test_on_the_branch_that_is_checked_out_the_files_are_clean_afterwards(root: Path) -> None:
    git.run(root, "switch", "--quiet", "--create", "retrain")
    status = git.run(root, "status", "--porcelain")
    retrain(root, "one")
    assert git.run(root, "status", "--porcelain") == status
    assert git.run(root, "show", "HEAD:dvc.lock") == "one"


def test_a_branch_that_was_moved_meanwhile_is_left(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = retrain(root, "one")
    run, head = git.run, git.run(root, "rev-parse", "HEAD")

    def moving(root: Path, *arguments: str, **options: object) -> str:
        if "commit-tree" in arguments:
            run(root, "update-ref", "refs/heads/retrain", head, first)
        return run(root, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(git, "run", moving)
    with pytest.raises(MetashotError, match="git update-ref in ") as caught:
        retrain(root, "two")
    assert "\n" not in str(caught.value)
    assert run(root, "rev-parse", "retrain") == head


def test_what_is_no_repository_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(MetashotError, match="not a git repository"):
        git.commit(tmp_path, "retrain", PATHS, "text")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    with pytest.raises(MetashotError, match="git rev-parse in ") as caught:
        git.commit(tmp_path, "retrain", PATHS, "text")
    assert "\n" not in str(caught.value)


# --- what git says of a repository that it cannot work in ---


def commits(root: Path) -> dict[str, Callable[[], Any]]:
    """All that asks git what is checked out, or was; each may raise."""
    return {
        "state": lambda: git.state(root)["commit"],
        "head": lambda: git.head(root),
        "reachable": lambda: git.reachable(root),
        "history": lambda: history.history(root),
        "record": lambda: Recorder("train", CELL, torch.device("cpu"), {}, []).record.git,
    }


def refusals(root: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """What each of them says; none may pass for a folder without a repository."""
    monkeypatch.chdir(root)
    messages = set()
    for name, ask in commits(root).items():
        with pytest.raises(MetashotError) as caught:
            pytest.fail(f"{name}: {ask()}")
        assert "\n" not in str(caught.value)
        assert not isinstance(caught.value, git.NoRepository), name
        messages.add(str(caught.value).partition(": ")[2])
    return messages


def test_a_repository_of_another_account_is_refused_with_gits_advice(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    (message,) = refusals(root, monkeypatch)
    assert message == (
        f"detected dubious ownership in repository at '{root}' To add an exception for this directory, call: "
        f"git config --global --add safe.directory {root}"
    )
    git.run(root, "config", "--global", "--add", "safe.directory", str(root))
    assert git.state(root)["commit"]


def no_head(root: Path) -> None:
    (root / ".git/HEAD").unlink()


def branch_overwritten(root: Path) -> None:
    (root / ".git/refs/heads/main").write_text("garbage\n")


def commit_lost(root: Path) -> None:
    (root / ".git/refs/heads/main").write_text("0123456789" * 4 + "\n")


def objects_lost(root: Path) -> None:
    shutil.rmtree(root / ".git/objects")
    (root / ".git/objects").mkdir()


def emptied(root: Path) -> None:
    shutil.rmtree(root / ".git")
    (root / ".git").mkdir()


def worktree_of_nothing(root: Path) -> None:
    shutil.rmtree(root / ".git")
    (root / ".git").write_text("gitdir: /nowhere/.git/worktrees/one\n")


@pytest.mark.parametrize(
    "damage", [no_head, branch_overwritten, commit_lost, objects_lost, emptied, worktree_of_nothing]
)
def test_a_damaged_repository_is_not_taken_for_none(root: Path, damage, monkeypatch) -> None:
    damage(root)
    assert refusals(root, monkeypatch)


def test_without_git_there_is_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert refusals(root, monkeypatch) == {"install it, or add its folder to PATH"}


def test_outside_a_repository_and_before_the_first_commit_there_is_no_commit(tmp_path, monkeypatch) -> None:
    for prepare in (lambda: None, lambda: git.run(tmp_path, "init", "--quiet")):
        prepare()
        monkeypatch.chdir(tmp_path)
        found = {name: ask() for name, ask in commits(tmp_path).items()}
        record = found.pop("record")
        assert record.commit is None
        assert not any(found.values())


def test_a_worktree_is_a_repository_like_any(root: Path, tmp_path: Path) -> None:
    git.run(root, "worktree", "add", "--quiet", "--detach", str(tmp_path / "tree"), "HEAD")
    assert (tmp_path / "tree/.git").is_file()
    assert git.state(tmp_path / "tree") == {"commit": git.head(root), "dirty": False}


@pytest.mark.parametrize("kind", ["bare clone", "core.bare"])
def test_a_repository_without_a_tree_is_not_taken_for_none(root: Path, tmp_path, monkeypatch, kind) -> None:
    """Its commits are there, but what is checked out is not known."""
    (root / "dvc.lock").write_text("schema: '2.0'\n")
    head = owner_commits(root)
    if kind == "bare clone":
        git.run(tmp_path, "clone", "--quiet", "--bare", str(root), "bare")
        root = tmp_path / "bare"
    else:
        git.run(root, "config", "core.bare", "true")
    assert git.head(root) == head
    assert head in git.reachable(root)
    monkeypatch.chdir(root)
    asked = commits(root)
    for name in ("state", "record", "history"):
        with pytest.raises(MetashotError, match=r"git .* in .*work(ing)? tree") as caught:
            asked[name]()
        assert not isinstance(caught.value, git.NoRepository), name
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "setting",
    [
        "status.showUntrackedFiles=no",
        "log.diffMerges=off",
        "log.diffMerges=first-parent",
        "log.showRoot=false",
        "log.showSignature=true",
        "log.follow=true",
        "color.ui=always",
    ],
)
def test_what_is_read_is_the_same_however_git_shows_it_to_its_user(root: Path, setting) -> None:
    """A new module is a change, and each dvc.lock counts: the first one, and what a merge resolved."""
    (root / ".gitignore").write_text("/.metashot\n/.dvc\n")
    (root / ".dvc").mkdir()

    def locked(number: int) -> str:
        stages = {"a": {"cmd": f"echo {number}"}}
        (root / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": stages}))
        return owner_commits(root)

    shutil.rmtree(root / ".git")
    git.run(root, "init", "--quiet", "--initial-branch=main")
    first = locked(1)
    git.run(root, "checkout", "--quiet", "-b", "side")
    other = locked(2)
    git.run(root, "checkout", "--quiet", "main")
    mine = locked(3)
    run = ["git", *git._identity(root), "merge", "--quiet", "side"]
    assert subprocess.run(run, cwd=root, capture_output=True, check=False).returncode
    merged = locked(4)
    name, _, value = setting.partition("=")
    git.run(root, "config", name, value)
    found = [lock.commit for lock in history.history(root)]
    assert (found[0], {*found[1:3]}, found[3:]) == (first, {other, mine}, [merged])
    assert git.state(root) == {"commit": merged, "dirty": False}
    (root / "metashot").mkdir()
    (root / "metashot/new.py").write_text("")
    assert git.state(root)["dirty"]


def test_the_history_of_branches_counts_before_the_first_commit_of_another(root: Path) -> None:
    (root / "dvc.lock").write_text("schema: '2.0'\n")
    (root / ".gitignore").write_text("/.metashot\n/.dvc\n")
    (root / ".dvc").mkdir()
    made = owner_commits(root)
    git.run(root, "checkout", "--quiet", "--orphan", "anew")
    assert git.head(root) is None
    assert [lock.commit for lock in history.history(root)] == [made]


def test_what_is_reachable_is_what_branches_tags_and_the_checkout_lead_to(root: Path) -> None:
    base = git.head(root)
    made = {}
    for ref in (
        "refs/heads/side",
        "refs/tags/kept",
        "refs/remotes/origin/main",
        "refs/evil/x",
        "refs/notes/y",
    ):
        tree = git.run(root, "rev-parse", "HEAD^{tree}")
        made[ref] = git.run(root, *git._identity(root), "commit-tree", tree, "-p", "HEAD", "-m", ref)
        git.run(root, "update-ref", ref, made[ref])
    git.run(root, *git._identity(root), "stash")
    believed = {made[ref] for ref in ("refs/heads/side", "refs/tags/kept", "refs/remotes/origin/main")}
    assert git.reachable(root) == {base, *believed}
    git.run(root, "checkout", "--quiet", "--detach", made["refs/evil/x"])
    assert git.reachable(root) == {base, *believed, made["refs/evil/x"]}


def test_replaced_objects_and_grafts_count_for_nothing(root: Path) -> None:
    base = git.head(root)
    git.run(
        root,
        "stash",
        "--quiet",
        environment={
            f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
        },
    )
    (root / "code.py").write_text("evil\n")
    evil = owner_commits(root)
    git.run(root, "reset", "--quiet", "--hard", str(base))
    git.run(root, "replace", str(base), evil)
    replaced = subprocess.run(["git", "show", "HEAD:code.py"], cwd=root, capture_output=True, text=True)
    assert replaced.stdout == "evil\n"
    assert git.run(root, "show", "HEAD:code.py") == "first"
    blob = git.files(root, str(base))["code.py"]
    assert git.contents(root, [blob]) == {blob: b"first\n"}
    (root / ".git/info").mkdir(exist_ok=True)
    (root / ".git/info/grafts").write_text(f"{base} {evil}\n")
    assert evil not in git.reachable(root)


# --- what a changed tree has beyond its commit ---

SECRET = "Zq7Yw2"


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """A repository with changed code, parameters and secrets, and odd settings of git."""
    root = tmp_path / "changed"
    root.mkdir()
    git.run(root, "init", "--quiet")
    for name in ("metashot/a.py", "metashot/gone.py", "params.yaml", ".dvc/config", "flows/x.json", "notes"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"first\r\nline \n")
    (root / ".gitignore").write_text("ignored*\n")
    owner_commits(root)
    (root / "metashot/a.py").write_bytes(b"first\r\nother \r\n\xff\n")
    (root / "metashot/gone.py").unlink()
    (root / "metashot/data").mkdir()
    (root / "metashot/data/new[1].py").write_bytes(b"new  \n")
    (root / "params.yaml").write_bytes(b"second\n")
    (root / "dvc.lock").write_text("lock")
    secrets = (
        ".dvc/config",
        ".dvc/config.local",
        "flows/.env",
        "flows/.env.py",
        "flows/x.json",
        "stages/key.pem",
    )
    for name in (*secrets, ".env", "notes", "credentials.json", "metashot/ignored.py"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(SECRET)
    for setting in ("diff.noprefix=true", "diff.context=0", "color.ui=always", "apply.whitespace=fix"):
        git.run(root, "config", *setting.split("="))
    return root


def test_a_patch_restores_code_and_parameters_and_holds_no_secret(changed: Path, tmp_path: Path) -> None:
    content, others = git.diff(changed)
    assert SECRET.encode() not in content
    assert set(others) == {
        *(".dvc/config", ".dvc/config.local", ".env", "credentials.json", "flows/.env", "flows/.env.py"),
        *("flows/x.json", "notes", "stages/key.pem"),
    }
    (tmp_path / "patch").write_bytes(content)
    git.run(changed, "worktree", "add", "--quiet", "--detach", str(tmp_path / "again"), "HEAD")
    git.apply(tmp_path / "again", tmp_path / "patch")
    restored = {path for path in (tmp_path / "again").rglob("*") if path.is_file() and path.name != ".git"}
    for path in ("metashot/a.py", "metashot/data/new[1].py", "params.yaml"):
        assert (tmp_path / "again" / path).read_bytes() == (changed / path).read_bytes()
    assert len(restored) == 7  # no more than that, and what was committed
    assert "metashot/gone.py" not in git.files(changed, "HEAD", tmp_path / "patch")


def test_a_record_names_the_other_files_of_a_changed_tree(
    changed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(changed)
    (tmp_path / "record").mkdir()
    recorder = Recorder("train", CELL, torch.device("cpu"), {}, [])
    recorder.save(tmp_path / "record", recorder.ended(Record))
    tree = json.loads((tmp_path / "record/record.json").read_text())["git"]
    assert (tree["dirty"], tree["others"]["count"], ".dvc/config" in tree["others"]["names"]) == (
        True,
        9,
        True,
    )
    assert (tmp_path / "record/tree.patch").read_bytes() == git.diff(changed)[0]
    assert all(SECRET.encode() not in file.read_bytes() for file in (tmp_path / "record").iterdir())
