"""Pictures and texts through a pretrained encoder that lies beside them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import numpy as np

from metashot.data import Form, encoders
from metashot.data.encoders import pictures, sentence_transformers
from metashot.data.files import folders
from metashot.data.kinds import encoded_images, sentences
from metashot.data.kinds.images import BITS
from metashot.errors import MetashotError
from metashot.onboard.inspectors.base import Gathered, SampleInspection
from metashot.onboard.inspectors.pictures import Pictures
from metashot.onboard.inspectors.texts import Texts

NONE = "none"  # as METASHOT_ENCODER: propose none
USUAL = "encoder"  # name of the folder that goes before others
SCALE, STEP = 4, 32  # small pictures are scaled up at most so many times, to a multiple of so many pixels
MOST = 1000  # names beside the data that are looked at
BACKBONE = {"name": "dense"}


def beside(raw: folders.Raw, root: Path, layouts: Sequence[str]) -> str:
    """Path of the encoder to propose: METASHOT_ENCODER, else the only folder beside the data that is one.

    Args:
        raw: Path of the data.
        root: The repository.
        layouts: Layouts of encoders of such samples, as `encoders.layout` names them.

    Returns:
        The path, relative to the repository or absolute; empty if there is none, or more than one.
    """
    if named := os.environ.get(encoders.VARIABLE):
        if named == NONE or _layout(Path(named)) not in layouts:
            return ""
        return named if Path(named).is_absolute() else os.path.relpath(named, root)
    data = root / raw.path
    names = [path.name for path in islice(data.parent.iterdir(), MOST) if path != data and path.is_dir()]
    held = [name for name in sorted(names) if name[0] != "." and _layout(data.parent / name) in layouts]
    chosen = [USUAL] if USUAL in held else held
    return str(Path(raw.path).parent / chosen[0]) if len(chosen) == 1 else ""


@dataclass(frozen=True)
class _Encoded:
    """What inspectors of samples with an encoder share.

    Attributes:
        encoder: Its path; empty before `of` gives it.
        root: The repository.
        known: Section of the data set in params.yaml; empty for new data.
    """

    encoder: str = ""
    root: Path = Path()
    known: Any = None

    @property
    def section(self) -> dict[str, str]:
        """The keys of ``raw`` about it."""
        given = self.known["raw"] if self.known else {}
        named = {"architecture": given["architecture"]} if given.get("architecture") else {}
        raw = encoders.Raw(encoder=given.get("encoder", self.encoder), encoder_md5="")
        held = encoders.contents(encoders.source(raw, self.root), named.get("architecture", ""))
        return {"encoder": raw.encoder, "encoder_md5": encoders.md5_of(held), **named}

    @property
    def folder(self) -> Path:
        """Where it is."""
        return encoders.source(encoders.Raw(encoder=self.encoder, encoder_md5=""), self.root)

    def stated(self, facts: Mapping[str, str]) -> list[str]:
        """Warnings about what every result will state."""
        lines = [
            f"encoder {facts['name']}: every result will state it, and that it may have seen these classes; "
            "prepare.encoder_seen says what is known, METASHOT_ENCODER=none proposes no encoder"
        ]
        if not facts["trained_on"] or "do not name" in facts["trained_on"]:
            lines.append(f"encoder {facts['name']}: say in prepare.encoder_trained_on what it was trained on")
        return lines


@dataclass(frozen=True)
class EncodedPictures(_Encoded, Pictures):
    """Pictures as in `Pictures`, for an encoder of them."""

    source: ClassVar = "encoded_folder"

    def gather(self, raw: folders.Raw, root: Path, known: Mapping[str, Any]) -> Gathered:
        """See `Inspector.gather`."""
        gathered = Pictures.gather(self, raw, root, known)
        return gathered._replace(raw={**gathered.raw, **self.section})

    def warnings(self, samples: Mapping[str, SampleInspection]) -> Sequence[str]:
        """See `Inspector.warnings`."""
        lines = list(Pictures.warnings(self, samples))
        if self.known:
            return lines
        about = pictures.family(self.folder).about(self.folder)
        return [*lines, *self.stated(encoders.facts(self.folder, encoders.Statements(), *about))]

    def detected(self, samples: Sequence[SampleInspection]) -> tuple[dict[str, Any], str]:
        """See `Inspector.detected`. Small pictures are scaled to less than the encoder's own size."""
        bits = max((sample.facts.bits for sample in samples), default=0)
        prepare = {"bits": bits} if bits else {}
        if not self.known and samples:
            side = median(median(sample.facts.size) for sample in samples)
            size = int(-(-SCALE * side // STEP) * STEP)
            prepare["image_size"] = size if size < self._look["image_size"] else 0
        return prepare, "colour"

    def defaults(self, prepare: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """See `Inspector.defaults`."""
        width = self.known["prepare"]["width"] if self.known else self._width(prepare.get("image_size", 0))
        stated = {"fit": "crop", "encoder_trained_on": "", "encoder_seen": ""}
        return {"prepare": {"width": width, **stated}, "backbone": BACKBONE, "augment": {}}

    @cached_property
    def _look(self) -> dict[str, Any]:
        return pictures.look(self.folder)

    def _width(self, image_size: int) -> int:
        """Numbers of a vector, by encoding a picture."""
        look = {**self._look, **({"image_size": image_size} if image_size else {})}
        decoding = {"md5": encoders.place(self.folder), **look, "fit": "crop", "bits": BITS[-1]}
        size = look["image_size"]
        return _width([np.zeros((3, size, size), np.uint8)], encoded_images, decoding)


@dataclass(frozen=True)
class EncodedTexts(_Encoded, Texts):
    """Texts as in `Texts`, for a sentence encoder."""

    source: ClassVar = "sentence_table"

    def gather(self, raw: folders.Raw, root: Path, known: Mapping[str, Any]) -> Gathered:
        """See `Inspector.gather`."""
        gathered = Texts.gather(self, raw, root, known)
        return gathered._replace(raw={**gathered.raw, **self.section})

    def warnings(self, samples: Mapping[str, SampleInspection]) -> Sequence[str]:
        """See `Inspector.warnings`."""
        if self.known:
            return []
        about = sentence_transformers.about(self.folder)
        return self.stated(encoders.facts(self.folder, encoders.Statements(), *about))

    def defaults(self, prepare: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """See `Inspector.defaults`."""
        width = (
            self.known["prepare"]["width"]
            if self.known
            else _width(["a text"], sentences, {"md5": encoders.place(self.folder)})
        )
        stated = {"encoder_trained_on": "", "encoder_seen": ""}
        return {"prepare": {"width": width, **stated}, "backbone": BACKBONE, "augment": {}}


def of(inspector: Any, raw: folders.Raw, root: Path, known: Mapping[str, Any] | None) -> Any:
    """The inspector of samples with an encoder for one encoder; others as they are."""
    if known and isinstance(inspector, _Encoded):
        return replace(inspector, encoder=known["raw"]["encoder"], root=root, known=known)
    for plain, layouts, encoded in (
        (Pictures, ("timm", "torchvision"), EncodedPictures),
        (Texts, ("sentence_transformers",), EncodedTexts),
    ):
        if not known and type(inspector) is plain and (encoder := beside(raw, root, layouts)):
            return encoded(encoder=encoder, root=root)
    return inspector


def _layout(folder: Path) -> str | None:
    marks = ("modules.json", "config.json", encoders.ARCHITECTURE)
    if not any((folder / name).is_file() for name in marks):  # others may be large
        return None
    try:
        return encoders.layout(encoders.contents(folder))
    except MetashotError:
        return None


def _width(samples: Sequence[Any], kind: Any, decoding: Mapping[str, Any]) -> int:
    """Numbers of a vector; how many, the error about another width would say."""
    form = Form("any", (1,), "float32", decoding)
    width: int = kind.vectors(samples, form).shape[1]
    return width
