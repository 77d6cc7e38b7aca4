"""Trees of commits, as an audit needs them: code, parameters, and what a registered model carries."""

import hashlib
import tomllib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from metashot import plain_yaml
from metashot.audit.held import Held
from metashot.audit.verdict import Differs, Unknown, same
from metashot.errors import MetashotError
from metashot.lineage.objects import Missing
from metashot.project import closure, git
from metashot.project.declared import below
from metashot.project.entries import Entry
from metashot.registry.carried import LOCK, PACKAGE, Code

PROJECT = "pyproject.toml"
PARAMETERS = "params.yaml", PROJECT
TREES = 4  # whose modules are in memory
Tree = tuple[str, str | None]  # a commit, and the digest of a patch on top


class Trees:
    """Trees of commits, with the patch that a record kept on top where there is one.

    Args:
        held: The contents of git and DVC.
    """

    def __init__(self, held: Held) -> None:
        self.held, self.memory = held, held.memory
        self.codes: dict[str, Code] = {}
        self.contents: dict[Tree, dict[str, bytes]] = {}

    def tree(self, commit: str, patch: str | None) -> dict[str, str]:
        """The md5 of each file of code and parameters of a commit, with a patch on top if one is named.

        Args:
            commit: The commit.
            patch: Digest of the patch.
        """
        self.held.reach(commit)
        key = f"tree {commit} {patch}"
        if key not in self.memory:
            blobs = git.files(self.held.root, commit, self.held.path(patch) if patch else None)
            files = {p: blob for p, blob in blobs.items() if p.endswith((".py", *PARAMETERS))}
            new = {blob for path, blob in files.items() if not self._read(path, blob)}
            for blob, content in git.contents(self.held.root, sorted(new)).items():
                md5 = hashlib.md5(content).hexdigest()
                self.memory[f"blob {blob}"] = md5
                for path in PARAMETERS:
                    if files.get(path) == blob:
                        self.memory[f"parameters {md5}"] = parse_parameters(path, content)
            self.memory[key] = {path: self.memory[f"blob {blob}"] for path, blob in files.items()}
        md5s: dict[str, str] = self.memory[key]
        return md5s

    def _read(self, path: str, blob: str) -> bool:
        """Whether a file of a tree is memoised."""
        md5 = self.memory.get(f"blob {blob}")
        return md5 is not None and (path not in PARAMETERS or f"parameters {md5}" in self.memory)

    def parameters(self, commit: str, patch: str | None, path: str) -> Any:
        """params.yaml or pyproject.toml of a commit, with a patch on top if one is named."""
        tree = self.tree(commit, patch)
        if path not in tree:
            raise Differs(f"commit {commit[:10]} has no {path}")
        values = self.memory[f"parameters {tree[path]}"]
        if values is None:
            raise Differs(f"{path} of commit {commit[:10]} cannot be read")
        return values

    def made_of(self, stage: Entry, made: Collection[str], commit: str, patch: str | None) -> None:
        """Raise Differs unless a stage's code and parameters are those of a tree.

        Args:
            stage: The stage.
            made: What stages make: no code of the commit.
            commit: The commit.
            patch: Digest of the patch.
        """
        tree = self.tree(commit, patch)
        for dep in stage.deps:
            if dep["path"].endswith(".py") and dep["path"] not in made:
                what = f"{dep['path']} of {stage.stage} at commit {commit[:10]}"
                same(what, tree.get(dep["path"]), dep["md5"])
        if ran := self.ran(stage):
            self._ran(stage, ran, tree, commit, patch)
        for file, values in stage.params.items():
            committed = self.parameters(commit, patch, file)
            for key, value in values.items():
                same(f"{key} in {file} at commit {commit[:10]}", below(committed, key), value)

    def ran(self, stage: Entry) -> closure.CodeList | None:
        """The modules and packages that a stage ran; None for one whose modules are its dependencies."""
        for dep in stage.deps:
            if dep["path"].startswith(f"{closure.FOLDER}/"):
                try:
                    return closure.CodeList.parse(
                        self.held.path(str(dep["md5"])).read_bytes(), str(dep["path"])
                    )
                except Missing:
                    raise
                except MetashotError as error:
                    raise Differs(str(error)) from None
        return None

    def _ran(
        self, stage: Entry, ran: closure.CodeList, tree: Mapping[str, str], commit: str, patch: str | None
    ) -> None:
        """Raise Differs unless the modules and packages that a stage ran are those of a tree."""
        for path, md5 in ran.modules.items():
            committed = tree.get(path)
            if committed and path in ran.parts:
                committed = ran.md5(path, self._contents(commit, patch)[path])
            same(f"{path} of {stage.stage} at commit {commit[:10]}", committed, md5)
        lock = self._contents(commit, patch).get(LOCK, b"").decode()
        pins = closure.pins(lock)
        for name, version in ran.packages.items():
            same(f"{name} in {LOCK} at commit {commit[:10]}", pins.get(name), version)

    def fitting(self, stage: Entry, made: Collection[str], trees: Sequence[Tree]) -> Tree:
        """Return the first of commits, with their patches, that has code and parameters of a stage.

        Raises:
            Differs: None has; why the first has not.
            Unknown: There is none to look at, or commits are not here.
        """
        first: Differs | None = None
        for commit, patch in trees:
            try:
                self.made_of(stage, made, commit, patch)
            except Differs as error:
                first = first or error
            else:
                return commit, patch
        raise first or Unknown(f"no commit is on record for {stage.stage}")

    def code(self, digest_: str, kind: str, parts: closure.Parts, trees: Sequence[Tree]) -> Code:
        """The code that a model carries, found by its digest in a recorded tree, its ancestors, or HEAD's.

        Args:
            digest_: Of the code.
            kind: Of the samples of the model.
            parts: What the model uses, as `carried.parts`.
            trees: The recorded ones: commit, and digest of a patch on top.
        """
        key = str([digest_, parts, trees])
        if key not in self.codes:
            self.codes[key] = self._code(digest_, kind, parts, trees)
        return self.codes[key]

    def _code(self, digest_: str, kind: str, parts: closure.Parts, trees: Sequence[Tree]) -> Code:
        if not self.held.reachable:
            raise Unknown("there is no git repository here that could hold its code")
        heads = [git.head(self.held.root), *(commit for commit, _ in trees if commit in self.held.reachable)]
        behind = git.changing(self.held.root, [*filter(None, heads)], PACKAGE.name, PROJECT, LOCK)
        for commit, patch in (*((commit, None) for commit in behind), *trees):
            key = f"carried {commit} {patch} {kind} {parts}"
            if self.memory.get(key, digest_) == digest_:
                code = self._carried(commit, patch, kind, parts)
                self.memory[key] = code.digest if code else None
                if code and code.digest == digest_:
                    return code
        if git.shallow(self.held.root):
            raise Unknown("no commit in this shallow clone has its code: `git fetch --unshallow`")
        raise Differs(
            "no commit that its training or what is checked out here stands on has the code and the packages "
            f"{digest_[:12]} that it carries, all of one commit: check out what it was published from"
        )

    def _carried(self, commit: str, patch: str | None, kind: str, parts: closure.Parts) -> Code | None:
        """The code that a model registered from a tree would carry; None for an unknown layout."""
        self.held.reach(commit)
        held = self._contents(commit, patch)
        modules = {path: content for path, content in held.items() if path != LOCK}
        try:
            project = self.parameters(commit, patch, PROJECT)
            if below(project, "tool.metashot.model"):
                inside = {path.partition("/")[2]: content for path, content in modules.items()}
                return Code.earlier(inside, project, kind)
            return Code.of(modules, parts, held[LOCK].decode())
        except (KeyError, SyntaxError, ValueError, MetashotError):  # another layout than any of ours
            return None

    def _contents(self, commit: str, patch: str | None) -> dict[str, bytes]:
        """The modules of the package in a tree, and its requirements.lock, by path."""
        if (commit, patch) not in self.contents:
            blobs = git.files(self.held.root, commit, self.held.path(patch) if patch else None)
            prefix = f"{PACKAGE.name}/"
            named = {
                p: b for p, b in blobs.items() if p == LOCK or (p.startswith(prefix) and p.endswith(".py"))
            }
            contents = git.contents(self.held.root, sorted(set(named.values())))
            while len(self.contents) >= TREES:
                del self.contents[next(iter(self.contents))]
            self.contents[commit, patch] = {path: contents[blob] for path, blob in named.items()}
        return self.contents[commit, patch]


def parse_parameters(path: str, content: bytes) -> Any:
    """Parse a parameter file; None if it cannot be parsed."""
    try:
        text = content.decode()
        return tomllib.loads(text) if path.endswith(".toml") else plain_yaml.load(text, path)
    except (ValueError, RecursionError, MetashotError):  # as with the marks of a merge in it
        return None
