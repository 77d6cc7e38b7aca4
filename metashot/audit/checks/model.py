"""Checks of what MLflow registers: version, run and logged model, the model's files, card and signature."""

import hashlib
from itertools import zip_longest

from metashot import untrusted
from metashot.audit.claim import Claim
from metashot.audit.verdict import Differs, Unknown, same
from metashot.errors import MetashotError
from metashot.registry import carried, runs, signing, tracking
from metashot.results import cards


def registry(claim: Claim) -> str:
    """Version, run and logged model are of one result, and labelled as it is."""
    document = claim.document
    entry, run, model = claim.version.entry, claim.version.run, claim.version.model
    labels = {**cards.labels(document), carried.RESULT: document.result}
    same("registered model", entry.name, document.name)
    holders = {
        "version": (entry.tags, labels),
        "logged model": (model.tags, {**labels, carried.CODE: claim.code}),
        "run": (run.data.tags, runs.run_tags(document)),
    }
    for holder, (tags, expected) in holders.items():
        for key, value in expected.items():
            same(f"{key} of the {holder}", tags.get(key), value)
    same("source of the version", claim.version.source, entry.source)
    same("run of the logged model", model.source_run_id, entry.run_id)
    same("name of the run", run.info.run_name, document.method)
    same("status of the run", (run.info.status, run.info.lifecycle_stage), ("FINISHED", "active"))
    if len(claim.twins) > 1:
        raise Differs(f"the same result and code are registered twice: {', '.join(claim.twins)}")
    _decided(claim)
    return f"{labels['method']}, {labels['accuracy']}, {labels['data']}"


def files(claim: Claim) -> str:
    """The files of the registered model are the ones that publish writes, and no others."""
    entry, weights = claim.version.entry, claim.weights
    same("files of the model in the lineage", claim.document.model, weights)
    try:
        folder = claim.version.folder
        sizes = carried.sizes(folder, {**weights, **claim.encoder})
    except untrusted.Refused as error:
        raise Differs(f"the registered model: {error}") from None
    except (MetashotError, OSError) as error:
        raise Unknown(str(error)) from None
    expected = {**claim.described, carried.META: carried.meta(entry.name, entry.version)}
    for name, content in expected.items():
        registered = untrusted.read(folder, name, max(len(content), untrusted.DOCUMENT))
        if name != carried.META or registered not in carried.metas(entry.name, entry.version):
            _equal(name, registered, content)
    outs = claim.cell.train.outs
    largest = next(int(out["size"]) for out in outs if out["path"] == claim.cell.model)
    for name, md5 in weights.items():
        if (size := sizes[f"{carried.ARTIFACTS}/{name}"]) > largest:
            raise Differs(f"size of {name} of the registered model is {size:,} bytes, more than DVC has")
        with untrusted.opened(folder, f"{carried.ARTIFACTS}/{name}") as file:
            same(f"{name} of the registered model", hashlib.file_digest(file, "md5").hexdigest(), md5)
    for name, md5 in claim.encoder.items():
        path = f"{carried.ARTIFACTS}/{name}"
        same(f"size of {name} of the registered model", sizes[path], claim.held.path(md5).stat().st_size)
        with untrusted.opened(folder, path) as file:
            same(f"{name} of the registered model", hashlib.file_digest(file, "md5").hexdigest(), md5)
    digest = carried.files_digest(claim.described, {**weights, **claim.encoder})
    for holder, tags in (("version", entry.tags), ("logged model", claim.version.model.tags)):
        same(f"{tracking.FILES} of the {holder}", tags.get(tracking.FILES), digest)
    return f"{len(sizes)} files are what publish writes, the code is {claim.code[:12]}"


def card(claim: Claim) -> str:
    """What people read is what metashot writes of this lineage."""
    expected = cards.model_card(claim.document)
    shown = {
        "version": claim.version.entry.description,
        "run": claim.version.run.data.tags.get(tracking.NOTE),
        "logged model": claim.version.model.tags.get(tracking.NOTE),
    }
    for holder, text in shown.items():
        if (text or "").strip() != expected.strip():
            raise Differs(f"the card of the {holder} is not what this metashot writes: `metashot publish`")
    return f"{len(expected):,} characters"


def signature(claim: Claim) -> str:
    """If it is signed, the signature is by a trusted key and over this lineage."""
    path = signing.path(claim.held.root, claim.document, claim.code)
    if not path.exists():
        if others := sorted(path.parent.glob(f"{claim.document.result}*.json")):
            raise Unknown(
                f"{others[0].name} signs this result, but not with the code of this version: "
                f"`metashot sign {claim.version.name}`"
            )
        return "not signed"
    try:
        return f"signed by {signing.verify(path, claim.document, claim.described, claim.signers)}"
    except MetashotError as error:
        raise Differs(str(error)) from None


def _decided(claim: Claim) -> None:
    """A version that names a decision was made champion by it."""
    named = claim.version.entry.tags.get(tracking.DECISION)
    if named is None:
        return
    decisions = claim.evidence.decisions
    if named not in [md5 for _, md5 in decisions.all(claim.document.name)]:
        raise Differs(f"{tracking.DECISION} of the version is {named[:12]}, which no dvc.lock here names")
    champion = decisions.read(named).champion
    same(f"champion of decision {named[:12]}", champion.model if champion else None, claim.cell.weights)


def _equal(name: str, content: bytes, expected: bytes) -> None:
    """Compare a file of a registered model whole; the message says where a text differs first."""
    if content == expected:
        return
    if name == carried.ZIP:
        raise Differs(f"{name} of the registered model is not the code that it names")
    pairs = zip_longest(*(text.decode(errors="replace").splitlines() for text in (content, expected)))
    for number, (one, other) in enumerate(pairs, 1):
        if one != other:
            one, other = (None if line is None else ascii(line.strip()) for line in (one, other))
            same(f"line {number} of {name} of the registered model", one, other)
    raise Differs(f"{name} of the registered model has other line endings than publish writes")
