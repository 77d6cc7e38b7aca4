"""Kinds of data of one's own: how samples are found and looked at, and what is made of all of them."""

import io
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metashot import channels, nearness
from metashot.data import folders, images, listing, series, series_table, sounds, tables, text_table, texts
from metashot.data.source import Item
from metashot.errors import MetashotError, Mistakes

COLOURED = 16  # levels of 255 between the channels of a pixel that has a colour; JPEG makes a few of grey
SHARE = 0.01  # of the pixels of a coloured picture; of the pictures of a coloured data set
BEYOND = 2  # bits more than most pictures use: one bright spot takes them from all
PROBED = 128  # pixels along a side that are looked at for colour
TINY = 8  # pixels along a side, below which a picture shows little
RATE = 16_000  # Hz, to which sounds of more are brought: what is heard of speech
LONGEST = 2.0  # seconds of a sound that count
WINDOW, HOP = 40.0, 20.0  # ms
LENGTHS = 16, 1024  # of series
PARTS = 6  # of tables, of which each is named
TEXT, LABEL = ("text", "sentence", "utterance", "query", "question"), ("label", "category", "intent", "class")


class Look(NamedTuple):
    """What is seen of one sample."""

    digests: Mapping[str, bytes]
    """Equal for what is the same to a person, by the way it may be prepared."""
    thumbnail: NDArray[np.uint8] | None
    """As `nearness.hashes` takes it; None for what has none."""
    facts: Any
    """Of the kind's own."""


class Gathered(NamedTuple):
    """Samples that were found."""

    contents: folders.Contents
    raw: Mapping[str, Any]
    """Section ``raw`` of params.yaml, all but the digest."""
    listed: bool
    """Whether it is said of every sample which split it is in."""
    look: Callable[[bytes], Look]
    """Look at one. ValueError, saying what it is, where it cannot be used; called from any thread."""
    rows: Mapping[str, str] = {}
    """What a person is shown of how they were found."""


class Kind(Protocol):
    """A kind of samples: how one is looked at, and what is made of all."""

    @property
    def source(self) -> str:
        """The module of `metashot.data` for folders of it."""

    @property
    def noun(self) -> str:
        """What its samples are called."""

    @property
    def suffixes(self) -> Collection[str]:
        """Of the names of its files."""

    def gather(self, raw: folders.Raw, root: Path, known: Mapping[str, Any]) -> Gathered:
        """Find the samples.

        Args:
            raw: Path, and lists of splits.
            root: The repository.
            known: Section ``raw`` of the data set as params.yaml has it; empty without.

        Raises:
            MetashotError: There is nothing that could be looked at.
        """

    def rows(self, looks: Sequence[Look]) -> Mapping[str, str]:
        """What a person is shown of all samples: name and value."""

    def warnings(self, looks: Mapping[str, Look]) -> Sequence[str]:
        """What is strange, but stops nothing."""

    def prepared(self, looks: Sequence[Look]) -> tuple[dict[str, Any], str]:
        """The keys of ``prepare`` that are found out, and which of the digests the pipeline will compare."""

    def defaults(self, prepare: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The sections ``prepare`` (its other keys), ``backbone`` and ``augment`` of params.yaml."""


class _Picture(NamedTuple):
    size: tuple[int, int]
    mode: str
    frames: int
    coloured: bool
    bits: int
    """Of a file of 16 bits those that it uses; 0 for others."""

    @property
    def deep(self) -> bool:
        """Whether it is a file of 16 bits in grey."""
        return self.bits > 0 and self.mode.startswith("I")

    @property
    def crushed(self) -> bool:
        """Whether Pillow, which reads the upper 8 of 16 bits in colour, leaves less than 8 of those used."""
        return 0 < self.bits < images.BITS[-1] and not self.mode.startswith("I")


class Pictures:
    """PNG, JPEG, BMP and WebP files."""

    source: ClassVar = "image_folder"
    noun: ClassVar = "pictures"
    suffixes: ClassVar = images.SUFFIXES

    def gather(self, raw: folders.Raw, root: Path, known: Mapping[str, Any]) -> Gathered:
        """See `Kind.gather`."""
        return _files(raw, root, known, self.suffixes, self.look)

    def look(self, content: bytes) -> Look:
        """Look at a picture; see `Gathered.look`."""
        stored = images.opened(content)
        bits = images.bits_used(stored)
        image = images.shown(stored, colour=True, bits=bits)
        with Image.open(io.BytesIO(content), formats=images.FORMATS) as opened:
            mode, frames = opened.mode, getattr(opened, "n_frames", 1)
        pixels = np.asarray(image)
        steps = [max(1, side // PROBED) for side in pixels.shape[:2]]
        probed = pixels[:: steps[0], :: steps[1]].astype(np.int16)
        coloured = bool((np.ptp(probed, axis=-1) > COLOURED).mean() > SHARE)
        thumbnail = np.asarray(image.resize(nearness.THUMBNAIL, Image.Resampling.BOX))
        digests = {
            "colour": images.digest(stored, image),
            "grey": images.digest(stored, image.convert("L")),
        }
        deep = bits if "deep" in stored.info else 0
        return Look(digests, thumbnail, _Picture(image.size, mode, frames, coloured, deep))

    def rows(self, looks: Sequence[Look]) -> Mapping[str, str]:
        """See `Kind.rows`."""
        found = [look.facts for look in looks]
        sizes = Counter(picture.size for picture in found)
        (width, height), _ = sizes.most_common(1)[0]
        shown = f"{width}x{height}"
        if len(sizes) > 1:
            sides = [sorted(side) for side in zip(*(picture.size for picture in found), strict=True)]
            shown = (
                f"{len(sizes):,} sizes, {sides[0][0]} to {sides[0][-1]} wide, {sides[1][0]} to "
                f"{sides[1][-1]} high, median {median(sides[0]):.0f}x{median(sides[1]):.0f}"
            )
        modes = Counter(picture.mode for picture in found)
        coloured = sum(picture.coloured for picture in found)
        deep = [picture.bits for picture in found if picture.bits]
        bits = (
            {"bits": f"{len(deep):,} of 16, which use {max(deep)}: the upper 8 of those count"}
            if deep
            else {}
        )
        return bits | {
            "sizes": shown,
            "modes": ", ".join(f"{count:,} {mode}" for mode, count in modes.most_common()),
            "colour": f"{'yes' if _colour(looks) else 'no'}: {coloured:,} of {len(found):,} have it",
        }

    def warnings(self, looks: Mapping[str, Look]) -> Sequence[str]:
        """See `Kind.warnings`."""
        found = {name: look.facts for name, look in looks.items()}
        said = {
            f"less than {TINY} pixels wide or high": [n for n, p in found.items() if min(p.size) < TINY],
            "animated: the first picture of each counts": [n for n, p in found.items() if p.frames > 1],
            "of 16 bits in colour, read are the upper 8, but used are lower ones: save them with 8": [
                n for n, p in found.items() if p.crushed
            ],
        }
        if deep := [picture.bits for picture in found.values() if picture.deep]:
            usual, most = int(median(deep)), max(deep)
            left = max(0, images.BITS[0] - (most - usual))
            said[
                f"use up to {most} bits of 16: of the {usual} that most use {left} count; mend or remove them"
            ] = [n for n, p in found.items() if p.deep and p.bits > usual + BEYOND]
        return [f"{count(names, 'pictures')} {why}" for why, names in said.items() if names]

    def prepared(self, looks: Sequence[Look]) -> tuple[dict[str, Any], str]:
        """See `Kind.prepared`. Colour pictures become 32x32 or, where most are larger than 48, 84x84."""
        colour = _colour(looks)
        side = median(median(look.facts.size) for look in looks) if looks else 0
        size = (84 if side > 48 else 32) if colour else 28
        bits = max((look.facts.bits for look in looks), default=0)
        prepare = {"image_size": size, "colour": colour} | ({"bits": bits} if bits else {})
        return prepare, "colour" if colour else "grey"

    def defaults(self, prepare: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """See `Kind.defaults`. Colour pictures are mirrored and shifted; grey ones are taken for drawings."""
        return {
            "prepare": {"rotations": False},
            "backbone": {"name": "conv4", "width": 64, "downsample": "pool"},
            "augment": {"flip": True, "shift": 0.1} if prepare["colour"] else {},
        }


class _Sound(NamedTuple):
    seconds: float
    rate: int
    channels: int
    silent: bool


class Sounds:
    """WAV and FLAC files."""

    source: ClassVar = "audio_folder"
    noun: ClassVar = "sounds"
    suffixes: ClassVar = sounds.SUFFIXES

    def gather(self, raw: folders.Raw, root: Path, known: Mapping[str, Any]) -> Gathered:
        """See `Kind.gather`."""
        return _files(raw, root, known, self.suffixes, self.look)

    def look(self, content: bytes) -> Look:
        """Look at a sound; see `Gathered.look`."""
        about = sounds.about(content)
        prepare = self._prepare(about.rate, about.seconds)
        form = sounds.Prepare(**prepare).form
        spectrogram, digest = sounds.decode(content, form)
        silent = not spectrogram.any()
        return Look({"": digest}, None, _Sound(about.seconds, about.rate, about.channels, silent))

    def rows(self, looks: Sequence[Look]) -> Mapping[str, str]:
        """See `Kind.rows`."""
        found = [look.facts for look in looks]
        rates, channels = (
            Counter(values) for values in zip(*((s.rate, s.channels) for s in found), strict=True)
        )
        return {
            "seconds": _range([sound.seconds for sound in found], ".2f"),
            "rates": ", ".join(f"{count:,} of {rate:,} Hz" for rate, count in rates.most_common()),
            "channels": ", ".join(f"{count:,} with {number}" for number, count in channels.most_common()),
        }

    def warnings(self, looks: Mapping[str, Look]) -> Sequence[str]:
        """See `Kind.warnings`."""
        silent = [name for name, look in looks.items() if look.facts.silent]
        return [f"silent: {count(silent, 'sounds')}"] if silent else []

    def prepared(self, looks: Sequence[Look]) -> tuple[dict[str, Any], str]:
        """See `Kind.prepared`."""
        rates = Counter(look.facts.rate for look in looks).most_common(1)
        most = float(np.quantile([look.facts.seconds for look in looks], 0.95)) if looks else LONGEST
        return {
            key: value
            for key, value in self._prepare(rates[0][0] if rates else RATE, most).items()
            if key in ("sample_rate", "seconds")
        }, ""

    def defaults(self, prepare: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """See `Kind.defaults`."""
        whole = self._prepare(prepare["sample_rate"], prepare["seconds"])
        return {
            "prepare": {key: value for key, value in whole.items() if key not in prepare},
            "backbone": {"name": "conv4", "width": 64, "downsample": "pool"},
            "augment": {},
        }

    def _prepare(self, rate: int, seconds: float) -> dict[str, Any]:
        """How sounds of a rate and length are prepared, so that a spectrogram is large enough for Conv-4."""
        return {
            "sample_rate": min(rate, RATE),
            "seconds": float(np.clip(np.ceil(10 * seconds) / 10, 0.4, LONGEST)),
            "mels": 40 if rate >= 8000 else 20,
            "window_ms": WINDOW,
            "hop_ms": HOP,
            "range_db": 80.0,
        }


class Texts:
    """Tables of labelled texts; see `text_table`."""

    source: ClassVar = "text_table"
    noun: ClassVar = "texts"
    suffixes: ClassVar = text_table.SUFFIXES

    def gather(self, raw: folders.Raw, root: Path, known: Mapping[str, Any]) -> Gathered:
        """See `Kind.gather`; columns and parts are those that params.yaml knows already, if it does."""
        said: dict[str, Any] = {"path": raw.path, "parts": [], "text": "", "label": "", "groups": ""}
        said |= {key: known[key] for key in said if key in known}
        said["splits"] = raw.splits
        parts = Counter[str]()
        mistakes, labels = Mistakes(), tables.Labels()
        try:
            entries = []
            for where, entry in text_table.entries(raw, root, said["parts"], mistakes):
                entries.append(entry)
                parts[where.rpartition(": ")[0]] += 1
            if not entries:
                mistakes.refuse()
            if not said["text"]:
                said["text"], said["label"] = _columns(raw.path, entries)
            contents = text_table.contents(text_table.Raw(**said, md5=""), root, labels)
        except MetashotError as error:
            lines = mistakes.lines or [str(error)]
            return Gathered(folders.Contents({}, Counter(), 0, lines), said, bool(raw.splits), self.look)
        samples, lines = contents.samples, [*contents.mistakes] or _few_classes(raw.path, contents.samples)
        shown = {
            "columns": f"{said['text']} and {said['label']}",
            "rows": _rows(parts),
        }
        if labels.merged:
            shown["merged"] = labels.merged
        if not contents.mistakes:
            shown["repeated"] = f"{parts.total() - len(samples):,} rows are in their class already"
        return Gathered(
            folders.Contents(samples, Counter(), 0, lines), said, bool(raw.splits), self.look, shown
        )

    def look(self, content: bytes) -> Look:
        """Look at a text; see `Gathered.look`."""
        text = content.decode()
        normalised = texts.normalised(text)
        if not normalised:
            raise ValueError("empty")
        return Look({"": texts.digest(normalised)}, None, text)

    def rows(self, looks: Sequence[Look]) -> Mapping[str, str]:
        """See `Kind.rows`."""
        return {"words": _range([len(look.facts.split()) for look in looks], ",.0f")}

    def warnings(self, looks: Mapping[str, Look]) -> Sequence[str]:
        """See `Kind.warnings`."""
        return []

    def prepared(self, looks: Sequence[Look]) -> tuple[dict[str, Any], str]:
        """See `Kind.prepared`."""
        return {}, ""

    def defaults(self, prepare: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """See `Kind.defaults`."""
        return {
            "prepare": {"length": 256, "words": 2, "shortest": 3, "longest": 5},
            "backbone": {"name": "ngrams", "buckets": 4096, "width": 256, "drop_rate": 0.5},
            "augment": {},
        }


class Series:
    """Tables of series: files with the columns id and label, and others of numbers; see `series_table`."""

    source: ClassVar = "series_table"
    noun: ClassVar = "series"
    suffixes: ClassVar = series_table.SUFFIXES

    def gather(self, raw: folders.Raw, root: Path, known: Mapping[str, Any]) -> Gathered:
        """See `Kind.gather`; channels are all columns of numbers that have no other meaning."""
        if raw.splits:
            raise MetashotError("--splits: series say their split in a column `split`")
        found = series_table.local(raw, root)
        columns = channels.columns_of(found, raw.path)
        division: folders.Division = (
            "listed" if columns.listed else folders.Shares(of="classes", seed=0, val=0.1, test=0.1)
        )
        prepare = series_table.Prepare(
            channels=columns.channels,
            length=LENGTHS[0],
            fit="crop",
            standardise="none",
            repeated="refuse",
            split=division,
        )
        samples: listing.Found = {}
        mistakes, labels = Mistakes(), tables.Labels()
        items: dict[str, Item] = {}
        for name, read in found.items():
            origin, suffix = series_table.origin_of(raw.path, name), series_table.kind_of(name)
            try:
                for item in series_table.of_table(read(), origin, suffix, prepare, labels, mistakes):
                    split, superclass, class_, id_ = item.key
                    series_table.again(items.setdefault(id_, item), item, mistakes)
                    place = (split, superclass, class_, id_) if columns.listed else (class_, id_)
                    samples["/".join(part.replace("/", "|") for part in place)] = item.read
            except MetashotError as error:
                mistakes.add_line(error)
        classes = {name.split("/")[-2] for name in samples}
        lines = [*mistakes.lines, *folders.indistinct(raw.path, classes)] or _few_classes(raw.path, samples)
        shown = {"channels": ", ".join(columns.channels)}
        if columns.left_out:
            shown["left out"] = "; ".join(
                f"{name or 'a column without a name'} ({why})" for name, why in columns.left_out.items()
            )
        if labels.merged:
            shown["merged"] = labels.merged
        return Gathered(
            folders.Contents(dict(sorted(samples.items())), Counter(), 0, lines),
            {"path": raw.path},
            columns.listed,
            partial(self.look, prepare),
            shown,
        )

    def look(self, prepare: series_table.Prepare, content: bytes) -> Look:
        """Look at a series; see `Gathered.look`."""
        _, digest = series.decode(content, prepare.form)
        steps = len(content) // (8 * len(prepare.channels))
        return Look({"": digest}, None, (steps, prepare.channels))

    def rows(self, looks: Sequence[Look]) -> Mapping[str, str]:
        """See `Kind.rows`."""
        return {"steps": _range([look.facts[0] for look in looks], ",.0f")}

    def warnings(self, looks: Mapping[str, Look]) -> Sequence[str]:
        """See `Kind.warnings`."""
        return []

    def prepared(self, looks: Sequence[Look]) -> tuple[dict[str, Any], str]:
        """See `Kind.prepared`."""
        steps = median(look.facts[0] for look in looks) if looks else LENGTHS[0]
        channels = list(looks[0].facts[1]) if looks else []
        return {"channels": channels, "length": int(np.clip(round(steps), *LENGTHS))}, ""

    def defaults(self, prepare: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """See `Kind.defaults`."""
        return {
            "prepare": {"fit": "crop", "standardise": "series"},
            "backbone": {"name": "conv1d", "width": 64, "kernel": 5},
            "augment": {},
        }


PICTURES, SOUNDS, TEXTS, SERIES = Pictures(), Sounds(), Texts(), Series()
OF_SOURCE: Mapping[str, Kind] = {kind.source: kind for kind in (PICTURES, SOUNDS, TEXTS, SERIES)} | {
    "sentence_table": TEXTS
}


def kind_of(raw: folders.Raw, root: Path) -> Kind:
    """The kind that most files in a folder or zip are of, or the kind of a table. Raises as `Kind.gather`."""
    path = root / raw.path
    of_tables = {*TEXTS.suffixes, *SERIES.suffixes}
    tables.refuse_other(path, raw.path, {*of_tables, *PICTURES.suffixes, *SOUNDS.suffixes})
    counts: Counter[str] = Counter()
    if path.is_file() and path.suffix.lower() in of_tables:
        counts[path.suffix.lower()] = 1
    else:
        counts.update(folders.by_suffix(raw, root))

    def files(suffixes: Collection[str]) -> int:
        return sum(counts[suffix] for suffix in suffixes)

    if files(PICTURES.suffixes) or files(SOUNDS.suffixes):
        return PICTURES if files(PICTURES.suffixes) >= files(SOUNDS.suffixes) else SOUNDS
    if not files(of_tables):
        if {*counts} - {"hidden"}:
            raise MetashotError(
                f"{raw.path}: holds {folders.passed_by(counts)}, none of them data: pictures are read as "
                f"PNG, JPEG, BMP or WebP, sounds as WAV or FLAC, series as {series_table.FORMATS}, texts as "
                f"{text_table.FORMATS}"
            )
        return PICTURES
    if files(tables.JSON):
        return TEXTS
    series_like = False
    for name, read in folders.local(raw, root, SERIES.suffixes).items():
        try:
            schema = series_table.schema(read(), name, series_table.kind_of(name))
        except MetashotError:
            continue
        texts_ = [field.name for field in schema if series_table.is_text(field.type)]
        if (columns := _named(schema.names)) and columns[0] in texts_:
            return TEXTS
        series_like |= channels.is_series(schema)
    return SERIES if series_like else TEXTS


def count(names: Sequence[str], noun: str) -> str:
    """How many, and the first of them."""
    return f"{len(names):,} {noun} ({names[0]!r}{', ...' if len(names) > 1 else ''})"


def _files(
    raw: folders.Raw,
    root: Path,
    known: Mapping[str, Any],
    suffixes: Collection[str],
    look: Callable[[bytes], Look],
) -> Gathered:
    """Files in class folders, or with their class in their name where params.yaml knows how."""
    pattern = raw.label or known.get("label")
    label = {"label": pattern} if pattern else {}
    raw = folders.Raw(path=raw.path, splits=raw.splits, md5="", **label)
    said = {"path": raw.path, "splits": raw.splits, **label}
    return Gathered(folders.contents(raw, root, suffixes), said, bool(raw.splits), look)


def _few_classes(path: str, samples: Mapping[str, object]) -> list[str]:
    classes = {name.rpartition("/")[0] for name in samples}
    return [f"{path}: classes: {len(classes)}; an episode needs at least two"] if len(classes) < 2 else []


def _columns(path: str, entries: Sequence[Any]) -> tuple[str, str]:
    """Which columns of a table hold texts and labels: by their names, or the two that there are."""
    if all(isinstance(entry, list) and len(entry) == 2 for entry in entries):
        return "text", "label"
    columns = sorted({key for entry in entries if isinstance(entry, Mapping) for key in entry if key})
    if found := _named(columns):
        return found
    raise MetashotError(
        f"{path}: which columns are texts and labels? (there are {tables.named(columns) or 'none'}): name "
        f"them {TEXT[0]} and {LABEL[0]}; a table of series has id, label and columns of numbers"
    )


def _named(columns: Sequence[str]) -> tuple[str, str] | None:
    """Which columns are texts and labels by their names: both, or one of the two that there are."""
    columns = [column for column in dict.fromkeys(columns) if not tables.INDEX.fullmatch(column)]
    text, label = (
        next((column for name in names for column in columns if column.lower() == name), None)
        for names in (TEXT, LABEL)
    )
    if len(columns) == 2 and bool(text) != bool(label):
        (other,) = {*columns} - {text, label}
        return text or other, label or other
    return (text, label) if text and label else None


def _rows(parts: Mapping[str, int]) -> str:
    """How many rows are in each part; where there are many parts, in all."""
    if len(parts) > PARTS:
        return f"{sum(parts.values()):,} in {len(parts):,} files or parts"
    return ", ".join(f"{number:,} in {part}" for part, number in parts.items())


def _range(values: Sequence[float], form: str) -> str:
    return f"{min(values):{form}} to {max(values):{form}}, median {median(values):{form}}"


def _colour(looks: Sequence[Look]) -> bool:
    return bool(sum(look.facts.coloured for look in looks) > SHARE * len(looks))
