"""Git as a process: the state of the working tree, its history, patches and commits."""

import getpass
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metashot.errors import MetashotError

CODE = (  # pathspecs of what can change a result; nothing else is recorded, for it may be secret
    *(f":(glob){folder}/**/[!.]*.py" for folder in ("metashot", "stages", "flows")),
    *(f":(glob){name}" for name in ("params.yaml", "dvc.yaml", "pyproject.toml", "requirements.lock")),
)
PLAIN = (  # a plain patch, whatever the user's git configuration says
    *("--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--unified=3"),
    *("--src-prefix=a/", "--dst-prefix=b/"),
)
PATCH = "tree.patch"  # file of a record that holds the patch of `diff`
SEEN = "refs/metashot/remote"  # refs of a worker's clone: the branches and tags that its remote had last
# Replacements and grafts are ignored: no object may pass for another. LC_ALL=C keeps git's messages in the
# language that `_failure` parses.
SETTINGS = {"LC_ALL": "C", "GIT_NO_REPLACE_OBJECTS": "1", "GIT_GRAFT_FILE": os.devnull}
LONGEST = 400  # characters of git's message


class NoRepository(MetashotError):
    """A folder outside any git repository."""


class NoCommit(MetashotError):
    """A branch without commits."""


def run(root: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Return what a git command prints.

    Args:
        root: The folder that it runs in.
        *arguments: The command, without ``git``.
        environment: Added to the environment.

    Raises:
        NoRepository: There is no repository.
        MetashotError: It failed otherwise, or git is missing; the message is git's own, with its advice.
    """
    printed = _output(root, arguments, environment=environment)
    return printed.decode("utf-8", "surrogateescape").strip()


def _output(
    root: Path,
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
) -> bytes:
    """Return what a git command prints, as bytes; raises like `run`."""
    try:
        done = subprocess.run(
            ["git", "-C", root, *arguments],
            env={**os.environ, **SETTINGS, **(environment or {})},
            input=stdin,
            capture_output=True,
            check=False,
        )
    except OSError as error:
        raise MetashotError(
            f"git cannot be started ({error.strerror}): install it, or add its folder to PATH"
        ) from None
    if done.returncode:
        raise _failure(root, arguments[0], done.stderr.decode("utf-8", "replace"))
    return done.stdout


def _failure(root: Path, command: str, text: str) -> MetashotError:
    """Return why git failed: its last error and the advice that follows it, in one line."""
    lines = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("hint:")]
    errors = [number for number, line in enumerate(lines) if line.startswith(("fatal: ", "error: "))]
    reason = " ".join(lines[errors[-1] if errors else -1 :]).removeprefix("fatal: ").removeprefix("error: ")
    message = f"git {command} in {root}: {reason[:LONGEST] or 'no reason given'}"
    if "does not have any commits yet" in reason:
        return NoCommit(message)
    if "not a git repository (or any" not in reason:
        return MetashotError(message)
    folder = root.absolute()
    damaged = [path / ".git" for path in (folder, *folder.parents) if (path / ".git").exists()]
    if damaged:
        return MetashotError(f"{message}, although {damaged[0]} exists: restore it, or clone again")
    return NoRepository(message)


def head(root: Path) -> str | None:
    """Return the commit that is checked out; None outside a repository, and before the first commit.

    Raises:
        MetashotError: Git fails otherwise, as where the repository is damaged or owned by another account.
    """
    try:
        return run(root, "log", "-1", "--no-show-signature", "--format=%H")
    except (NoRepository, NoCommit):
        return None


def state(root: Path) -> dict[str, Any]:
    """Return the commit of HEAD, and whether the tree differs from it.

    Returns:
        ``commit`` like `head`, and ``dirty``: whether a file is new or changed that git does not ignore,
        dvc.lock aside.

    Raises:
        MetashotError: Like `head`.
    """
    try:
        changed = run(
            root, "status", "--porcelain", "--untracked-files=normal", "--", ":/", ":(exclude,top)dvc.lock"
        )
    except NoRepository:
        return {"commit": None, "dirty": False}
    return {"commit": head(root), "dirty": bool(changed)}


def user(root: Path) -> str:
    """Return git's user name, or else the name of the account."""
    return run(root, "config", "--default", "", "user.name") or getpass.getuser()


def diff(root: Path) -> tuple[bytes, list[str]]:
    """Return what a tree has beyond its commit: the content of code and parameters, the names of other files.

    Returns:
        A patch for `apply`, of modules (new ones too) and parameter files; and the names of all other files
        that are new or changed, dvc.lock aside. Only names, for they may hold keys and passwords.
    """
    with tempfile.TemporaryDirectory() as folder:
        index, patch = {"GIT_INDEX_FILE": f"{folder}/index"}, Path(folder, "patch")
        run(root, "read-tree", "HEAD", environment=index)
        listing = "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *CODE
        if code := list(filter(None, run(root, *listing, environment=index).split("\0"))):
            run(root, "--literal-pathspecs", "add", "--all", "--", *code, environment=index)
        run(root, "diff", "--cached", "--binary", *PLAIN, f"--output={patch}", "HEAD", environment=index)
        content = patch.read_bytes()
    others = ":/", ":(exclude,top)dvc.lock", *(path.replace(":(glob)", ":(exclude,glob)") for path in CODE)
    changed = run(root, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--", *others)
    return content, [line[2:].strip() for line in changed.split("\0") if line]


def apply(root: Path, patch: Path, *options: str, environment: Mapping[str, str] | None = None) -> None:
    """Apply a patch of `diff` to a tree byte for byte, whatever the user's settings for white space.

    Raises:
        MetashotError: It does not apply.
    """
    run(root, "apply", "--whitespace=nowarn", *options, str(patch.resolve()), environment=environment)


def commit(root: Path, branch: str, paths: Sequence[str], message: str) -> str:
    """Commit files of the workspace, on top of what is checked out, to a branch that need not be checked out.

    The branch is created if it is missing; if it and the checkout have diverged, the commit merges them.
    Workspace, index and the checked-out branch are not touched, unless that is ``branch``: then git status
    no longer shows the files as changed. Where git has no identity, one is supplied.

    Args:
        root: The repository.
        branch: Name of the branch.
        paths: Files and folders, relative to ``root``; missing ones are skipped.
        message: Commit message.

    Returns:
        The new commit; the branch's tip if there is nothing to commit.

    Raises:
        MetashotError: It is not a repository, or has no commit, or the branch was moved meanwhile.
    """
    existing = [path for path in paths if (root / path).exists()]
    head, ref = run(root, "rev-parse", "--verify", "HEAD"), f"refs/heads/{branch}"
    tip = run(root, "for-each-ref", "--format=%(objectname)", ref)
    parents = run(root, "merge-base", "--independent", *filter(None, (tip, head))).split()
    tree = _tree(root, head, existing)
    if len(parents) == 1 and run(root, "rev-parse", f"{parents[0]}^{{tree}}") == tree:
        new = parents[0]
    else:
        ancestors = [word for parent in parents for word in ("-p", parent)]
        new = run(root, *_identity(root), "commit-tree", tree, *ancestors, "-m", message)
    if new != tip:
        run(root, "update-ref", "-m", message.partition("\n")[0], ref, new, tip or "0" * len(new))
        if run(root, "rev-parse", "--symbolic-full-name", "HEAD") == ref:
            run(root, "reset", "--quiet", "--", *existing)
    return new


def holds(root: Path, branch: str, paths: Sequence[str]) -> bool:
    """Whether a branch exists and holds files as they are in the workspace; missing files are skipped.

    Raises:
        MetashotError: It is not a repository.
    """
    tip = run(root, "for-each-ref", "--format=%(objectname)", f"refs/heads/{branch}")
    existing = [path for path in paths if (root / path).exists()]
    return bool(tip) and _tree(root, tip, existing) == run(root, "rev-parse", f"{tip}^{{tree}}")


def _tree(root: Path, commit: str, paths: Sequence[str]) -> str:
    """Return the tree of a commit with files replaced by those of the workspace, without using the index."""
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": f"{folder}/index"}
        run(root, "read-tree", commit, environment=index)
        run(root, "add", "--all", "--", *paths, environment=index)
        return run(root, "write-tree", environment=index)


def _identity(root: Path) -> list[str]:
    """Return options that name a committer, if git has none configured."""
    try:
        run(root, "var", "GIT_COMMITTER_IDENT")
    except MetashotError:
        return ["-c", "user.name=metashot", "-c", "user.email=metashot@localhost"]
    return []


def tips(root: Path) -> list[str]:
    """Return options for `git rev-list` that select every branch, local and remote, every tag, and HEAD.

    Other refs are left out: stashes, notes, replacements.
    """
    return ["--branches", "--remotes", "--tags", *(["HEAD"] if head(root) else [])]


def reachable(root: Path) -> set[str]:
    """Return every commit that can be reached from a branch, a tag or HEAD; empty outside a repository.

    Raises:
        MetashotError: Like `head`.
    """
    try:
        return set(run(root, "rev-list", *tips(root)).split())
    except NoRepository:
        return set()


def changing(root: Path, begin: Sequence[str], *paths: str) -> list[str]:
    """Return the commits, among some and their ancestors, that changed files, newest first.

    A merge that takes the files from one of its parents is not such a commit.

    Args:
        root: The repository.
        begin: Commits, or options such as `tips` returns.
        *paths: Files and folders, relative to ``root``.

    Raises:
        NoRepository: There is no repository.
        MetashotError: One of the commits is missing.
    """
    return run(root, "rev-list", "--full-history", "--date-order", *begin, "--", *paths).split()


def published(root: Path, commit: str) -> bool:
    """Whether a commit can be reached from a branch or tag of a clone's remote, as it is or last answered.

    The remote is ``origin``, or the only one. The clone's own branches and tags do not count.

    Args:
        root: The clone.
        commit: The full hash.

    Raises:
        MetashotError: The clone has no such remote, or the remote does not answer and did not have the commit
            before.
    """
    remotes = run(root, "remote").split()
    remote = "origin" if "origin" in remotes or len(remotes) != 1 else remotes[0]
    if remote not in remotes:
        raise MetashotError(
            f"{root} has no remote called origin: clone it again, or `git remote add origin ADDRESS`"
        )
    refs = (f"+refs/{kind}/*:{SEEN}/{kind}/*" for kind in ("heads", "tags"))
    failure: MetashotError | None = None
    try:
        run(root, "fetch", "--quiet", "--prune", "--no-tags", "--no-recurse-submodules", remote, *refs)
    except MetashotError as error:
        failure = error
    try:
        known = bool(run(root, "for-each-ref", "--contains", commit, SEEN))
    except MetashotError:  # the clone does not have the commit
        known = False
    if failure and not known:
        raise failure
    return known


def shallow(root: Path) -> bool:
    """Whether a clone holds only the latest commits."""
    return run(root, "rev-parse", "--is-shallow-repository") == "true"


def files(root: Path, commit: str, patch: Path | None = None) -> dict[str, str]:
    """Return the files of a commit, with a patch of `diff` applied if given: path to blob.

    Paths are relative to ``root``; files outside it are left out.

    Raises:
        MetashotError: There is no such commit, or the patch does not apply to it.
    """
    tree = commit
    if patch:
        with tempfile.TemporaryDirectory() as folder:
            index = {"GIT_INDEX_FILE": f"{folder}/index"}
            run(root, "read-tree", commit, environment=index)
            apply(root, patch, "--cached", environment=index)
            tree = run(root, "write-tree", environment=index)
    listed = run(root, "ls-tree", "-r", "-z", tree).split("\0")
    return {path: line.split()[2] for line, _, path in (item.partition("\t") for item in listed if item)}


def content(root: Path, commit: str, path: str) -> bytes | None:
    """Return the content of a file in a commit, its path relative to ``root``; None if it is not there.

    Raises:
        MetashotError: Git fails.
    """
    printed = _output(root, ["cat-file", "--batch"], stdin=f"{commit}:./{path}\n".encode())
    header, _, rest = printed.partition(b"\n")
    return rest[:-1] if header.split(b" ")[1:2] == [b"blob"] else None


def blobs(root: Path, commits: Sequence[str], path: str) -> dict[str, str]:
    """Return the blob of a file, its path relative to ``root``, in each commit that has it: commit to blob.

    Raises:
        MetashotError: Git fails.
    """
    names = "".join(f"{commit}:./{path}\n" for commit in commits).encode()
    printed = _output(root, ["cat-file", "--batch-check"], stdin=names).decode().splitlines()
    lines = (line.split() for line in printed)
    return {commit: line[0] for commit, line in zip(commits, lines, strict=True) if line[1:2] == ["blob"]}


def contents(root: Path, blobs: Sequence[str]) -> dict[str, bytes]:
    """Return the content of each blob; one process reads them all.

    Raises:
        MetashotError: One of them is missing.
    """
    names = "".join(f"{blob}\n" for blob in blobs).encode()
    content_of, rest = {}, _output(root, ["cat-file", "--batch"], stdin=names)
    for blob in blobs:
        header, _, rest = rest.partition(b"\n")
        if not header.startswith(f"{blob} blob ".encode()):
            raise MetashotError(f"git has no object {blob}: `git fetch` it")
        size = int(header.split()[2])
        content_of[blob], rest = rest[:size], rest[size + 1 :]
    return content_of
