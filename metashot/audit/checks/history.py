"""Checks of a version's lineage against git: its stages, the commit that has them, the code that they ran."""

from metashot.audit.claim import Claim
from metashot.audit.trees import Tree
from metashot.audit.verdict import Differs, Unknown, same, where
from metashot.files import digest
from metashot.lineage.lockfile import Lock
from metashot.project.entries import Entry
from metashot.registry import tracking


def lineage(claim: Claim) -> str:
    """The document is the one the run names, hangs together, and has the key and result it claims."""
    document, entries = claim.document, claim.entries
    same(f"{tracking.LINEAGE} of the run", claim.version.run.data.tags.get(tracking.LINEAGE), document.digest)
    for stage, entry in entries.items():
        same(f"command of {stage}", entry.cmd, " ".join(entry.command))
        same(f"key of {stage}", document.stages[stage].key, entry.key)
    same("key", document.key, claim.cell.key)
    same("result", document.result, claim.cell.result)
    made = {out["path"]: (stage, out["md5"]) for stage, entry in entries.items() for out in entry.outs}
    for stage, entry in entries.items():
        for dep in entry.deps:
            if dep["path"] in made and made[dep["path"]][1] != dep["md5"]:
                raise Differs(f"{stage} used another {dep['path']} than {made[dep['path']][0]} made")
    return f"result {document.result[:12]}, key {document.key[:12]}, {len(entries)} stages"


def commit(claim: Claim) -> str:
    """dvc.lock at the recorded commit has these stages."""
    if recorded := claim.version.entry.tags.get(tracking.COMMIT):
        lock = claim.held.lock(recorded)
    else:
        past = next((lock for lock in claim.held.history if _has(lock, claim)), None)
        if past is None:
            raise Unknown(
                "no commit has this result with its records: commit dvc.lock, then `metashot publish`"
            )
        lock = past
    for stage, entry in claim.entries.items():
        committed = lock.entries.get(stage)
        if committed is None:
            raise Differs(f"{where(lock)} has no {stage}")
        same(f"{stage} in {where(lock)}: inputs", digest(committed.inputs), digest(entry.inputs))
        outs = _outs(committed)
        for path, md5 in _outs(entry).items():
            same(f"{path} in {where(lock)}", outs.get(path), md5)
    return f"{where(lock)} has it"


def code(claim: Claim) -> str:
    """The files that stages depended on, and their parameters, are those of the commit they ran at."""
    trees: list[Tree] = []
    of_commits, made = claim.evidence.trees, claim.outputs
    for stage, _, record in claim.records:
        if record.git.commit is None:
            raise Unknown("it was not made in a git repository")
        tree = record.git.commit, claim.held.patch(stage) if record.git.dirty else None
        files = of_commits.tree(*tree)
        trees.append(tree)
        of_commits.made_of(stage, made, *tree)
        for path, md5 in record.code.items():
            same(f"{path} as {stage.stage} loaded it", md5, files.get(path))
    committed = claim.version.entry.tags.get(tracking.COMMIT)
    # An earlier stage may have run since, with the same outcome for this training
    later: list[Tree] = [(committed, None)] if committed in claim.held.reachable else []
    for stage in claim.entries.values():
        if stage not in (claim.cell.train, claim.cell.evaluate):
            of_commits.fitting(stage, made, [*trees, *later])
    tags, tree_ = claim.version.run.data.tags, claim.document.training.git
    same("metashot.git_commit of the run", tags.get("metashot.git_commit"), tree_.commit)
    same("mlflow.source.git.commit of the run", tags.get("mlflow.source.git.commit"), tree_.commit)
    same("metashot.git_dirty of the run", tags.get("metashot.git_dirty"), str(tree_.dirty).lower())
    changed = ", with the stored changes of a dirty tree" if tree_.dirty else ""
    return f"commit {', '.join(sorted({commit[:10] for commit, _ in trees}))}{changed}"


def one_result(claim: Claim) -> str:
    """No stage it stands on ever gave another result from the same inputs."""
    for entry in claim.entries.values():
        claim.held.one_result(entry)
    return f"{len(claim.entries)} keys, a result each"


def _has(lock: Lock, claim: Claim) -> bool:
    """Whether a dvc.lock has the stages of the lineage, inputs and outputs, records as well."""
    for stage, entry in claim.entries.items():
        committed = lock.entries.get(stage)
        if committed is None or digest(committed.inputs) != digest(entry.inputs):
            return False
        if _outs(committed) != _outs(entry):
            return False
    return True


def _outs(entry: Entry) -> dict[str, str]:
    return {str(out["path"]): str(out["md5"]) for out in entry.outs}
