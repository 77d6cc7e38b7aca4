"""dvc.lock in git's history: every branch, tag and merge; what cannot be read is told of."""

import shutil
from pathlib import Path

import pytest
import synthetic

from metashot.lineage.history import PARSED, entries, forget, history, history_and_gaps

LOCK = """schema: '2.0'
stages:
  {name}:
    cmd: make
"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("")
    (tmp_path / ".gitignore").write_text("/.dvc/tmp\n/.dvc/cache\n")
    synthetic.git(tmp_path, "init", "-q", "-b", "main")
    return tmp_path


def commit(root: Path, text: str) -> str:
    (root / "dvc.lock").write_text(text)
    synthetic.git(root, "add", "--all")
    synthetic.git(root, "commit", "-q", "-m", "lock")
    return synthetic.git(root, "rev-parse", "HEAD")


def names(root: Path) -> list[str]:
    return [name for lock in history(root) for name in lock.entries]


def test_there_is_none_without_git_or_commits(tmp_path, root):
    assert history(root) == []
    shutil.rmtree(root / ".git")
    assert history(tmp_path) == []


def test_branches_tags_and_what_a_merge_resolved_are_history_the_oldest_first(root):
    first = commit(root, LOCK.format(name="first"))
    synthetic.git(root, "checkout", "-q", "-b", "side")
    commit(root, LOCK.format(name="side"))
    synthetic.git(root, "checkout", "-q", "--detach", first)
    commit(root, LOCK.format(name="tagged"))
    synthetic.git(root, "tag", "kept")
    synthetic.git(root, "checkout", "-q", "main")
    commit(root, LOCK.format(name="main"))
    synthetic.git(root, "merge", "-q", "--no-commit", "-s", "ours", "side")
    merge = commit(root, LOCK.format(name="merged"))
    commit(root, LOCK.format(name="first"))  # again: known already
    assert names(root)[0] == "first"
    assert set(names(root)) == {"first", "side", "tagged", "main", "merged"}
    assert len(names(root)) == 5
    assert names(root).index("merged") > max(map(names(root).index, ("main", "side")))
    commits = {name: lock.commit for lock in history(root) for name in lock.entries}
    assert (commits["first"], commits["merged"]) == (first, merge)


def test_a_lock_that_cannot_be_read_is_left_out_and_told_of(root):
    commit(root, LOCK.format(name="first"))
    broken = commit(root, "<<<<<<< HEAD\n" + LOCK.format(name="one"))
    synthetic.git(root, "rm", "-q", "dvc.lock")
    synthetic.git(root, "commit", "-q", "-m", "none")
    commit(root, LOCK.format(name="last"))
    locks, (gap,) = history_and_gaps(root)
    assert [name for lock in locks for name in lock.entries] == ["first", "last"]
    assert gap.startswith(
        f"dvc.lock of commit {broken[:10]}: merge conflict (line 1 has git's marker <<<<<<<): so it "
    )
    assert "\n" not in gap


def test_a_lock_is_parsed_once_and_again_where_what_was_kept_is_damaged_or_forgotten(root, monkeypatch):
    commit(root, LOCK.format(name="first"))
    commit(root, LOCK.format(name="second"))
    found = [lock.entries for lock in history(root)]
    parsed: list[str] = []

    def parse(text: str, where: str, mend: str) -> dict:
        parsed.append(where)
        return entries(text, where, mend)

    monkeypatch.setattr("metashot.lineage.history.entries", parse)
    assert [lock.entries for lock in history(root)] == found
    assert parsed == []
    first, second = (root / PARSED).iterdir()
    first.write_text(first.read_text()[:-20])
    second.write_text("")
    assert [lock.entries for lock in history(root)] == found
    assert len(parsed) == 2
    forget(root)
    assert [lock.entries for lock in history(root)] == found
    assert len(parsed) == 4
