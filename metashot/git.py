"""Git as a process: what is checked out, and what differs from it."""

import getpass
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metashot.errors import MetashotError

CODE = "metashot", "stages", "flows"  # folders whose new files belong to a tree as much as changed ones
# Objects as they are, whatever `git replace` or grafts put in their place
AS_IT_IS = {"GIT_NO_REPLACE_OBJECTS": "1", "GIT_GRAFT_FILE": os.devnull}
REFS = "--branches", "--tags", "--remotes", "HEAD"  # not the stash, nor refs of other kinds


def run(root: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Return what a git command prints.

    Args:
        root: Where it runs.
        *arguments: The command.
        environment: Added to the environment.

    Raises:
        MetashotError: It failed; the message is git's own.
    """
    done = subprocess.run(
        ["git", "-C", root, *arguments],
        env={**os.environ, **AS_IT_IS, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise MetashotError(f"git {arguments[0]} in {root}: {said[-1].removeprefix('fatal: ')}")
    return done.stdout.strip()


def state(root: Path) -> dict[str, Any]:
    """The commit of HEAD, and whether the tree differs from it.

    Returns:
        ``commit``, None outside a git repository, and ``dirty``: a file that git does not ignore, other than
        dvc.lock, is new or changed.
    """

    def said(*arguments: str) -> str | None:
        try:
            return run(root, *arguments)
        except MetashotError:
            return None

    changed = said("status", "--porcelain", "--", ":/", ":(exclude,top)dvc.lock")
    return {"commit": said("rev-parse", "--verify", "--quiet", "HEAD"), "dirty": bool(changed)}


def user(root: Path) -> str:
    """Who git, or else the machine, says is working here."""
    try:
        return run(root, "config", "user.name")
    except MetashotError:
        return getpass.getuser()


def diff(root: Path) -> str:
    """What the tree has beyond its commit, as a patch for ``git apply``: changed files, and new ones of code.

    dvc.lock is left out, and so are new files elsewhere, which may be large.
    """
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": f"{folder}/index"}
        run(root, "read-tree", "HEAD", environment=index)
        run(root, "add", "--update", "--", ":/", environment=index)
        code = [name for name in CODE if (root / name).exists()]
        run(root, "add", "--all", "--", *code, environment=index)
        patch = Path(folder, "patch")
        options = "--cached", "--binary", f"--output={patch}", "HEAD", "--", ":/", ":(exclude,top)dvc.lock"
        run(root, "diff", *options, environment=index)
        return patch.read_text(encoding="utf-8", errors="surrogateescape")


def commit(root: Path, branch: str, paths: Sequence[str], message: str) -> str:
    """Commit files as they are in the workspace, on top of what is checked out, to a branch that need not be.

    The branch is made where it is missing, and where what is checked out has gone on without it, the commit
    merges the two. Neither the workspace nor the index nor the branch that is checked out is touched, unless
    that is the branch: then the workspace is clean of the files afterwards. Without an identity of its own
    git is given one.

    Args:
        root: The repository.
        branch: Its name.
        paths: Files and folders, relative to ``root``; those that are not there are left out.
        message: Of the commit.

    Returns:
        The commit; where there is nothing new, the branch as it is.

    Raises:
        MetashotError: It is no repository, or has no commit, or the branch was moved meanwhile.
    """
    there = [path for path in paths if (root / path).exists()]
    head, ref = run(root, "rev-parse", "--verify", "HEAD"), f"refs/heads/{branch}"
    tip = run(root, "for-each-ref", "--format=%(objectname)", ref)
    parents = run(root, "merge-base", "--independent", *filter(None, (tip, head))).split()
    tree = _tree(root, head, there)
    if len(parents) == 1 and run(root, "rev-parse", f"{parents[0]}^{{tree}}") == tree:
        made = parents[0]
    else:
        ancestors = [word for parent in parents for word in ("-p", parent)]
        made = run(root, *_identity(root), "commit-tree", tree, *ancestors, "-m", message)
    if made != tip:
        run(root, "update-ref", "-m", message.partition("\n")[0], ref, made, tip or "0" * len(made))
        if run(root, "rev-parse", "--symbolic-full-name", "HEAD") == ref:
            run(root, "reset", "--quiet", "--", *there)
    return made


def holds(root: Path, branch: str, paths: Sequence[str]) -> bool:
    """Whether a branch is there and has files as they are in the workspace; missing ones do not count.

    Raises:
        MetashotError: It is no repository.
    """
    tip = run(root, "for-each-ref", "--format=%(objectname)", f"refs/heads/{branch}")
    there = [path for path in paths if (root / path).exists()]
    return bool(tip) and _tree(root, tip, there) == run(root, "rev-parse", f"{tip}^{{tree}}")


def _tree(root: Path, commit: str, paths: Sequence[str]) -> str:
    """The tree of a commit with files as they are in the workspace, made without the index."""
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": f"{folder}/index"}
        run(root, "read-tree", commit, environment=index)
        run(root, "add", "--all", "--", *paths, environment=index)
        return run(root, "write-tree", environment=index)


def _identity(root: Path) -> list[str]:
    """Options that name a committer where git knows none."""
    try:
        run(root, "var", "GIT_COMMITTER_IDENT")
    except MetashotError:
        return ["-c", "user.name=metashot", "-c", "user.email=metashot@localhost"]
    return []


def reachable(root: Path) -> set[str]:
    """Return every commit that HEAD, a branch or a tag leads to; empty outside a repository."""
    try:
        return set(run(root, "rev-list", *REFS).split())
    except MetashotError:
        return set()


def changing(root: Path, commits: Sequence[str], *paths: str) -> list[str]:
    """Return those of some commits and their ancestors in which files changed, the newest first.

    Args:
        root: The repository.
        commits: Where to begin.
        *paths: Files and folders, relative to ``root``.

    Raises:
        MetashotError: One of the commits is not here.
    """
    return run(root, "rev-list", "--full-history", "--date-order", *commits, "--", *paths).split()


def shallow(root: Path) -> bool:
    """Whether a clone holds only the latest commits."""
    return run(root, "rev-parse", "--is-shallow-repository") == "true"


def files(root: Path, commit: str, patch: Path | None = None) -> dict[str, str]:
    """Return the files of a commit, with a patch of `diff` on top if there is one: path to blob.

    Paths are relative to ``root``, what lies outside is left out.

    Raises:
        MetashotError: There is no such commit, or the patch does not fit it.
    """
    tree = commit
    if patch:
        with tempfile.TemporaryDirectory() as folder:
            index = {"GIT_INDEX_FILE": f"{folder}/index"}
            run(root, "read-tree", commit, environment=index)
            run(root, "apply", "--cached", str(patch.resolve()), environment=index)
            tree = run(root, "write-tree", environment=index)
    listed = run(root, "ls-tree", "-r", "-z", tree).split("\0")
    return {path: line.split()[2] for line, _, path in (item.partition("\t") for item in listed if item)}


def contents(root: Path, blobs: Sequence[str]) -> dict[str, bytes]:
    """Return the bytes of blobs, all by one process.

    Raises:
        MetashotError: One of them is missing.
    """
    asked = "".join(f"{blob}\n" for blob in blobs)
    done = subprocess.run(
        ["git", "-C", root, "cat-file", "--batch"],
        env=os.environ | AS_IT_IS,
        input=asked.encode(),
        capture_output=True,
        check=False,
    )
    found, rest = {}, done.stdout
    for blob in blobs:
        header, _, rest = rest.partition(b"\n")
        if not header.startswith(f"{blob} blob ".encode()):
            raise MetashotError(f"git has no object {blob}: `git fetch` it")
        size = int(header.split()[2])
        found[blob], rest = rest[:size], rest[size + 1 :]
    return found
