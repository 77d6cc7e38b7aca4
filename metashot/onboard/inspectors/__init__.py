"""Inspectors, one module for each kind of data: gather and inspect samples, and propose parameters."""

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

from metashot.data.files import columnar, folders, local, tables
from metashot.data.sources import series_table, text_table
from metashot.errors import MetashotError
from metashot.onboard import channels
from metashot.onboard.inspectors.base import Gathered, Inspector, SampleInspection
from metashot.onboard.inspectors.encoded import EncodedPictures, EncodedTexts
from metashot.onboard.inspectors.pictures import Pictures
from metashot.onboard.inspectors.series import Series
from metashot.onboard.inspectors.sounds import Sounds
from metashot.onboard.inspectors.texts import Texts, named_columns
from metashot.onboard.inspectors.vectors import Vectors, is_vectors

__all__ = [
    "OF_SOURCE",
    "PICTURES",
    "SERIES",
    "SOUNDS",
    "TEXTS",
    "VECTORS",
    "Gathered",
    "Inspector",
    "SampleInspection",
    "choose",
]

PICTURES, SOUNDS, TEXTS, SERIES, VECTORS = Pictures(), Sounds(), Texts(), Series(), Vectors()
OF_SOURCE: Mapping[str, Inspector] = {
    inspector.source: inspector for inspector in (PICTURES, SOUNDS, TEXTS, SERIES, VECTORS)
} | {"encoded_folder": EncodedPictures(), "sentence_table": EncodedTexts()}


def choose(raw: folders.Raw, root: Path) -> Inspector:
    """The inspector for the kind of most files at a path. Raises MetashotError as `Inspector.gather` does."""
    path = root / raw.path
    of_tables = {*TEXTS.suffixes, *SERIES.suffixes}
    tables.refuse_other(path, raw.path, {*of_tables, *PICTURES.suffixes, *SOUNDS.suffixes})
    counts: Counter[str] = Counter()
    if path.is_file() and path.suffix.lower() in of_tables:
        counts[path.suffix.lower()] = 1
    else:
        counts.update(local.count_suffixes(raw.path, root))

    def total(suffixes: Collection[str]) -> int:
        return sum(counts[suffix] for suffix in suffixes)

    if total(PICTURES.suffixes) or total(SOUNDS.suffixes):
        return PICTURES if total(PICTURES.suffixes) >= total(SOUNDS.suffixes) else SOUNDS
    if not total(of_tables):
        if {*counts} - {"hidden"}:
            raise MetashotError(
                f"{raw.path}: only {local.describe_ignored(counts)}, none of them data: pictures are read "
                f"as PNG, JPEG, BMP or WebP, sounds as WAV or FLAC, series as {series_table.FORMATS}, texts "
                f"as {text_table.FORMATS}"
            )
        return PICTURES
    if total(tables.JSON):
        return TEXTS
    has_series = False
    for name, read in local.samples(raw.path, root, SERIES.suffixes).items():
        try:
            content = read()
            schema = columnar.schema(content, name, columnar.suffix_of(name))
            if is_vectors(content, name, schema):
                return VECTORS
        except MetashotError:  # inspecting the table says what is wrong with it
            continue
        text_columns = [field.name for field in schema if columnar.is_text(field.type)]
        if (columns := named_columns(schema.names)) and columns[0] in text_columns:
            return TEXTS
        has_series |= channels.is_series(schema)
    return SERIES if has_series else TEXTS
