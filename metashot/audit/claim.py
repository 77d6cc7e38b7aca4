"""A registered version as MLflow describes it, with the evidence in git and DVC."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from metashot.audit.evidence import Evidence
from metashot.audit.trees import Tree
from metashot.audit.verdict import Differs, Unknown
from metashot.errors import MetashotError
from metashot.lineage.document import Document
from metashot.lineage.lockfile import Cell
from metashot.lineage.record import Point, Record, points
from metashot.project.entries import Entry
from metashot.registry import carried, tracking
from metashot.registry.versions import Registered


class Claim:
    """A registered version to be checked.

    Args:
        evidence: What it is held against.
        version: The version.
        twins: The names of all versions of its result and code.
        signers: Folder of trusted public keys.
    """

    def __init__(self, evidence: Evidence, version: Registered, twins: Sequence[str], signers: Path) -> None:
        self.evidence, self.version, self.twins, self.signers = evidence, version, twins, signers
        self.held = evidence.held

    @cached_property
    def document(self) -> Document:
        """The lineage that its run carries."""
        try:
            return self.version.lineage
        except MetashotError as error:
            raise Differs(str(error)) from None

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """The stages of the lineage."""
        try:
            return self.document.entries(tracking.LINEAGE_FILE, "`metashot publish`")
        except MetashotError as error:
            raise Differs(str(error)) from None

    @cached_property
    def cell(self) -> Cell:
        """Training and evaluation of the lineage."""
        document = self.document
        train, evaluate = (self.entries[document.address(stage)] for stage in ("train", "evaluate"))
        return Cell(document.dataset, document.setting, document.method, train, evaluate)

    @property
    def outputs(self) -> dict[str, str]:
        """DVC's digest of every output of the stages, by path."""
        return {str(out["path"]): str(out["md5"]) for entry in self.entries.values() for out in entry.outs}

    @property
    def records(self) -> Iterator[tuple[Entry, str, Record]]:
        """Training and evaluation: the stage, where its record lies, and the record in the lineage."""
        yield self.cell.train, self.cell.train_record, self.document.training
        yield self.cell.evaluate, self.cell.evaluate_record, self.document.evaluation

    @property
    def trees(self) -> Iterator[Tree]:
        """The trees that training and evaluation ran in, as far as they were recorded."""
        for stage, _, record in self.records:
            if record.git.commit:
                yield record.git.commit, self.held.patch(stage) if record.git.dirty else None

    @property
    def code(self) -> str:
        """Digest of the code that the version says it carries."""
        return str(self.version.entry.tags[carried.CODE])

    @cached_property
    def weights(self) -> dict[str, str]:
        """The md5 of each file of the model that DVC has."""
        return self.held.listing(self.cell.weights)

    @cached_property
    def encoder(self) -> dict[str, str]:
        """The md5 of each file of a pretrained encoder that the model carries, which DVC has."""
        held = self.document.encoder
        return carried.encoder(self.document, {name: self.held.path(md5) for name, md5 in held.items()})

    @cached_property
    def described(self) -> carried.Files:
        """The other files of the registered model, as publish writes them of git, DVC and MLflow's ids."""
        model, kind = self.version.model, self.document.origin.kind
        parts, trees = carried.parts(kind, self.cell), list(self.trees)
        try:
            code = self.evidence.trees.code(self.code, kind, parts, trees)
        except Differs as error:
            if str(self.version.entry.tags.get(tracking.PUBLISHER)).endswith("(changed)"):
                raise Unknown(f"{error}; it was published from uncommitted code: commit that") from None
            raise
        created = model.model_id, self.version.entry.run_id, model.creation_timestamp
        return carried.described(code, self.document, *created)

    @cached_property
    def journal(self) -> list[Point]:
        """The points of the training's journal."""
        return points(self.held.content(self.cell.train, self.cell.journal), self.cell.journal)
