"""Kinds of data of one's own, a module each: how samples are gathered and looked at, and what is proposed."""

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

from metashot.data.files import folders, tables
from metashot.data.sources import series_table, text_table
from metashot.errors import MetashotError
from metashot.onboard import channels
from metashot.onboard.looks.base import Gathered, Inspector, Look
from metashot.onboard.looks.pictures import Pictures
from metashot.onboard.looks.series import Series
from metashot.onboard.looks.sounds import Sounds
from metashot.onboard.looks.texts import Texts, named_columns

__all__ = [
    "OF_SOURCE",
    "PICTURES",
    "SERIES",
    "SOUNDS",
    "TEXTS",
    "Gathered",
    "Inspector",
    "Look",
    "count",
    "kind_of",
]

PICTURES, SOUNDS, TEXTS, SERIES = Pictures(), Sounds(), Texts(), Series()
OF_SOURCE: Mapping[str, Inspector] = {kind.source: kind for kind in (PICTURES, SOUNDS, TEXTS, SERIES)} | {
    "sentence_table": TEXTS
}


def kind_of(raw: folders.Raw, root: Path) -> Inspector:
    """The kind of most files in a folder or zip, or of a table. Raises as `Inspector.gather`."""
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
        if (columns := named_columns(schema.names)) and columns[0] in texts_:
            return TEXTS
        series_like |= channels.is_series(schema)
    return SERIES if series_like else TEXTS
