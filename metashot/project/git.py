"""Git as a process: what is checked out, and what differs from it."""

import getpass
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metashot.errors import MetashotError

CODE = (  # what can change a result, as git names paths; nothing else is recorded, for it may be secret
    *(f":(glob){folder}/**/[!.]*.py" for folder in ("metashot", "stages", "flows")),
    *(f":(glob){name}" for name in ("params.yaml", "dvc.yaml", "pyproject.toml", "requirements.lock")),
)
PLAIN = (  # a patch, whatever the user has git show differences like
    *("--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--unified=3"),
    *("--src-prefix=a/", "--dst-prefix=b/"),
)
PATCH = "tree.patch"  # in a record: what `diff` found
SEEN = "refs/metashot/remote"  # what a worker's clone has seen of its remote
# Nothing of a repository may pass for another: its replacements and grafts count for nobody but their author.
# In C, git's messages are those looked for here.
SETTINGS = {"LC_ALL": "C", "GIT_NO_REPLACE_OBJECTS": "1", "GIT_GRAFT_FILE": os.devnull}
LONGEST = 400  # characters of what git says


class NoRepository(MetashotError):
    """A folder that is in no git repository."""


class NoCommit(MetashotError):
    """A branch that has no commit yet."""


def run(root: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Return what a git command prints.

    Args:
        root: Where it runs.
        *arguments: The command.
        environment: Added to the environment.

    Raises:
        NoRepository: There is no repository.
        MetashotError: It failed otherwise, or there is no git; the message is git's own, with its advice.
    """
    printed = _output(root, arguments, environment=environment)
    return printed.decode("utf-8", "surrogateescape").strip()


def _output(
    root: Path,
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    given: bytes | None = None,
) -> bytes:
    """What a git command prints, given its input; raises as `run`."""
    try:
        done = subprocess.run(
            ["git", "-C", root, *arguments],
            env={**os.environ, **SETTINGS, **(environment or {})},
            input=given,
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
    """Why git failed: its last mistake, and the advice behind it, in one line."""
    lines = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("hint:")]
    marked = [number for number, line in enumerate(lines) if line.startswith(("fatal: ", "error: "))]
    reason = " ".join(lines[marked[-1] if marked else -1 :]).removeprefix("fatal: ").removeprefix("error: ")
    message = f"git {command} in {root}: {reason[:LONGEST] or 'it gave no reason'}"
    if "does not have any commits yet" in reason:
        return NoCommit(message)
    if "not a git repository (or any" not in reason:
        return MetashotError(message)
    folder = root.absolute()
    damaged = [path / ".git" for path in (folder, *folder.parents) if (path / ".git").exists()]
    if damaged:
        return MetashotError(f"{message}, though there is {damaged[0]}: restore it, or clone again")
    return NoRepository(message)


def head(root: Path) -> str | None:
    """Return the commit that is checked out; None outside a repository, and before the first commit.

    Raises:
        MetashotError: Git fails otherwise, as in a repository that is damaged or of another account.
    """
    try:
        return run(root, "log", "-1", "--no-show-signature", "--format=%H")
    except (NoRepository, NoCommit):
        return None


def state(root: Path) -> dict[str, Any]:
    """The commit of HEAD, and whether the tree differs from it.

    Returns:
        ``commit`` as `head`, and ``dirty``: a file that git does not ignore, other than dvc.lock, is new or
        changed.

    Raises:
        MetashotError: As `head`.
    """
    try:
        changed = run(
            root, "status", "--porcelain", "--untracked-files=normal", "--", ":/", ":(exclude,top)dvc.lock"
        )
    except NoRepository:
        return {"commit": None, "dirty": False}
    return {"commit": head(root), "dirty": bool(changed)}


def user(root: Path) -> str:
    """Who git, or else the machine, says is working here."""
    return run(root, "config", "--default", "", "user.name") or getpass.getuser()


def diff(root: Path) -> tuple[bytes, list[str]]:
    """What a tree has beyond its commit: code and parameters by content, all else by name alone.

    Returns:
        A patch for `apply`, of modules, new ones too, and of the files of parameters; and the names of all
        others that are new or changed but for dvc.lock, among which may be keys and passwords.
    """
    with tempfile.TemporaryDirectory() as folder:
        index, patch = {"GIT_INDEX_FILE": f"{folder}/index"}, Path(folder, "patch")
        run(root, "read-tree", "HEAD", environment=index)
        paths = "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *CODE
        listed = run(root, *paths, environment=index)
        if code := list(filter(None, listed.split("\0"))):
            run(root, "--literal-pathspecs", "add", "--all", "--", *code, environment=index)
        run(root, "diff", "--cached", "--binary", *PLAIN, f"--output={patch}", "HEAD", environment=index)
        content = patch.read_bytes()
    others = ":/", ":(exclude,top)dvc.lock", *(path.replace(":(glob)", ":(exclude,glob)") for path in CODE)
    changed = run(root, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--", *others)
    return content, [line[2:].strip() for line in changed.split("\0") if line]


def apply(root: Path, patch: Path, *options: str, environment: Mapping[str, str] | None = None) -> None:
    """Put a patch of `diff` on top of a tree, byte for byte, whatever the user has git do to white space.

    Raises:
        MetashotError: It does not fit.
    """
    run(root, "apply", "--whitespace=nowarn", *options, str(patch.resolve()), environment=environment)


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
        MetashotError: It is not a repository, or has no commit, or the branch was moved meanwhile.
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
        MetashotError: It is not a repository.
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


def tips(root: Path) -> list[str]:
    """Return the options of git that name every branch, here and of remotes, every tag, and the checkout.

    What else refers to commits counts for nothing: stashes, notes, replacements, refs of other names.
    """
    return ["--branches", "--remotes", "--tags", *(["HEAD"] if head(root) else [])]


def reachable(root: Path) -> set[str]:
    """Return every commit that a branch, a tag or HEAD leads to; empty outside a repository.

    Raises:
        MetashotError: As `head`.
    """
    try:
        return set(run(root, "rev-list", *tips(root)).split())
    except NoRepository:
        return set()


def changing(root: Path, begin: Sequence[str], *paths: str) -> list[str]:
    """Return those of some commits and their ancestors in which files changed, the newest first.

    Of a merge that takes its files from one of its parents, that parent, or whoever it has them from, stands.

    Args:
        root: The repository.
        begin: Commits, or options as `tips` has them.
        *paths: Files and folders, relative to ``root``.

    Raises:
        NoRepository: There is no repository.
        MetashotError: One of the commits is not here.
    """
    return run(root, "rev-list", "--full-history", "--date-order", *begin, "--", *paths).split()


def published(root: Path, commit: str) -> bool:
    """Whether a branch or tag of a clone's remote leads to a commit: as it is, or was when it last answered.

    The remote is ``origin``, or the only one. The clone's own branches and tags count for nothing.

    Args:
        root: The clone.
        commit: In full.

    Raises:
        MetashotError: The clone has no such remote, or it does not answer and the commit is not known.
    """
    remotes = run(root, "remote").split()
    remote = "origin" if "origin" in remotes or len(remotes) != 1 else remotes[0]
    if remote not in remotes:
        raise MetashotError(
            f"{root} has no remote called origin: clone it again, or `git remote add origin ADDRESS`"
        )
    refs = (f"+refs/{kind}/*:{SEEN}/{kind}/*" for kind in ("heads", "tags"))
    away: MetashotError | None = None
    try:
        run(root, "fetch", "--quiet", "--prune", "--no-tags", "--no-recurse-submodules", remote, *refs)
    except MetashotError as error:
        away = error
    try:
        known = bool(run(root, "for-each-ref", "--contains", commit, SEEN))
    except MetashotError:  # it is not here
        known = False
    if away and not known:
        raise away
    return known


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
            apply(root, patch, "--cached", environment=index)
            tree = run(root, "write-tree", environment=index)
    listed = run(root, "ls-tree", "-r", "-z", tree).split("\0")
    return {path: line.split()[2] for line, _, path in (item.partition("\t") for item in listed if item)}


def content(root: Path, commit: str, path: str) -> bytes | None:
    """Return a file of a commit, its path relative to ``root``; None if the commit has none.

    Raises:
        MetashotError: Git fails.
    """
    printed = _output(root, ["cat-file", "--batch"], given=f"{commit}:./{path}\n".encode())
    header, _, rest = printed.partition(b"\n")
    return rest[:-1] if header.split(b" ")[1:2] == [b"blob"] else None


def blobs(root: Path, commits: Sequence[str], path: str) -> dict[str, str]:
    """Return git's name of a file, its path relative to ``root``, in each commit that has it.

    Raises:
        MetashotError: Git fails.
    """
    asked = "".join(f"{commit}:./{path}\n" for commit in commits).encode()
    printed = _output(root, ["cat-file", "--batch-check"], given=asked).decode().splitlines()
    lines = (line.split() for line in printed)
    return {commit: line[0] for commit, line in zip(commits, lines, strict=True) if line[1:2] == ["blob"]}


def contents(root: Path, blobs: Sequence[str]) -> dict[str, bytes]:
    """Return the bytes of blobs, all by one process.

    Raises:
        MetashotError: One of them is missing.
    """
    asked = "".join(f"{blob}\n" for blob in blobs).encode()
    found, rest = {}, _output(root, ["cat-file", "--batch"], given=asked)
    for blob in blobs:
        header, _, rest = rest.partition(b"\n")
        if not header.startswith(f"{blob} blob ".encode()):
            raise MetashotError(f"git has no object {blob}: `git fetch` it")
        size = int(header.split()[2])
        found[blob], rest = rest[:size], rest[size + 1 :]
    return found
