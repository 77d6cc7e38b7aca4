"""Audit of registered versions: what MLflow shows is recomputed from the bytes in git and DVC.

Nothing is taken on trust that can be computed: digests are taken anew, accuracies are averaged again over the
episodes, the lineage document of a version is held against dvc.lock at the commit it names, and MLflow's
numbers against the files. What is gone cannot be checked, and is never called verified.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from ruamel.yaml.error import YAMLError

from metashot.audit.checks import CHECKS
from metashot.audit.claim import Claim
from metashot.audit.evidence import Evidence
from metashot.audit.held import Memory
from metashot.audit.verdict import Differs, Unknown, where
from metashot.errors import MetashotError
from metashot.files import replacing
from metashot.lineage import history
from metashot.lineage.document import Document
from metashot.lineage.lockfile import Lock
from metashot.lineage.objects import Missing
from metashot.project.attempts import FOLDER as SCRATCH
from metashot.registry import carried, runs, signing, tracking, versions
from metashot.registry.versions import Registered
from metashot.results.decision import decision_path

Verdict = Literal["ok", "fails", "cannot check"]
SHAPELESS = (  # what reading comes to where what was edited has not the shape it had
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    YAMLError,
    pa.ArrowException,
)
MEMORY = SCRATCH / "audit.json"  # what earlier audits computed from bytes, by digest


@dataclass(frozen=True)
class Check:
    """The outcome of one check: its name, the verdict, and what was verified, differs or is missing."""

    name: str
    verdict: Verdict
    detail: str


@dataclass(frozen=True)
class Audited:
    """The checks of a registered version, ``<model>/<number>``, or of a registered model's aliases."""

    name: str
    checks: list[Check]

    @property
    def verdict(self) -> Literal["verified", "refuted", "incomplete"]:
        """``refuted`` if a check fails, else ``incomplete`` if one could not be made."""
        verdicts = {check.verdict for check in self.checks}
        if "fails" in verdicts:
            return "refuted"
        return "incomplete" if "cannot check" in verdicts else "verified"


def audit(
    root: Path, name: str | None = None, *, fresh: bool = False, signers: Path | None = None
) -> list[Audited]:
    """Audit one version, or every version and the aliases of every registered model.

    Args:
        root: The repository.
        name: ``MODEL``, ``MODEL@ALIAS`` or ``MODEL/VERSION``; with a model alone all its versions.
        fresh: Forget what earlier audits computed.
        signers: Folder of the public keys that are trusted; by default that of the repository.

    Raises:
        MetashotError: MLflow is not reachable, or has no such version.
    """
    audited = []
    if fresh:
        history.forget(root)
    with tracking.connect(root) as client, _memory(root / MEMORY, fresh) as memory:
        evidence, trusted = Evidence(root, memory), signers or root / signing.SIGNERS
        models, unreadable = versions.registered_models(client) if not name else ([], {})
        one = None
        for unread, problem in unreadable.items():
            audited.append(Audited(unread, [Check("versions", "fails", problem)]))
        if name:
            resolved = versions.resolve(client, name)
            models = [client.get_registered_model(resolved.entry.name)]
            one = resolved.name if any(mark in name for mark in "@/") else None
        for model in models:
            try:
                with versions.held(client, model.name):
                    listed = versions.registered(client, model)
                    twins = defaultdict(list)
                    for version in listed:
                        twins[_identity(version)].append(version.name)
                    for version in listed:
                        if one in (None, version.name):
                            claim = Claim(evidence, version, twins[_identity(version)], trusted)
                            audited.append(_version(claim))
                    audited.append(_model(evidence, model, listed))
            except MetashotError as error:
                audited.append(Audited(model.name, [Check("versions", "fails", str(error))]))
    return audited


def signable(root: Path, name: str) -> tuple[Document, str, dict[str, bytes]]:
    """Return what a version's signature covers: lineage, digest of its code, files.

    Raises:
        MetashotError: There is no such version, or its model is not what publish writes.
    """
    with tracking.connect(root) as client, _memory(root / MEMORY, False) as memory:
        claim = Claim(Evidence(root, memory), versions.resolve(client, name), [], root / signing.SIGNERS)
        try:
            CHECKS["model"](claim)
        except (Differs, Unknown) as error:
            raise MetashotError(f"{claim.version.name} cannot be signed: {error}") from None
        return claim.document, claim.code, claim.described


def _version(claim: Claim) -> Audited:
    """Run every check of a version, whether or not earlier ones fail."""
    try:
        _ = claim.cell
    except (Differs, *SHAPELESS):  # there is nothing to hold anything against
        return Audited(claim.version.name, [_check("lineage", partial(CHECKS["lineage"], claim))])
    return Audited(
        claim.version.name, [_check(name, partial(check, claim)) for name, check in CHECKS.items()]
    )


def _model(evidence: Evidence, model: Any, versions: list[Registered]) -> Audited:
    """Check a registered model: the decision in force, and that the aliases follow it."""
    name = model.name

    def latest() -> tuple[Lock, str]:
        decisions = evidence.decisions.all(name)
        if not decisions:
            raise Unknown(f"no dvc.lock here has gate@{name}: `git fetch`")
        return decisions[-1]

    def decision() -> str:
        lock, counts = latest()
        followed = model.tags.get(tracking.DECISION)
        if followed != counts:
            known = (
                "another" if followed in [md5 for _, md5 in evidence.decisions.all(name)] else "an unknown"
            )
            raise Differs(
                f"MLflow follows {known} decision, {str(followed)[:12]}, not that of {where(lock)}, "
                f"{counts[:12]}: run `metashot publish`"
            )
        evidence.held.one_result(lock.entries[f"gate@{name}"])
        evidence.decisions.judged(lock, name, evidence.decisions.read(counts))
        return f"{decision_path(name)} of {where(lock)}"

    def aliases() -> str:
        decided = evidence.decisions.read(latest()[1])
        by_alias = {alias: version for version in versions for alias in version.aliases}
        standing: dict[str | None, str] = {}
        for alias in tracking.ALIASES:
            named, version = getattr(decided, alias), by_alias.get(alias)
            weights = version.lineage.weights if version else None
            if weights != (named.model if named else None):
                place = f"at {version.name}" if version else "at no version"
                expected = f"{named.method} with model {named.model[:12]}" if named else "none"
                raise Differs(f"{alias} is {place}, but the gate decided for {expected}")
            if version:
                standing[version.entry.run_id] = alias
        for version in versions:
            label, now = version.run.data.tags.get(runs.STANDING), standing.get(version.entry.run_id)
            if label != now:
                raise Differs(f"the run of {version.name} is labelled {label}; by the aliases it is {now}")
        return ", ".join(f"{alias} {version.name}" for alias, version in sorted(by_alias.items())) or "none"

    return Audited(name, [_check("decision", decision), _check("aliases", aliases)])


def _identity(version: Registered) -> tuple[str, str]:
    tags = version.entry.tags
    return tags.get(carried.RESULT, ""), tags.get(carried.CODE, "")


def _check(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", check())
    except (Unknown, Missing) as error:
        return Check(name, "cannot check", str(error))
    except (Differs, MetashotError) as error:
        return Check(name, "fails", str(error))
    except SHAPELESS as error:
        return Check(name, "fails", f"not laid out as metashot writes it ({type(error).__name__}: {error})")


@contextmanager
def _memory(path: Path, fresh: bool) -> Iterator[Memory]:
    """Values that earlier audits computed from bytes; saved for later ones, whatever the verdicts."""
    memory: Memory = {}
    if path.exists() and not fresh:
        try:
            memory = json.loads(path.read_text())
        except ValueError:  # not whole after a loss of power
            memory = {}
    yield memory
    with replacing(path) as partial:
        partial.write_text(json.dumps(memory))
